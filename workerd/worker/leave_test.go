package worker

import (
	"testing"
	"testing/synctest"
	"time"

	"modulate/internal/promise"
)

// Failure 26: a notice leaves scripts the time that there is, and their tasks
// are given back before the machine is gone.
func TestLeaveGivesBackInTime(t *testing.T) {
	for name, c := range map[string]struct {
		drain, notice time.Duration // notice 0: it tells no time
		want          time.Duration // to the end
		cause         promise.Cause
	}{
		"spot":               {time.Hour, 2 * time.Minute, 2*time.Minute - grace - settleTime + time.Second, promise.CauseSpot},
		"spot, short drain":  {30 * time.Second, 2 * time.Minute, 31 * time.Second, promise.CauseSpot},
		"spot, no time left": {time.Hour, 3 * time.Second, time.Second, promise.CauseSpot},
		"group":              {90 * time.Second, 0, 91 * time.Second, promise.CauseDrained},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				crew := w.hire("w1", lasting(10*time.Hour, 0), func(cfg *Config) { cfg.Drain = c.drain })
				w.submit("a", nil)
				time.Sleep(time.Minute)
				begun, by := time.Now(), time.Time{}
				if c.notice > 0 {
					by = begun.Add(c.notice)
				}
				crew.Leave(c.cause, by)
				synctest.Wait()
				w.submit("b", nil)
				<-crew.ended
				if d := time.Since(begun); d != c.want {
					t.Errorf("it left after %v, want %v", d, c.want)
				}
				rec := w.get("a")
				if rec.Task.State != promise.TaskPending || rec.Drains != 1 || rec.Retries+rec.Crashes != 0 || rec.Attempts[0].Cause != c.cause {
					t.Errorf("task %s, %d drains, attempt ended by %q, want %q", rec.Task.State, rec.Drains, rec.Attempts[0].Cause, c.cause)
				}
				if n := crew.Report().Attempts[c.cause]; n != 1 {
					t.Errorf("%d attempts counted as %s", n, c.cause)
				}
				if w.get("b").Attempt != 0 {
					t.Error("it goes on receiving")
				}
			})
		})
	}
}

func TestLeaveLetsScriptsFinish(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		c := w.hire("w1", lasting(time.Minute, 0), func(c *Config) { c.Drain = time.Hour })
		w.submit("a", nil)
		synctest.Wait()
		c.Leave(promise.CauseSpot, time.Now().Add(2*time.Minute))
		<-c.ended
		if rec := w.get("a"); rec.State != promise.Resolved {
			t.Errorf("a is %s", rec.State)
		}
	})
}

// The instance may be taken back while it drains for another reason.
func TestLeaveHastensADrain(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		c := w.hire("w1", lasting(10*time.Hour, 0), func(c *Config) { c.Drain = time.Hour })
		w.submit("a", nil)
		time.Sleep(time.Minute)
		c.stop(nil)
		c.Leave(promise.CauseDrained, time.Time{})
		time.Sleep(time.Minute)
		begun := time.Now()
		c.Leave(promise.CauseSpot, begun.Add(2*time.Minute))
		c.Leave(promise.CauseDrained, time.Time{}) // takes nothing back
		<-c.ended
		if d := time.Since(begun); d >= 2*time.Minute || w.get("a").Attempts[0].Cause != promise.CauseSpot {
			t.Errorf("it left after %v, with cause %q", d, w.get("a").Attempts[0].Cause)
		}
	})
}

func TestLeaveBeforeRun(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		h := w.newHost()
		worker, err := New(Config{Engine: h.Engine, Machine: "cpu", Name: "w1", Runner: &scripts{}})
		if err != nil {
			t.Fatal(err)
		}
		worker.Leave(promise.CauseSpot, time.Now().Add(time.Minute))
		if err := worker.Run(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
