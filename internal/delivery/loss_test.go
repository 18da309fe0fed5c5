package delivery

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"modulate/functions/router/protocol"
	"modulate/internal/engine"
	"modulate/internal/promise"
	"modulate/internal/queue"
)

// attach connects a worker a of group g without a server. The returned function
// waits for the next task that it is sent.
func attach(t *testing.T, h *Hub) (next func() (id string, version uint64), leave func()) {
	t.Helper()
	c := &conn{ear: ear{"g", "a"}, events: make(chan event, buffered)}
	if !h.connect(c) {
		t.Fatal("it is not connected")
	}
	return func() (string, uint64) {
		t.Helper()
		select {
		case e := <-c.events:
			var m struct {
				Kind string
				Data struct {
					Task struct {
						ID      string
						Version uint64
					}
				}
			}
			if err := json.Unmarshal(e.body, &m); err != nil || m.Kind != "execute" {
				t.Fatalf("sent %s, %v", e.body, err)
			}
			return m.Data.Task.ID, m.Data.Task.Version
		case <-time.After(time.Hour): // of the test's own time
			t.Fatal("no task comes")
			return "", 0
		}
	}, func() { h.disconnect(c) }
}

// TestPoison: a task that no worker gets on with comes back, later each time,
// by its message alone, and is rejected when that has been so too often. Every
// third worker dies of it, the others give it back.
func TestPoison(t *testing.T) {
	still(t, func(t *testing.T, h *Hub, e *engine.Engine) {
		if _, err := e.Create(t.Context(), remote(e, "poison", "poll://any@g"), nil); err != nil {
			t.Fatal(err)
		}
		next, leave := attach(t, h)
		defer leave()
		began := time.Now()
		for tries := 0; tries <= promise.MaxFailures; {
			id, version := next()
			rec, err := e.Apply(t.Context(), id, promise.Acquire{Version: version, Worker: "a", Lease: 10 * time.Second})
			if errors.Is(err, promise.ErrState) || errors.Is(err, promise.ErrVersion) {
				continue // sent twice, as a lost one is: the old message comes back, a new one is sent
			}
			if err != nil {
				t.Fatalf("after %d tries: %v", tries, err)
			}
			h.Acquired(id, rec.Task.Version, "a", 10*time.Second)
			if tries++; tries%3 == 0 {
				continue
			}
			if _, err := e.Apply(t.Context(), id, promise.Release{Version: rec.Task.Version}); err != nil {
				t.Fatal(err)
			}
			h.Left(id, rec.Task.Version)
		}
		wait(t.Context(), time.Minute) // the last one's lease
		rec, err := e.Get(t.Context(), "poison")
		if err != nil || rec.State != promise.Rejected || rec.Outcome.Cause != promise.CauseExhausted {
			t.Errorf("%s as %s, %v", rec.State, rec.Outcome.Cause, err)
		}
		if took := time.Since(began); took < 10*time.Minute {
			t.Errorf("it spun: all tries took %v", took)
		}
		if d, err := e.Queue.Depth(t.Context(), promise.SDKQueue+"g"); err != nil || d != (queue.Depth{}) {
			t.Errorf("messages: %+v, %v", d, err)
		}
	})
}

// TestMessageLost: a task whose message is gone is sent again by the sweep's
// next look at its record.
func TestMessageLost(t *testing.T) {
	still(t, func(t *testing.T, h *Hub, e *engine.Engine) {
		if _, err := e.Create(t.Context(), remote(e, "t", "poll://any@g"), nil); err != nil {
			t.Fatal(err)
		}
		got, err := e.Queue.Receive(t.Context(), promise.SDKQueue+"g", 10, time.Hour, 0)
		if err != nil || len(got) != 1 {
			t.Fatalf("%d messages, %v", len(got), err)
		}
		if err := e.Queue.Delete(t.Context(), promise.SDKQueue+"g", got[0].Receipt); err != nil {
			t.Fatal(err)
		}
		next, leave := attach(t, h)
		defer leave()
		wait(t.Context(), promise.FirstResend)
		due, err := e.Store.Due(t.Context(), e.Time(), 10)
		if err != nil || len(due) != 1 {
			t.Fatalf("%v is due, %v", due, err)
		}
		if _, err := e.Apply(t.Context(), due[0], promise.Tick{}); err != nil {
			t.Fatal(err)
		}
		if id, _ := next(); id != "t" {
			t.Errorf("sent %s", id)
		}
	})
}

