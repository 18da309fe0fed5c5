package dispatch

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"modulate/internal/api"
	"modulate/internal/promise"
)

func (w *world) cancel(id string, headers ...string) answer {
	w.t.Helper()
	return w.send("POST", "/v1/promises/"+id+"/cancel", "", headers...)
}

func TestCancel(t *testing.T) {
	w := newWorld(t)
	w.must(named("x"))
	for range 2 { // again too
		if a := w.cancel("x"); a.status != 200 || a.promise.State != "rejected_canceled" || a.promise.Outcome.Cause != "canceled" {
			t.Errorf("got %d %s", a.status, a.body)
		}
	}
	refused(t, w.cancel("y"), promise.ErrNotFound, "id", `there is no promise "y"`)
	refused(t, w.cancel("a%20b"), promise.ErrNotFound, "id", "there is no promise")
	w.owner = "bob"
	refused(t, w.cancel("x"), promise.ErrNotFound, "id", `there is no promise "x"`)
}

func TestCancelLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.must(named("done"))
		w.finish("done")
		w.must(call(func(s *api.Submit) { s.ID, s.DeadlineMS = "late", ptr[int64](1000) }))
		time.Sleep(time.Second)
		for id, state := range map[string]string{"done": "resolved", "late": "rejected_timedout"} {
			a := w.cancel(id)
			refused(t, a, promise.ErrSettled, "", id+" is "+state+" already")
			if a.status != 409 || a.problem.State != state || w.get(id).State.String() != state {
				t.Errorf("%s: got %d %s; stored is %s", id, a.status, a.body, w.get(id).State)
			}
		}
	})
}

func TestCancelBody(t *testing.T) {
	w := newWorld(t)
	w.must(named("x"))
	path := "/v1/promises/x/cancel"
	refused(t, w.send("POST", path, `{"why":"x"}`), api.ErrInvalid, "why", "unknown field")
	refused(t, w.send("POST", path, "why=x", "Content-Type", "text/plain"), api.ErrMedia, "Content-Type", "")
	if a := w.send("POST", path, "{}"); a.status != 200 {
		t.Errorf("an empty object: %d %s", a.status, a.body)
	}
}

// Cancelling takes children along, but not what was detached.
func TestCancelCascades(t *testing.T) {
	w := newWorld(t)
	w.must(named("p"))
	header, _ := w.claim("p")
	w.must(call(nil), api.ParentHeader, header)
	w.must(call(func(s *api.Submit) { s.ID = "p.1" }), api.ParentHeader, header)
	w.must(call(func(s *api.Submit) { s.ID, s.Parent = "p.1.1", "p.1" }))
	w.must(call(func(s *api.Submit) { s.ID, s.Mode = "d", "detached" }), api.ParentHeader, header)
	if a := w.cancel("p"); a.status != 200 {
		t.Fatalf("got %d %s", a.status, a.body)
	}
	for id, state := range map[string]promise.State{"p.1": promise.Canceled, "p.1.1": promise.Canceled, "d": promise.Pending} {
		if got := w.get(id).State; got != state {
			t.Errorf("%s is %s", id, got)
		}
	}
}

// A script may cancel what its owner may.
func TestCancelFromScript(t *testing.T) {
	w := newWorld(t)
	w.must(named("p"))
	header, _ := w.claim("p")
	w.must(named("x"))
	w.owner = "bob"
	w.must(named("y"))
	w.owner = "the worker's"
	if a := w.cancel("x", api.ParentHeader, header); a.status != 200 {
		t.Errorf("got %d %s", a.status, a.body)
	}
	refused(t, w.cancel("y", api.ParentHeader, header), promise.ErrNotFound, "id", "")
}

// A cancel and a settle at once: one wins, and both hear which.
func TestCancelRaces(t *testing.T) {
	w := newWorld(t)
	wins := map[string]int{}
	for range 200 {
		a := w.must(call(nil))
		id := a.promise.ID
		_, held := w.claim(id)
		var canceled answer
		var settled error
		var both sync.WaitGroup
		both.Go(func() { canceled = w.cancel(id) })
		both.Go(func() {
			_, settled = w.engine.Apply(t.Context(), id, promise.Fulfil{
				Version: 1, ClaimID: held.Task.ClaimID, SettleID: w.engine.NewNonce(), Outcome: promise.Outcome{Cause: promise.CauseOK},
			})
		})
		both.Wait()
		state := w.get(id).State
		switch {
		case canceled.status == 200 && errors.Is(settled, promise.ErrSettled) && state == promise.Canceled:
			wins["cancel"]++
		case canceled.status == 409 && canceled.problem.State == "resolved" && settled == nil && state == promise.Resolved:
			wins["settle"]++
		default:
			t.Fatalf("cancel: %d %s; settle: %v; stored: %s", canceled.status, canceled.body, settled, state)
		}
	}
	t.Logf("%v", wins)
}
