package cli

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/sapflow/sapflow/shared/api"
)

func statusRows(s *api.Status) [][]string {
	link := "not connected"
	if s.Connected {
		link = "connected"
	}
	if s.Link != "" {
		link += ", " + s.Link
	}
	rows := [][]string{
		{"node", s.ID},
		{"version", s.Version},
		{"listen", s.Listen},
	}
	for i, piece := range pieces(link) {
		name := "link"
		if i > 0 {
			name = " "
		}
		rows = append(rows, []string{name, piece})
	}
	rows = append(rows, [][]string{
		{"backlog", fmt.Sprintf("%d points", s.BacklogPoints)},
		{"sent", sizeText(s.TxBytes)},
		{"received", sizeText(s.RxBytes)},
		{"this month", MonthText(s.MonthBytes, s.MonthForecast)},
		{"line", lineText(s)},
		{"store", sizeText(s.StoreBytes)},
		{"at risk", s.LossWindow},
	}...)
	for _, class := range slices.Sorted(maps.Keys(s.LinkBytes)) {
		rows = append(rows, []string{class, sizeText(s.LinkBytes[class])})
	}
	for _, name := range slices.Sorted(maps.Keys(s.Counters)) {
		rows = append(rows, []string{name, strconv.Itoa(s.Counters[name])})
	}
	return rows
}

// pieces cuts a text between words so that each piece fits a cell.
func pieces(text string) (list []string) {
	at := -1
	for _, word := range strings.Fields(text) {
		if at < 0 || len(list[at])+1+len(word) > maxCell {
			list, at = append(list, word), at+1
			continue
		}
		list[at] += " " + word
	}
	return list
}

// MonthText tells what a line has carried this month, both ways, and what it
// will have.
func MonthText(used, forecast uint64) string {
	return fmt.Sprintf("%s, %s by the end of it", sizeText(used), sizeText(forecast))
}

func lineText(s *api.Status) string {
	if s.Rate == 0 {
		return "not measured yet"
	}
	return fmt.Sprintf("%.0f kbit/s, %d ms there and back", float64(s.Rate)*8/1000, s.RoundTrip)
}

// sizeText returns a number of bytes in its largest unit.
func sizeText(n uint64) string {
	const unit = 1000
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/unit, 0
	for ; v >= unit && i < 3; i++ {
		v /= unit
	}
	return fmt.Sprintf("%.1f %cB", v, "kMGT"[i])
}
