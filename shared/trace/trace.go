// Package trace owns CSV files of points: how their rows are read, which nodes
// they name, and the import of whole files into history.
//
// A trace has the columns time,node,type,key,value in any order, its rows any
// order and repeated times; of rows of one series and time the last one
// counts. Feeding it as a driver would is left to the agent's replay.
package trace

// Refusal is a line that was not taken.
type Refusal struct {
	Line   int    `json:"line"`
	Reason string `json:"reason"`
}

// maxRefusals bounds the refused lines that are told one by one.
const maxRefusals = 5

// Refuse adds a line to the first ones that were refused. Lines may come in
// any order.
func Refuse(list []Refusal, line int, err error) []Refusal {
	at := len(list)
	for at > 0 && list[at-1].Line > line {
		at--
	}
	if at == maxRefusals {
		return list
	}
	list = append(list[:at], append([]Refusal{{line, err.Error()}}, list[at:]...)...)
	return list[:min(len(list), maxRefusals)]
}
