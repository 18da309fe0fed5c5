package engine

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"modulate/internal/promise"
	"modulate/internal/store"
)

// remote is a promise of the protocol; with a target it has a task.
func (b *bench) remote(id string, target bool) promise.Record {
	p := promise.Protocol{}
	if target {
		p.Tags = map[string]string{promise.TagTarget: "poll://any@gpu"}
	}
	return promise.NewRemote("local", id, b.now().Add(24*time.Hour), p)
}

// held makes a task that w holds at version 1.
func (b *bench) held(id string) promise.Record {
	b.t.Helper()
	rec, err := b.CreateTaken(b.t.Context(), promise.Create{Record: b.remote(id, true), Worker: "w", Lease: 10 * time.Second})
	if err != nil {
		b.t.Fatal(err)
	}
	return rec
}

func (b *bench) task(id string, want promise.TaskState) {
	b.t.Helper()
	if got := b.stored(id).Task.State; got != want {
		b.t.Errorf("the task of %s is %s, want %s", id, got, want)
	}
}

// writeFaults are the ways in which a write goes wrong.
var writeFaults = []fault{done, failed, persisted, doubled, overtaken, throttled}

// TestSuspendAndResume: whatever goes wrong with one of its writes, a task that
// awaits is resumed by the end of what it awaits, in the same write, once the
// callers have asked again.
func TestSuspendAndResume(t *testing.T) {
	for _, at := range []string{"suspend", "settle"} {
		for _, f := range writeFaults {
			t.Run(fmt.Sprint(at, " ", f), func(t *testing.T) {
				b := newBench(t)
				b.held("wf")
				for _, id := range []string{"wf.1", "wf.2"} {
					b.must(id, promise.Create{Record: b.remote(id, false)})
				}
				b.store.overtake = func() { b.elsewhere("wf.1", promise.Listen{Address: "poll://uni@g/x"}) }
				ask := func(name string, do func() error) {
					if at == name {
						b.store.faults = []fault{f}
					}
					err := do()
					for tries := 0; isAny(err, errLost, store.ErrThrottled) && tries < 3; tries++ {
						err = do()
					}
					if !isAny(err, nil, promise.ErrVersion, promise.ErrSettled) { // it was done the first time
						t.Fatalf("%s: %v", name, err)
					}
				}
				ask("suspend", func() error {
					_, err := b.Suspend(t.Context(), "wf", promise.Suspend{Version: 1, Awaits: []string{"wf.1", "wf.2", "wf.1"}})
					return err
				})
				b.task("wf", promise.TaskSuspended)
				ask("settle", func() error {
					_, err := b.Apply(t.Context(), "wf.1", promise.Settle{State: promise.Resolved})
					return err
				})
				b.task("wf", promise.TaskPending)
				if got := b.stored("wf").Protocol.Resumes; !slices.Equal(got, []string{"wf.1"}) {
					t.Errorf("resumed by %v", got)
				}
			})
		}
	}
}

// elsewhere applies an event as another process does.
func (b *bench) elsewhere(id string, ev promise.Event) {
	b.t.Helper()
	other := *b.Engine
	other.Store = b.store.Memory
	if _, err := other.Apply(b.t.Context(), id, ev); err != nil {
		b.t.Error(err)
	}
}

func TestSuspendRefused(t *testing.T) {
	b := newBench(t)
	b.held("wf")
	b.must("wf.1", promise.Create{Record: b.remote("wf.1", false)})
	suspend := func(version uint64, awaits ...string) error {
		_, err := b.Suspend(t.Context(), "wf", promise.Suspend{Version: version, Awaits: awaits})
		return err
	}
	if err := suspend(2, "nowhere"); !errors.Is(err, promise.ErrVersion) {
		t.Errorf("another version: %v", err)
	}
	if err := suspend(1, "wf.1", "wf.x"); !errors.Is(err, ErrAwaited) {
		t.Errorf("nothing to await: %v", err)
	}
	// Settled between the look and the write.
	b.store.before = func() { b.elsewhere("wf.1", promise.Settle{State: promise.Resolved}) }
	if err := suspend(1, "wf.1"); !errors.Is(err, promise.ErrReady) {
		t.Errorf("settled already: %v", err)
	}
	b.task("wf", promise.TaskAcquired)

	// Settled between the looks at the task and at it: who resumed is forgotten.
	b.must("wf.2", promise.Create{Record: b.remote("wf.2", false)}, promise.Await{Awaiter: "wf"})
	b.store.reading = func(id string) {
		if id == "wf.2" {
			b.store.reading = nil
			b.elsewhere(id, promise.Settle{State: promise.Resolved})
		}
	}
	if err := suspend(1, "wf.2"); !errors.Is(err, promise.ErrReady) || b.stored("wf").Protocol.Resumes != nil {
		t.Errorf("%v, and it is resumed by %v", err, b.stored("wf").Protocol.Resumes)
	}
}

