package sandbox

import (
	"testing"
	"time"
)

// Where the suite runs, as in CI, all of it is there.
func TestProbe(t *testing.T) {
	began := time.Now()
	r := Probe()
	t.Logf("in %v", time.Since(began))
	for _, f := range r.Findings() {
		if t.Logf("%s: %s", f.Name, f.Text); !f.OK {
			t.Errorf("%s: %s", f.Name, f.Text)
		}
	}
}
