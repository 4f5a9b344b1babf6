package powerloss

import (
	"fmt"
	"strings"

	"github.com/sapflow/sapflow/shared/bench/internal/report"
)

// Markdown returns the results as a table.
func (r *Results) Markdown() string {
	var w strings.Builder
	s := &r.Sapflow
	fmt.Fprintf(&w, "\n%s; seed %d.\n\n", r.Machine, r.Seed)
	fmt.Fprint(&w, "| | images | no start or unreadable | stream missing at start | lost acked points | of those acked, median | other faults |\n|---|---|---|---|---|---|---|\n")
	kinds := map[string]int{}
	for _, f := range s.Faults {
		kinds[f.Kind]++
	}
	fmt.Fprintf(&w, "| Sapflow, gateway (hub killed, or without power too) | %d | %d | made again by itself | %d | - | %d |\n",
		s.Images, kinds[errStart.Error()], kinds[errLost.Error()], len(s.Faults)-kinds[errStart.Error()]-kinds[errLost.Error()])
	for _, p := range r.Peers {
		share := "-"
		if p.Lost > 0 {
			share = fmt.Sprintf("%.0f %%", 100*p.LostShare)
		}
		fmt.Fprintf(&w, "| %s | %d | %d | %d | %d | %s | - |\n", p.What, p.Images, p.Broken, p.Missing, p.Lost, share)
	}
	fmt.Fprintf(&w, notes, report.Whole(s.Operations), report.Whole(s.Acked),
		s.ByModel["dropped"], s.ByModel["torn"], s.ByModel["zeroed"], s.Both, s.Twice, s.Removed, report.Whole(s.Checked))
	return w.String()
}

const notes = `
A hub and a gateway run with their data on a file system that records every write, rename and sync (%s operations at the gateway,
%s acked points): acked and plain writes at both ends, snapshots, clean stops, SIGKILL of either, the hub away, a stream made and one
updated, old frames removed (store.max). An image is what the gateway's disk may hold at a random moment: contents without a sync
dropped (%d images), torn at any byte (%d), or pages of zeros (%d); names as a prefix of one journal, as on ext4. The hub's disk is of the same
moment, killed, in %d images with the power gone as well; %d images are of a second loss, within the start after a first or soon behind;
in %d the gateway had removed frames. Then both start, the gateway writes before it hears of the hub, and it is looked whether all
%s acked points that had to be there (over all images) are in the history of the gateway (of the hub, where it removed them and says so), nothing is there that nobody wrote, no place in a log
(epoch, seq) has two contents, and state and history are equal at both ends. Peers: one record after the other, each acked, a stop and
a start between; what set them up is on the disk before the first moment; a missing stream is made again before its records are counted.
The kernel's own write-back after 30 s is not modelled.
`
