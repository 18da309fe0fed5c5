package dispatch

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"modulate/internal/api"
	"modulate/internal/promise"
	"modulate/internal/store"
)

func TestSubmitCreates(t *testing.T) {
	w := newWorld(t)
	a := w.must(named("x"))
	if a.status != 201 || a.header.Get("Location") != "/v1/promises/x" || a.promise.ID != "x" || a.promise.State != "pending" {
		t.Errorf("got %d %v %s", a.status, a.header, a.body)
	}
	if w.records() != 1 || w.messages() != 1 || w.blobKeys() != 1 {
		t.Errorf("stored: %d records, %d messages, %d blobs", w.records(), w.messages(), w.blobKeys())
	}
	again := w.must(named("x"))
	if again.status != 200 || again.header.Get("Location") != "" || again.body != a.body {
		t.Errorf("again: got %d %s", again.status, again.body)
	}
	if w.records() != 1 || w.messages() != 1 || w.blobKeys() != 1 {
		t.Errorf("stored after the second: %d records, %d messages, %d blobs", w.records(), w.messages(), w.blobKeys())
	}
	w.finish("x")
	if a := w.must(named("x")); a.status != 200 || a.promise.State != "resolved" {
		t.Errorf("after its end: got %d %s", a.status, a.body)
	}
}

// flaky is a store whose creates fail as they are told to, one after another.
type flaky struct {
	*store.Memory
	faults []string // before, after, none
}

var errLine = errors.New("the line is dead")

// Create fails before it has done anything, or after.
func (f *flaky) Create(ctx context.Context, rec promise.Record) error {
	fault := "none"
	if len(f.faults) > 0 {
		fault, f.faults = f.faults[0], f.faults[1:]
	}
	if fault == "before" {
		return errLine
	}
	err := f.Memory.Create(ctx, rec)
	if fault == "after" {
		return errLine
	}
	return err
}

// However often a submission is repeated, and whatever became of its answers:
// one promise, and at least one message by the first re-send.
func TestIdempotentSubmit(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		faults := rapid.SliceOfN(rapid.SampledFrom([]string{"before", "after", "none"}), 1, 8).Draw(rt, "faults")
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.engine.Store = &flaky{Memory: w.store, faults: faults}
			answered := 0
			for range faults {
				a := w.submit(named("x"))
				switch a.status {
				case 503:
					refused(t, a, api.ErrUnavailable, "", "repeat it")
				case 201, 200:
					if answered++; (a.status == 201) && (answered > 1) {
						t.Errorf("created twice")
					}
				default:
					t.Errorf("got %d %s", a.status, a.body)
				}
			}
			if w.submit(named("x")).status >= 300 || w.records() != 1 {
				t.Errorf("%d records after %v", w.records(), faults)
			}
			time.Sleep(promise.FirstResend)
			w.apply("x", promise.Tick{})
			if n := w.messages(); n < 1 || n > 2 {
				t.Errorf("%d messages after %v", n, faults)
			}
		})
	})
}

func TestSubmitConflict(t *testing.T) {
	w := newWorld(t)
	w.must(named("x"))
	other := call(func(s *api.Submit) { s.ID, s.Args = "x", []string{"1"} })
	refused(t, w.submit(other), api.ErrConflict, "id", "the id x is taken by another call")
	w.owner = "bob"
	for _, sub := range []api.Submit{named("x"), other} {
		a := w.submit(sub)
		refused(t, a, api.ErrConflict, "id", "the id x is taken: choose another")
		if strings.Contains(a.body, "alice") || strings.Contains(a.body, "another call") || strings.Contains(a.body, "T") {
			t.Errorf("it tells of another owner's promise: %s", a.body)
		}
	}
	if w.records() != 1 || w.messages() != 1 {
		t.Errorf("%d records, %d messages", w.records(), w.messages())
	}
}

