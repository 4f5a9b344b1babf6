package powerloss_test

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"github.com/sapflow/sapflow/shared/bench/internal/lab"
	"github.com/sapflow/sapflow/shared/bench/internal/powerloss"
)

// TestMain is also the processes that a run starts of its own program.
func TestMain(m *testing.M) {
	commands := map[string]func(context.Context, []string) error{
		powerloss.AlterCommand: powerloss.Alter, powerloss.PeerCommand: powerloss.RunPeer,
	}
	if len(os.Args) > 1 && commands[os.Args[1]] != nil {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		if err := commands[os.Args[1]](ctx, os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// TestPowerLoss pulls the plug at 30 moments of a short run: nothing acked is
// lost, whatever the disk kept.
func TestPowerLoss(t *testing.T) {
	bin := t.TempDir()
	if err := lab.Build(t.Context(), "../../../..", bin); err != nil {
		t.Fatal(err)
	}
	const images, seed = 30, 1
	r, err := powerloss.Try(t.Context(), powerloss.Config{
		Bin: bin, Images: images, Turns: 6, Seed: seed, Progress: t.Output(),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.Sapflow.Faults {
		t.Error(f)
	}
	t.Logf("tried %+v", r.Sapflow)
	if s := r.Sapflow; s.Images != images || s.Both == 0 || s.Twice == 0 || s.Removed == 0 || s.Checked < images*10 || len(s.ByModel) != 3 {
		t.Errorf("tried %+v", s)
	}
}