// TestSuspendedTwice: of two requests to suspend the same task, as when one is
// repeated before its answer was there, neither suspends it on what has ended,
// before the first one looked or after that.
func TestSuspendedTwice(t *testing.T) {
	for _, awaited := range []int{1, store.MaxWrites} { // in one write, bit by bit
		for _, before := range []bool{true, false} {
			b := newBench(t)
			b.held("wf")
			ev := promise.Suspend{Version: 1}
			for n := range awaited {
				id := fmt.Sprint("wf.", n)
				b.must(id, promise.Create{Record: b.remote(id, false)}, promise.Await{Awaiter: "wf"})
				ev.Awaits = append(ev.Awaits, id)
			}
			end := func() { b.elsewhere(ev.Awaits[awaited-1], promise.Settle{State: promise.Resolved}) }
			if before {
				end()
			}
			b.store.before = func() { // the other one comes between look and write, and forgets who resumed
				if !before {
					end()
				}
				other := *b.Engine
				other.Store = b.store.Memory
				if _, err := other.Suspend(t.Context(), "wf", ev); !errors.Is(err, promise.ErrReady) {
					t.Errorf("the other request: %v", err)
				}
			}
			if _, err := b.Suspend(t.Context(), "wf", ev); !errors.Is(err, promise.ErrReady) {
				t.Errorf("%d awaited, the last has ended (before: %v): %v", awaited, before, err)
			}
			b.task("wf", promise.TaskAcquired)
		}
	}
}

// TestManyAwaited: a task awaits more than one write takes, and each of them
// resumes it; and what more tasks await than one write resumes, resumes all.
func TestManyAwaited(t *testing.T) {
	b := newBench(t)
	b.held("wf")
	var ids []string
	for n := range store.MaxWrites + 10 {
		id := fmt.Sprint("wf.", n)
		b.must(id, promise.Create{Record: b.remote(id, false)})
		ids = append(ids, id)
	}
	if _, err := b.Suspend(t.Context(), "wf", promise.Suspend{Version: 1, Awaits: ids}); err != nil {
		t.Fatal(err)
	}
	b.task("wf", promise.TaskSuspended)
	b.must(ids[len(ids)-1], promise.Settle{State: promise.Resolved})
	b.task("wf", promise.TaskPending)

	b.must("one", promise.Create{Record: b.remote("one", false)})
	const tasks = 2*promise.MaxResumed + 3
	for n := range tasks {
		id := fmt.Sprint("t", n)
		b.held(id)
		if _, err := b.Suspend(t.Context(), id, promise.Suspend{Version: 1, Awaits: []string{"one"}}); err != nil {
			t.Fatal(err)
		}
	}
	b.must("one", promise.Settle{State: promise.Resolved})
	for range 2 {
		b.sweep()
	}
	for n := range tasks {
		b.task(fmt.Sprint("t", n), promise.TaskPending)
	}
	if due := promise.Due(b.stored("one")); due != 0 {
		t.Errorf("all are resumed, and it is due at %d", due)
	}
}

// TestManyAwaitedStopped: more tasks await one end than a write resumes, and the
// process dies after each of the writes: the sweep resumes the rest, each once.
func TestManyAwaitedStopped(t *testing.T) {
	for stop := range 3 {
		b := newBench(t)
		b.must("one", promise.Create{Record: b.remote("one", false)})
		const tasks = 2*promise.MaxResumed + 3
		for n := range tasks {
			id := fmt.Sprint("t", n)
			b.held(id)
			if _, err := b.Suspend(t.Context(), id, promise.Suspend{Version: 1, Awaits: []string{"one"}}); err != nil {
				t.Fatal(err)
			}
		}
		died := b.dying(PointWritten, stop+1, func(e *Engine) {
			e.Apply(t.Context(), "one", promise.Settle{State: promise.Resolved})
			for range 2 {
				e.Apply(t.Context(), "one", promise.Tick{})
			}
		})
		resumed := 0
		for n := range tasks {
			if b.stored(fmt.Sprint("t", n)).Task.State == promise.TaskPending {
				resumed++
			}
		}
		if want := min((stop+1)*promise.MaxResumed, tasks); !died || resumed != want {
			t.Errorf("stopped after write %d: %v, %d resumed, want %d", stop+1, died, resumed, want)
		}
		for range 2 {
			b.sweep()
		}
		for n := range tasks {
			rec := b.stored(fmt.Sprint("t", n))
			if rec.Task.State != promise.TaskPending || !slices.Equal(rec.Protocol.Resumes, []string{"one"}) {
				t.Errorf("stopped after write %d: %s is %s, resumed by %v", stop+1, rec.ID, rec.Task.State, rec.Protocol.Resumes)
			}
		}
		if due := promise.Due(b.stored("one")); due != 0 {
			t.Errorf("all are resumed, and it is due at %d", due)
		}
	}
}

