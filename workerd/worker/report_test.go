package worker

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"modulate/internal/promise"
)

func TestReport(t *testing.T) {
	spool := t.TempDir()
	inWorld(t, func(t *testing.T, w *world) {
		var h *host
		c := w.hire("w1", endsCutOff(&h, 10*time.Second, time.Hour, 3), func(c *Config) {
			c.Spool, c.Roster = spool, nil // the world's roster cannot be cut off
		})
		h = c.host
		synctest.Wait()
		if r := c.Report(); r.Slots != 2 || r.Running != 0 || len(r.Troubles) != 0 || !r.LastReceive.IsZero() {
			t.Errorf("at rest: %+v", r)
		}
		w.submit("a", nil)
		synctest.Wait()
		if r := c.Report(); r.Running != 1 || r.Received != 1 || !r.LastReceive.Equal(time.Now()) {
			t.Errorf("while it runs: %+v", r)
		}
		time.Sleep(time.Minute) // it has ended, and no port answers
		r := c.Report()
		if r.Running != 0 || r.Kept != 1 || r.Attempts[promise.CauseExit] != 1 {
			t.Errorf("cut off: %+v", r)
		}
		if all := strings.Join(r.Troubles, "\n"); !strings.Contains(all, "the store has not answered for 50s: reading a: the line is cut") ||
			!strings.Contains(all, "the queue has not answered for 50s: the line is cut") {
			t.Errorf("cut off: %q", r.Troubles)
		}
		for _, what := range []string{"the store", "the queue"} {
			if n := w.log.count(what + " does not answer"); n != 1 {
				t.Errorf("it was said %d times that %s does not answer, want once", n, what)
			}
		}
		w.settled("a", 2*time.Hour)
		time.Sleep(time.Minute)
		if r := c.Report(); r.Kept != 0 || len(r.Troubles) != 0 {
			t.Errorf("afterwards: %+v", r)
		}
	})
}

func TestReportOfAnUnprovenLease(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		c := w.hire("w1", lasting(time.Hour, 0), nil)
		w.submit("a", nil)
		synctest.Wait()
		c.host.cut(true)
		time.Sleep(time.Minute)
		if r := c.Report(); r.Unproven == 0 || r.Attempts[promise.CauseLost] != 1 || r.Running != 0 {
			t.Errorf("got %+v", r)
		}
	})
}

func TestReportWhileItDrains(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		c := w.hire("w1", lasting(time.Hour, 0), func(c *Config) { c.Drain = time.Minute })
		w.submit("a", nil)
		synctest.Wait()
		c.stop(nil)
		synctest.Wait()
		if r := c.Report(); r.Running != 1 || len(r.Troubles) != 1 || !strings.Contains(r.Troubles[0], "it is to stop") {
			t.Errorf("draining: %+v", r)
		}
		<-c.ended
		if r := c.Report(); r.Attempts[promise.CauseDrained] != 1 {
			t.Errorf("given back: %+v", r)
		}
	})
}