func TestSubmitModes(t *testing.T) {
	tests := []struct {
		mode, parent string
		script       bool // through the socket of p's script
		wait         bool
		want         string
		child        bool
	}{
		{"", "", false, false, "detached", false},
		{"", "", false, true, "rpc", false},
		{"", "p", false, false, "rfi", true},
		{"", "p", false, true, "rpc", true},
		{"rpc", "", false, false, "rpc", false},
		{"rpc", "p", false, false, "rpc", true},
		{"rfi", "p", false, true, "rfi", true},
		{"detached", "", false, true, "detached", false},
		{"", "", true, false, "rfi", true},
		{"", "", true, true, "rpc", true},
		{"", "p", true, false, "rfi", true},
		{"rfi", "", true, false, "rfi", true},
		{"rpc", "", true, true, "rpc", true},
		{"detached", "", true, false, "detached", false},
		{"detached", "p", true, true, "detached", false},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%+v", tt), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.must(named("p"))
				header, _ := w.claim("p")
				var headers []string
				if tt.script {
					w.owner = "the worker's"
					headers = append(headers, api.ParentHeader, header)
				}
				if tt.wait {
					headers = append(headers, "Prefer", "wait=1")
				}
				a := w.must(call(func(s *api.Submit) { s.Mode, s.Parent = tt.mode, tt.parent }), headers...)
				p := a.promise
				parent := ""
				if tt.child {
					parent = "p"
				}
				if p.Mode != tt.want || p.Parent != parent || strings.HasPrefix(p.ID, "p.") != tt.child || p.Owner != "alice" {
					t.Errorf("got %s %q, a child of %q, of %s", p.Mode, p.ID, p.Parent, p.Owner)
				}
			})
		})
	}
}

func TestSubmitChild(t *testing.T) {
	w := newWorld(t)
	w.must(named("p"))
	child := func(id string) api.Submit { return call(func(s *api.Submit) { s.Parent, s.ID = "p", id }) }

	unknown := call(func(s *api.Submit) { s.Parent = "q" })
	refused(t, w.submit(unknown), promise.ErrNotFound, "parent", "there is no promise q")
	w.owner = "bob"
	refused(t, w.submit(child("p.1")), promise.ErrNotFound, "parent", "there is no promise p")
	w.owner = "alice"
	if w.records() != 1 || w.blobKeys() != 1 {
		t.Errorf("refused, and stored: %d records, %d blobs", w.records(), w.blobKeys())
	}

	if a := w.must(child("p.1")); a.status != 201 || a.promise.ID != "p.1" {
		t.Errorf("got %d %s", a.status, a.body)
	}
	grandchild := call(func(s *api.Submit) { s.Parent, s.ID = "p.1", "p.1.1" })
	if a := w.must(grandchild); a.status != 201 {
		t.Errorf("a grandchild: %d %s", a.status, a.body)
	}

	w.finish("p")
	a := w.submit(child("p.2"))
	refused(t, a, promise.ErrParent, "parent", "p is resolved and takes no more children")
	if a := w.submit(child("p.1")); a.status != 200 {
		t.Errorf("a child that was there before its parent ended: %d %s", a.status, a.body)
	}
	refused(t, w.submit(call(func(s *api.Submit) { s.Parent, s.ID, s.Args = "p", "p.1", []string{"x"} })), api.ErrConflict, "id", "another call")
	refused(t, w.submit(call(func(s *api.Submit) { s.Parent = "p" })), promise.ErrParent, "parent", "takes no more children")
}

// racing is a store in which the parent ends between the look at it and the
// creation of its child.
type racing struct {
	*store.Memory
	before func()
}

// ReplaceAll lets something happen before.
func (r *racing) ReplaceAll(ctx context.Context, writes []store.Write) error {
	if do := r.before; do != nil {
		r.before = nil
		do()
	}
	return r.Memory.ReplaceAll(ctx, writes)
}

