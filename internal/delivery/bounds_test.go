package delivery

import (
	"bytes"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"modulate/functions/router/protocol"
	"modulate/internal/blob"
	"modulate/internal/engine"
	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/internal/store"
)

// still is a hub without a server, in a bubble of a test's own time.
func still(t *testing.T, test func(*testing.T, *Hub, *engine.Engine)) {
	synctest.Test(t, func(t *testing.T) {
		e := &engine.Engine{Store: store.NewMemory(), Queue: queue.NewMemory(), Blobs: blob.NewMemory()}
		hub, err := New(Config{Engine: e})
		if err != nil {
			t.Fatal(err)
		}
		test(t, hub, e)
		if err := hub.Close(); err != nil { // and nothing is left that the bubble would wait for
			t.Error(err)
		}
	})
}

func remote(e *engine.Engine, id, target string) promise.Record {
	return promise.NewRemote("local", id, e.Time().Add(time.Hour), promise.Protocol{Tags: map[string]string{promise.TagTarget: target}})
}

// TestUnheardIsForgotten: who never comes again costs nothing for ever.
func TestUnheardIsForgotten(t *testing.T) {
	still(t, func(t *testing.T, h *Hub, _ *engine.Engine) {
		say := func(pid string) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.say(promise.Address{Group: "g", ID: pid, Only: true}, event{[]byte("{}"), "a", ear{"g", pid}})
		}
		for n := range 100 {
			say(fmt.Sprint("gone", n))
		}
		time.Sleep(2 * forgetAfter)
		say("last")
		if len(h.unsaid) != 1 {
			t.Errorf("ends are kept for %d", len(h.unsaid))
		}
		for n := range maxUnsaid + 10 {
			h.unheard(event{nil, fmt.Sprint(n), ear{"g", "last"}})
		}
		if n := len(h.unsaid[ear{"g", "last"}]); n != maxUnsaid {
			t.Errorf("%d ends are kept for one", n)
		}
	})
}

// TestSlowReader: what a connection has no room for comes once it has read on.
func TestSlowReader(t *testing.T) {
	still(t, func(t *testing.T, h *Hub, _ *engine.Engine) {
		c := &conn{ear: ear{"g", "slow"}, events: make(chan event, buffered)}
		if !h.connect(c) {
			t.Fatal("it is not connected")
		}
		const all = 3*buffered + 7
		h.mu.Lock()
		for n := range all {
			h.say(promise.Address{Group: "g", ID: "slow", Only: true}, event{[]byte("{}"), fmt.Sprint(n), ear{"g", "slow"}})
		}
		h.mu.Unlock()
		if n := bytes.Count(h.frames(c, <-c.events), []byte("data: ")); n != all {
			t.Errorf("%d of %d ends are told", n, all)
		}
		h.disconnect(c)
	})
}

// TestClosedWhileWatching: a hub that is closed watches nothing any more.
func TestClosedWhileWatching(t *testing.T) {
	still(t, func(t *testing.T, h *Hub, e *engine.Engine) {
		if _, err := e.Create(t.Context(), remote(e, "a", "poll://any@g"), nil); err != nil {
			t.Fatal(err)
		}
		h.Listening("a", promise.Address{Group: "g", ID: "x", Only: true})
		synctest.Wait()
	})
}

// TestAnyoneListens: an end for anyone, preferably one who is not there, goes to
// another of the group, and to who comes if there is none.
func TestAnyoneListens(t *testing.T) {
	w := newWorld(t)
	for _, id := range []string{"now", "later"} {
		w.create(id, "poll://any@nobody")
		w.hub.Listening(id, promise.Address{Group: "g", ID: "absent"})
	}
	end := func(id string) {
		t.Helper()
		if _, err := w.Apply(t.Context(), id, promise.Settle{State: promise.Resolved}); err != nil {
			t.Fatal(err)
		}
	}
	a := w.connect("g", "a")
	end("now")
	w.want(a, "unblock now")
	w.gone(a, "g")
	end("later")
	b := w.connect("g", "b")
	got := map[string]bool{w.next(b): true, w.next(b): true} // the first may not have been read
	if !got["unblock later"] || !got["unblock now"] {
		t.Errorf("who comes is told %v", got)
	}
}

