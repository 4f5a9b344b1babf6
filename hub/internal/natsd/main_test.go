package natsd_test

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain checks that whatever is started is also stopped.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