func TestSubmitChildRacesItsParent(t *testing.T) {
	w := newWorld(t)
	w.must(named("p"))
	w.must(call(func(s *api.Submit) { s.Parent, s.ID = "p", "p.1" }))
	r := &racing{Memory: w.store}
	w.engine.Store = r
	r.before = func() { w.finish("p") }
	a := w.submit(call(func(s *api.Submit) { s.Parent, s.ID = "p", "p.2" }))
	if !errors.Is(&api.Error{Problem: a.problem}, promise.ErrParent) || w.records() != 2 {
		t.Errorf("got %d %s, %d records", a.status, a.body, w.records())
	}

	w.must(named("q"))
	r.before = func() { // the first try of the same request, whose answer was lost
		w.engine.Store = w.store
		w.must(call(func(s *api.Submit) { s.Parent, s.ID = "q", "q.1" }))
		w.finish("q")
		w.engine.Store = r
	}
	if a := w.submit(call(func(s *api.Submit) { s.Parent, s.ID = "q", "q.1" })); a.status != 200 {
		t.Errorf("got %d %s", a.status, a.body)
	}
}

// What is refused because its id is taken leaves nothing behind, blobs
// included; neither does what is found to be there.
func TestSubmitTakenStoresNothing(t *testing.T) {
	w := newWorld(t)
	large := func(source, arg string) api.Submit {
		return call(func(s *api.Submit) {
			s.ID, s.Script.Source, s.Args = "x", &source, []string{strings.Repeat(arg, 2*inlineInput)}
		})
	}
	w.must(large("print(1)", "a"))
	blobs, messages := w.blobKeys(), w.messages()
	for owner, says := range map[string]string{"alice": "another call", "bob": "taken: choose another"} {
		w.owner = owner
		refused(t, w.submit(large("print(2)", "b")), api.ErrConflict, "id", says)
		refused(t, w.submit(large("print(1)", "b")), api.ErrConflict, "id", says)
		refused(t, w.submit(large("print(2)", "a")), api.ErrConflict, "id", says)
	}
	w.owner = "alice"
	if a := w.submit(large("print(1)", "a")); a.status != 200 {
		t.Errorf("the same call: %d %s", a.status, a.body)
	}
	if w.blobKeys() != blobs || w.messages() != messages || w.records() != 1 {
		t.Errorf("%d blobs, %d messages, %d records; want %d, %d, 1", w.blobKeys(), w.messages(), w.records(), blobs, messages)
	}
}

// A script's children are created only while its promise is pending under its
// claim; what it detaches, as long as nobody else has claimed it.
func TestSubmitFromScript(t *testing.T) {
	w := newWorld(t)
	w.must(named("p"))
	header, held := w.claim("p")
	w.owner = "the worker's"
	child := func(id string) api.Submit { return call(func(s *api.Submit) { s.ID = id }) }
	detached := func(id string) api.Submit { return call(func(s *api.Submit) { s.ID, s.Mode = id, "detached" }) }

	if a := w.submit(child("p.1"), api.ParentHeader, header); a.status != 201 || a.promise.Parent != "p" || a.promise.Owner != "alice" {
		t.Errorf("a child: %d %s", a.status, a.body)
	}
	if a := w.submit(child("p.1"), api.ParentHeader, header); a.status != 200 {
		t.Errorf("again: %d %s", a.status, a.body)
	}
	if a := w.submit(detached("detached_p_1"), api.ParentHeader, header); a.status != 201 || a.promise.Parent != "" || a.promise.Owner != "alice" {
		t.Errorf("detached: %d %s", a.status, a.body)
	}
	other := call(func(s *api.Submit) { s.Parent = "q" })
	refused(t, w.submit(other, api.ParentHeader, header), api.ErrInvalid, "parent", "the script of p cannot submit children of q")
	refused(t, w.submit(child("x"), api.ParentHeader, header), api.ErrInvalid, "id", "is called p.NAME")

	w.apply("p", promise.Fulfil{Version: 1, ClaimID: held.Task.ClaimID, Outcome: promise.Outcome{Cause: promise.CauseOK}})
	refused(t, w.submit(child("p.2"), api.ParentHeader, header), promise.ErrParent, "parent", "p is resolved")
	if a := w.submit(child("p.1"), api.ParentHeader, header); a.status != 200 {
		t.Errorf("a child that was there: %d %s", a.status, a.body)
	}
	if a := w.submit(detached("detached_p_2"), api.ParentHeader, header); a.status != 201 {
		t.Errorf("detached, its answer late: %d %s", a.status, a.body)
	}
}