// TestAnswerLost: a worker that took a task and never heard so does not beat for
// it. The task comes back by its message, and whoever has the old version is
// refused.
func TestAnswerLost(t *testing.T) {
	still(t, func(t *testing.T, h *Hub, e *engine.Engine) {
		if _, err := e.Create(t.Context(), remote(e, "t", "poll://any@g"), nil); err != nil {
			t.Fatal(err)
		}
		next, leave := attach(t, h)
		defer leave()
		id, version := next()
		if _, err := e.Apply(t.Context(), id, promise.Acquire{Version: version, Worker: "a", Lease: time.Minute}); err != nil {
			t.Fatal(err)
		} // and the gateway hears nothing of it
		if got, again := next(); got != "t" || again != 1 {
			t.Errorf("sent %s at %d, want it at the version that was lost", got, again)
		}
		rec, err := e.Apply(t.Context(), id, promise.Acquire{Version: 1, Worker: "b", Lease: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		h.Acquired(id, rec.Task.Version, "b", time.Minute)
		if _, err := e.Apply(t.Context(), id, promise.Complete{Version: 1, State: promise.Resolved}); !errors.Is(err, promise.ErrVersion) {
			t.Errorf("the late one: %v", err)
		}
		if got := h.Held("b"); len(got) != 1 || got[0] != (protocol.Held{ID: "t", Version: 2}) {
			t.Errorf("b holds %v", got)
		}
	})
}

// mortal is a queue whose user dies while it waits there: what it is given then
// it never sees.
type mortal struct {
	queue.Queue
	dead chan struct{}
}

func (q mortal) Receive(ctx context.Context, machine string, limit int, hide, wait time.Duration) ([]queue.Delivery, error) {
	got, err := q.Queue.Receive(ctx, machine, limit, hide, wait)
	select {
	case <-q.dead:
		<-ctx.Done()
		return nil, context.Cause(ctx)
	default:
		return got, err
	}
}

// TestGivenToTheDead: a message that is given to a process which has died, for it
// was waiting for one, comes to the next within 15 s of its task's lease.
func TestGivenToTheDead(t *testing.T) {
	still(t, func(t *testing.T, h *Hub, e *engine.Engine) {
		if _, err := e.Create(t.Context(), remote(e, "t", "poll://any@g"), nil); err != nil {
			t.Fatal(err)
		}
		q := mortal{e.Queue, make(chan struct{})}
		doomed := *e
		doomed.Queue = q
		dead, err := New(Config{Engine: &doomed})
		if err != nil {
			t.Fatal(err)
		}
		defer dead.Close()
		next, leave := attach(t, dead)
		defer leave()
		id, version := next()
		const lease = 3 * time.Second
		over := time.Now().Add(lease)
		rec, err := e.Apply(t.Context(), id, promise.Acquire{Version: version, Worker: "a", Lease: lease})
		if err != nil {
			t.Fatal(err)
		}
		dead.Acquired(id, rec.Task.Version, "a", lease)
		close(q.dead)
		wait(t.Context(), lease+2*leaseSlack)
		if d, err := e.Queue.Depth(t.Context(), promise.SDKQueue+"g"); err != nil || d != (queue.Depth{InFlight: 1}) {
			t.Fatalf("messages: %+v, %v; the dead one was given none", d, err)
		}
		next, leaveNext := attach(t, h)
		defer leaveNext()
		if id, version := next(); id != "t" || version != 1 {
			t.Errorf("sent %s at %d", id, version)
		}
		if late := time.Since(over); late > 15*time.Second {
			t.Errorf("sent %s after the lease", late)
		}
	})
}