// TestTooLargeTogether: what one write cannot take for its bytes is done in
// several, and nobody stays suspended.
func TestTooLargeTogether(t *testing.T) {
	b := newBench(t)
	b.store.most = 3
	b.held("wf")
	b.held("fence")
	var ids []string
	for n := range 10 {
		id := fmt.Sprint("wf.", n)
		b.must(id, promise.Create{Record: b.remote(id, false)})
		ids = append(ids, id)
	}
	suspend := func(id string, awaits ...string) {
		t.Helper()
		if _, err := b.Suspend(t.Context(), id, promise.Suspend{Version: 1, Awaits: awaits}); err != nil {
			t.Fatal(err)
		}
		b.task(id, promise.TaskSuspended)
	}
	suspend("wf", ids...)
	for n := range 20 {
		id := fmt.Sprint("t", n)
		b.held(id)
		suspend(id, ids[n%2])
	}
	b.must(ids[0], promise.Settle{State: promise.Resolved})
	if _, err := b.FencedSettle(t.Context(), Fence{Task: "fence", Version: 1}, ids[1], promise.Settle{State: promise.Resolved}); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		b.sweep()
	}
	b.task("wf", promise.TaskPending)
	for n := range 20 {
		b.task(fmt.Sprint("t", n), promise.TaskPending)
	}
}

// TestFence: what is done under a fence is done only while the task is held.
func TestFence(t *testing.T) {
	for _, f := range writeFaults {
		b := newBench(t)
		b.held("wf")
		b.store.overtake = func() {
			b.elsewhere("wf", promise.Heartbeat{Version: 1, Worker: "w"})
		}
		b.pass(time.Second)
		b.store.faults = []fault{f}
		fence := Fence{Task: "wf", Version: 1}
		_, err := b.FencedCreate(t.Context(), fence, b.remote("wf.1", false))
		if isAny(err, errLost, store.ErrThrottled) {
			_, err = b.FencedCreate(t.Context(), fence, b.remote("wf.1", false))
		}
		if !isAny(err, nil, promise.ErrExists) || b.stored("wf.1").ID == "" {
			t.Fatalf("%s: %v", f, err)
		}
		if rec, err := b.FencedCreate(t.Context(), fence, b.remote("wf.1", true)); !errors.Is(err, promise.ErrExists) || rec.Task.State != promise.TaskNone {
			t.Errorf("%s: created twice: %v", f, err)
		}
		// Who holds the fence awaits what is settled under it.
		b.must("wf.1", promise.Await{Awaiter: "wf"})
		b.store.faults = []fault{f}
		_, err = b.FencedSettle(t.Context(), fence, "wf.1", promise.Settle{State: promise.Resolved})
		if isAny(err, errLost, store.ErrThrottled) {
			_, err = b.FencedSettle(t.Context(), fence, "wf.1", promise.Settle{State: promise.Resolved})
		}
		if !isAny(err, nil, promise.ErrSettled) || !slices.Equal(b.stored("wf").Protocol.Resumes, []string{"wf.1"}) {
			t.Errorf("%s: %v, resumed by %v", f, err, b.stored("wf").Protocol.Resumes)
		}
		if _, err := b.FencedSettle(t.Context(), fence, "wf.2", promise.Settle{State: promise.Resolved}); !errors.Is(err, promise.ErrNotFound) || errors.Is(err, ErrFence) {
			t.Errorf("nothing to settle: %v", err)
		}
		// Lost in between, nothing is done under it.
		b.store.before = func() { b.elsewhere("wf", promise.Release{Version: 1}) }
		if _, err := b.FencedCreate(t.Context(), fence, b.remote("wf.3", false)); !errors.Is(err, ErrFence) {
			t.Errorf("%s: under a lost fence: %v", f, err)
		}
		if b.stored("wf.3").ID != "" {
			t.Errorf("%s: created under a lost fence", f)
		}
	}
}