// taken has the worker a of group g hold a task, and returns its record.
func (w *world) taken(a *worker, id string) promise.Record {
	w.t.Helper()
	w.want(a, "execute "+id)
	rec, err := w.Apply(w.t.Context(), id, promise.Acquire{Latest: true, Worker: "a", Lease: time.Minute})
	if err != nil {
		w.t.Fatal(err)
	}
	w.hub.Acquired(id, rec.Task.Version, "a", time.Minute)
	return rec
}

// TestTakenAgain: that a task was given up at one version, which may be noted
// late, does not touch who took it, or was sent it, since.
func TestTakenAgain(t *testing.T) {
	w := newWorld(t)
	w.create("t", "poll://any@g")
	a := w.connect("g", "a")
	first := w.taken(a, "t")
	release := func(version uint64) {
		t.Helper()
		if _, err := w.Apply(t.Context(), "t", promise.Release{Version: version}); err != nil {
			t.Fatal(err)
		}
	}
	messages := func(want int) {
		t.Helper()
		var d queue.Depth
		for over := time.Now().Add(patience); time.Now().Before(over); { // an older one is deleted behind it
			var err error
			if d, err = w.Queue.Depth(t.Context(), "sdk:g"); err != nil || d.Visible+d.InFlight == want {
				return
			}
		}
		t.Errorf("messages: %+v, want %d", d, want)
	}
	release(first.Task.Version)
	second := w.taken(a, "t")
	w.hub.Left("t", first.Task.Version)
	messages(1)
	if got := w.hub.Held("a"); len(got) != 1 || got[0] != (protocol.Held{ID: "t", Version: second.Task.Version}) {
		t.Errorf("a holds %v", got)
	}
	w.hub.Left("t", second.Task.Version)
	messages(0)
	if got := w.hub.Held("a"); got != nil {
		t.Errorf("a holds %v still", got)
	}
}

// TestEndedElsewhere: what ends by another process's doing is not held here for
// ever.
func TestEndedElsewhere(t *testing.T) {
	w := newWorld(t)
	w.create("t", "poll://any@g")
	a := w.connect("g", "a")
	w.taken(a, "t")
	if _, err := w.Apply(t.Context(), "t", promise.Settle{State: promise.Resolved}); err != nil {
		t.Fatal(err)
	}
	if err := w.Queue.Send(t.Context(), "sdk:g", queue.Encode("t", 0), 0); err != nil {
		t.Fatal(err)
	}
	w.create("next", "poll://any@g")
	w.want(a, "execute next")
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	if len(w.hub.sent) != 1 || len(w.hub.held.byID) != 0 {
		t.Errorf("%d messages are remembered, and %d tasks as held; want that of next alone", len(w.hub.sent), len(w.hub.held.byID))
	}
}

// TestAlarmForAnotherGroup: a message that is to let a promise's deadline pass
// sends nobody its task, which is in its own group's queue.
func TestAlarmForAnotherGroup(t *testing.T) {
	w := newWorld(t)
	a, b := w.connect("g", "a"), w.connect("other", "b")
	w.create("t", "poll://any@other")
	w.taken(b, "t")
	if err := w.Queue.Send(t.Context(), "sdk:g", queue.Encode("t", 0), 0); err != nil {
		t.Fatal(err)
	}
	w.create("next", "poll://any@g")
	w.want(a, "execute next")
	w.hub.Left("t", 1)
	if d, err := w.Queue.Depth(t.Context(), "sdk:other"); err != nil || d.Visible+d.InFlight != 0 {
		t.Errorf("messages of the group: %+v, %v", d, err)
	}
}