// The script of an attempt that was taken for lost makes no more children.
func TestSubmitFromLostScript(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.must(named("p"))
		old, _ := w.claim("p")
		time.Sleep(time.Minute)
		w.apply("p", promise.Tick{})
		a := w.submit(call(func(s *api.Submit) { s.ID = "p.1" }), api.ParentHeader, old)
		refused(t, a, promise.ErrParent, "parent", "held by another attempt")
		header, _ := w.claim("p")
		a = w.submit(call(func(s *api.Submit) { s.ID = "p.1" }), api.ParentHeader, old)
		refused(t, a, promise.ErrParent, api.ParentHeader, "not held under version 1")
		if a := w.submit(call(func(s *api.Submit) { s.ID = "p.1" }), api.ParentHeader, header); a.status != 201 {
			t.Errorf("the next attempt: %d %s", a.status, a.body)
		}
	})
}

func TestSubmitWaits(t *testing.T) {
	tests := []struct {
		name   string
		exists bool // submitted before
		prefer string
		ends   time.Duration // after the request; 0: not
		status int
		took   time.Duration
		state  string
	}{
		{"settled within it", false, "wait=10", 3 * time.Second, 201, 3 * time.Second, "resolved"},
		{"over", false, "wait=10", 0, 202, 10 * time.Second, "pending"},
		{"clamped", false, "wait=3600", 0, 202, api.MaxWait * time.Second, "pending"},
		{"respond-async", false, "respond-async", 0, 202, 0, "pending"},
		{"respond-async within a wait", false, "respond-async, wait=10", 3 * time.Second, 201, 3 * time.Second, "resolved"},
		{"wait=0", false, "wait=0", 0, 201, 0, "pending"},
		{"existing, settled within it", true, "wait=10", 3 * time.Second, 200, 3 * time.Second, "resolved"},
		{"existing, over", true, "wait=5", 0, 202, 5 * time.Second, "pending"},
		{"existing, respond-async", true, "respond-async", 0, 202, 0, "pending"},
		{"existing, no wait", true, "", 0, 200, 0, "pending"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				if tt.exists {
					w.must(named("x"))
				}
				if tt.ends > 0 {
					time.AfterFunc(tt.ends, func() { w.finish("x") })
				}
				began := time.Now()
				a := w.submit(named("x"), "Prefer", tt.prefer)
				if took := time.Since(began); a.status != tt.status || took != tt.took || a.promise.State != tt.state {
					t.Errorf("got %d %s after %s", a.status, a.promise.State, took)
				}
				if applied := strings.Replace(tt.prefer, "3600", "25", 1); a.header.Get("Preference-Applied") != applied {
					t.Errorf("Preference-Applied: %q", a.header.Get("Preference-Applied"))
				}
				if a.status == 202 && (a.header.Get("Location") != "/v1/promises/x" || a.header.Get("Retry-After") != "1") {
					t.Errorf("got %v", a.header)
				}
			})
		})
	}
}

// What has been begun is finished though the caller goes away: the promise is
// stored, its message sent.
func TestSubmitCallerGoesAway(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	w.engine.Fail = func(point string) { cancel() }
	d := &dispatcher{Service: &api.Service{Engine: w.engine}, machines: machines{queue: w.queue, seen: map[string]bool{}}, leases: leases{time.Minute, time.Second}}
	r := &api.Request{Request: newRequest(ctx), Caller: api.Caller{Owner: "alice"}}
	a, err := d.submit(r, named("x"))
	if ctx.Err() == nil || err != nil || a.Status != 201 || w.messages() != 1 {
		t.Errorf("got %+v, %v; %d messages", a, err, w.messages())
	}
}