// TestFenceLostWhileResuming: also where its holder is among those whom the end
// resumes, nothing is settled under a fence that was lost meanwhile.
func TestFenceLostWhileResuming(t *testing.T) {
	b := newBench(t)
	b.held("wf")
	b.must("wf.1", promise.Create{Record: b.remote("wf.1", false)}, promise.Await{Awaiter: "wf"})
	looked := false
	lose := func() {
		b.store.before, b.store.reading = nil, nil
		b.elsewhere("wf", promise.Release{Version: 1})
	}
	b.store.before = lose
	b.store.reading = func(id string) {
		if id == "wf" && looked { // it is read again for this
			lose()
		}
		looked = looked || id == "wf"
	}
	_, err := b.FencedSettle(t.Context(), Fence{Task: "wf", Version: 1}, "wf.1", promise.Settle{State: promise.Resolved})
	if !errors.Is(err, ErrFence) || b.stored("wf.1").State != promise.Pending {
		t.Errorf("%v; what was to be settled is %s", err, b.stored("wf.1").State)
	}

	// And it counts as progress, resumed or not.
	if _, err := b.Apply(t.Context(), "wf", promise.Acquire{Version: 1, Worker: "w", Lease: time.Minute}); err != nil {
		t.Fatal(err)
	}
	if b.stored("wf").Crashes != 1 {
		t.Fatalf("%d failures, want one", b.stored("wf").Crashes)
	}
	if _, err := b.FencedSettle(t.Context(), Fence{Task: "wf", Version: 2}, "wf.1", promise.Settle{State: promise.Resolved}); err != nil {
		t.Fatal(err)
	}
	if rec := b.stored("wf"); rec.Crashes != 0 || !slices.Equal(rec.Protocol.Resumes, []string{"wf.1"}) {
		t.Errorf("%d failures, resumed by %v", rec.Crashes, rec.Protocol.Resumes)
	}
}

// TestFenceLostBeforeAnEnd: who has lost the fence is not told of what came after
// that.
func TestFenceLostBeforeAnEnd(t *testing.T) {
	b := newBench(t)
	b.held("wf")
	b.must("wf.1", promise.Create{Record: b.remote("wf.1", false)})
	reads := 0
	b.store.reading = func(string) {
		if reads++; reads == 2 { // between the two looks
			b.store.reading = nil
			b.elsewhere("wf", promise.Release{Version: 1})
			b.elsewhere("wf.1", promise.Settle{State: promise.Resolved})
		}
	}
	rec, err := b.FencedCreate(t.Context(), Fence{Task: "wf", Version: 1}, b.remote("wf.1", false))
	if !errors.Is(err, ErrFence) {
		t.Errorf("%s, %v", rec.State, err)
	}
}

// TestScheduleRuns: a run's promise is created once, before the schedule moves
// on, also when the process stops in between, and what was missed is caught up.
func TestScheduleRuns(t *testing.T) {
	b := newBench(t)
	c := promise.Schedule{ID: "s", Cron: "* * * * *", PromiseID: "{{.id}}.{{.timestamp}}", Timeout: 60_000, Tags: map[string]string{promise.TagTarget: "poll://any@gpu"}}
	rec := b.must("", promise.Create{Record: promise.NewSchedule("local", c)})
	first := rec.Protocol.Schedule.NextAt
	b.pass(first.Sub(b.now()) + 2*time.Minute)
	b.dying(PointWritten, 1, func(e *Engine) { e.Apply(t.Context(), rec.ID, promise.Tick{}) })
	if got := b.stored(rec.ID).Protocol.Schedule.NextAt; got != first {
		t.Errorf("the schedule has moved on to %d before its run was known to exist", got)
	}
	for range 4 {
		b.sweep()
	}
	made, err := b.store.Children(t.Context(), "s", "", 10)
	if err != nil || len(made) != 3 {
		t.Fatalf("%d promises of three runs: %v", len(made), err)
	}
	for n, rec := range made {
		at := first + promise.Time(n)*60_000
		if rec.ID != fmt.Sprintf("s.%d", at) || rec.DeadlineAt != at+60_000 || rec.Machine != "sdk:gpu" || rec.Tag("resonate:schedule") != "s" {
			t.Errorf("run %d is %s, until %d, for %s", n, rec.ID, rec.DeadlineAt, rec.Machine)
		}
	}
}

// TestTold: who listens is told, and the sweep is told when to look.
func TestTold(t *testing.T) {
	b := newBench(t)
	var told []string
	var expected []promise.Time
	b.Notify = func(id, address string) { told = append(told, id+" "+address) }
	b.Expect = func(at promise.Time) { expected = append(expected, at) }
	rec := b.must("a", promise.Create{Record: b.remote("a", false)}, promise.Listen{Address: "poll://uni@g/x"}, promise.Settle{State: promise.Resolved})
	if !slices.Equal(told, []string{"a poll://uni@g/x"}) {
		t.Errorf("told %v", told)
	}
	if len(expected) == 0 || expected[0] != rec.DeadlineAt {
		t.Errorf("expected at %v", expected)
	}
}
