package demo

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// printer prints steps and checks.
type printer struct {
	io.Writer
	step   int
	failed int
}

func (p *printer) heading(text string) {
	p.step++
	fmt.Fprintf(p, "\n%d  %s\n", p.step, text)
}

// check prints what holds, or what does not.
func (p *printer) check(ok bool, format string, args ...any) {
	sign := "✓"
	if !ok {
		sign = "✗"
		p.failed++
	}
	fmt.Fprintf(p, "   %s %s\n", sign, fmt.Sprintf(format, args...))
}

func (p *printer) notef(format string, args ...any) {
	fmt.Fprintf(p, "     %s\n", fmt.Sprintf(format, args...))
}

// num returns a count with a comma every three digits.
func num[N int | int64 | uint64](n N) string {
	digits := strconv.FormatUint(uint64(n), 10)
	var b strings.Builder
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	return b.String()
}

// span returns a duration that people read.
func span(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}
