package sweep

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"modulate/internal/promise"
)

// TestSleepsWake: what another program waits for ends in time, not at the next
// beat: what is written while the sweeper rests, what was there before it, and
// what comes behind something else.
func TestSleepsWake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		sleep := func(id string, d time.Duration) {
			rec := promise.NewRemote("local", id, w.Time().Add(d), promise.Protocol{Tags: map[string]string{promise.TagTimer: "true"}})
			if _, err := w.Create(t.Context(), rec, nil); err != nil {
				t.Fatal(err)
			}
		}
		sleep("before", 1500*time.Millisecond)
		s := New(Config{Engine: w.Engine})
		w.Expect = s.Expect
		go s.Run(t.Context())
		time.Sleep(time.Second)
		for n := range 3 {
			sleep(fmt.Sprint("soon", n), time.Duration(n+1)*700*time.Millisecond)
		}
		sleep("later", 17*time.Second)
		for range 2000 {
			time.Sleep(10 * time.Millisecond)
			synctest.Wait()
			due, err := w.Store.Due(t.Context(), w.Time().Add(-time.Second), 10)
			if err != nil || len(due) > 0 {
				t.Fatalf("%v is due for more than a second: %v", due, err)
			}
		}
		for _, id := range []string{"before", "soon0", "soon1", "soon2", "later"} {
			if rec := w.get(id); rec.State != promise.Resolved {
				t.Errorf("%s is %s", id, rec.State)
			}
		}
	})
}
