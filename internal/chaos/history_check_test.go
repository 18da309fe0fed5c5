//go:build linux

package chaos

import (
	"slices"
	"testing"

	"modulate/internal/promise"
)

// The checker finds what it is there to find.
func TestCheckHistoryFindsBreaches(t *testing.T) {
	form := func(rev, version uint64, attempt uint32, state promise.State, cause promise.Cause) promise.Record {
		return promise.Record{
			Rev: rev, Task: promise.Task{Version: version}, Attempt: attempt,
			State: state, Outcome: promise.Outcome{Cause: cause},
		}
	}
	created := form(1, 0, 0, promise.Pending, "")
	claimed := form(2, 1, 1, promise.Pending, "")
	settled := form(3, 1, 1, promise.Resolved, promise.CauseOK)
	valued := func(rev uint64, value string) promise.Record {
		rec := form(rev, 1, 1, promise.Resolved, "")
		rec.Protocol = &promise.Protocol{Value: promise.Value{Data: value}}
		return rec
	}
	for name, c := range map[string]struct {
		past  []promise.Record
		wrong int
	}{
		"sound":                {[]promise.Record{created, claimed, settled}, 0},
		"sound, then a mark":   {[]promise.Record{created, claimed, settled, form(4, 1, 1, promise.Resolved, promise.CauseOK)}, 0},
		"a write unseen":       {[]promise.Record{created, settled}, 1},
		"a version that falls": {[]promise.Record{created, claimed, form(3, 0, 1, promise.Pending, "")}, 1},
		"settled twice":        {[]promise.Record{created, claimed, settled, form(4, 1, 1, promise.Resolved, promise.CauseExit)}, 1},
		"another value":        {[]promise.Record{created, claimed, valued(3, "a"), valued(4, "b")}, 1},
		"come back to life":    {[]promise.Record{created, claimed, settled, form(4, 1, 1, promise.Pending, "")}, 1},
	} {
		if got := checkHistory(slices.Clone(c.past)); len(got) != c.wrong {
			t.Errorf("%s: %q, want %d breaches", name, got, c.wrong)
		}
	}
}
