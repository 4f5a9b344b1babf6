package e2e_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestAlertsHaveCures: the operations page tells what to do about each alert.
func TestAlertsHaveCures(t *testing.T) {
	t.Parallel()
	rules, err := os.ReadFile("../../deploy/monitoring/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../deploy/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, cures, found := strings.Cut(string(page), "## Alerts and their cures")
	alerts := regexp.MustCompile(`(?m)^ +- alert: (\w+)$`).FindAllStringSubmatch(string(rules), -1)
	if !found || len(alerts) < 10 {
		t.Fatalf("%d alerts, cures found: %t", len(alerts), found)
	}
	for _, a := range alerts {
		if !strings.Contains(cures, a[1]) {
			t.Errorf("no cure for %s", a[1])
		}
	}
}
