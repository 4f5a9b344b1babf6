package e2e_test

import "testing"

// TestConfigsAreRead starts the binaries with the example files, as far as
// their names and values are concerned: a bad one is exit 2.
func TestConfigsAreRead(t *testing.T) {
	t.Parallel()
	for bin, args := range map[string][]string{
		hubBin:   {"serve", "--config", "../../configs/hub.yaml", "--data", "/dev/null/none"},
		agentBin: {"run", "--config", "../../configs/agent.yaml", "--data", "/dev/null/none"},
	} {
		if out, code := command(t, bin, args...); code != 1 {
			t.Errorf("%v: exit %d, want 1 for the data directory and nothing else: %s", args, code, out)
		}
	}
}
