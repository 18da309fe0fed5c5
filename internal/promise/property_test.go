package promise

import (
	"errors"
	"flag"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestMain asks for more histories than rapid does, and for fewer in a short
// run, and for the same in every run; -rapid.checks and -rapid.seed still rule
// (-rapid.seed=0 draws new ones).
func TestMain(m *testing.M) {
	if err := flag.Set("rapid.seed", "28"); err != nil {
		panic(err)
	}
	flag.Parse()
	checks := flag.Lookup("rapid.checks")
	if checks.Value.String() == checks.DefValue {
		if err := checks.Value.Set(map[bool]string{true: "50", false: "300"}[testing.Short()]); err != nil {
			panic(err)
		}
	}
	m.Run()
}

// TestStepAgainstModel runs random histories through Step and through a model,
// and checks after each event what must hold of any record.
func TestStepAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := history{t: t, now: epoch}
		for range rapid.IntRange(1, 80).Draw(t, "events") {
			h.now += Time(h.pass().Milliseconds())
			h.apply(h.draw())
		}
	})
}

// history is one random history.
type history struct {
	t        *rapid.T
	now      Time
	rec      Record
	model    model
	archived []Attempt
	nonces   []Nonce // those used so far
}

// pass draws how much time passes: often none, often just up to or over an
// edge.
func (h *history) pass() time.Duration {
	until := Due(h.rec).Sub(h.now)
	steps := []time.Duration{
		0, 0, time.Millisecond, time.Second, Skew, 10 * time.Second, 30 * time.Second, time.Minute, time.Hour,
		until, until - time.Millisecond, h.rec.Task.LeaseEnd.Sub(h.now), h.rec.NotBefore.Sub(h.now),
	}
	return max(0, rapid.SampledFrom(steps).Draw(h.t, "pass"))
}

// draw draws the next event: mostly one that makes sense now, else any.
func (h *history) draw() Event {
	if h.rec.ID == "" && rapid.IntRange(0, 9).Draw(h.t, "born") > 0 {
		return h.drawCreate()
	}
	version, claim := h.rec.Task.Version, h.rec.Task.ClaimID
	if rapid.IntRange(0, 4).Draw(h.t, "stranger") == 0 {
		version, claim = version+uint64(rapid.IntRange(0, 2).Draw(h.t, "ahead"))-1, h.nonce()
	}
	fulfil := Fulfil{Version: version, ClaimID: claim, SettleID: h.nonce(), Outcome: Outcome{Cause: h.cause(), Error: h.problem()}}
	worker := rapid.SampledFrom([]string{"w1", "w2"}).Draw(h.t, "worker")
	events := []Event{
		Claim{Worker: worker, ClaimID: h.nonce()},
		Acquire{Version: version, Worker: worker, ClaimID: h.nonce(), Lease: rapid.SampledFrom([]time.Duration{0, 7 * time.Second}).Draw(h.t, "lease")},
		Extend{Version: version, ClaimID: claim},
		Release{Version: version, ClaimID: claim, Cause: rapid.SampledFrom([]Cause{CauseDrained, CauseSpot}).Draw(h.t, "why")},
		fulfil, LateSettle(fulfil),
		Tick{}, Tick{Hold: true}, View{}, CascadeDone{},
		h.seldom(Cancel{SettleID: h.nonce()}),
		h.seldom(Settle{State: State(rapid.IntRange(0, 4).Draw(h.t, "state")), SettleID: h.nonce(), Outcome: Outcome{Cause: CauseOK}}),
		h.drawCreate(),
	}
	switch {
	case rapid.IntRange(0, 2).Draw(h.t, "any") == 0:
	case h.rec.Task.State == TaskPending && h.model.mayBeLate:
		events = []Event{LateSettle(fulfil), LateSettle(fulfil), events[0], events[1]}
	case h.rec.Task.State == TaskPending:
		events = append(events[:2:2], events[0], events[1], Tick{Hold: true})
	case h.rec.Task.State == TaskAcquired:
		events = []Event{fulfil, fulfil, fulfil, LateSettle(fulfil), events[2], events[3], Tick{}, Tick{}}
	}
	return rapid.SampledFrom(events).Draw(h.t, "event")
}

// seldom replaces most of the events that would end every history at once.
func (h *history) seldom(ev Event) Event {
	if rapid.IntRange(0, 3).Draw(h.t, "seldom") > 0 {
		return Tick{}
	}
	return ev
}

func (h *history) drawCreate() Create {
	return Create{Record: Record{
		ID: "p", Owner: "local", Machine: "cpu",
		DeadlineAt: h.now.Add(rapid.SampledFrom([]time.Duration{5 * time.Second, time.Minute, 24 * time.Hour, 24 * time.Hour, 720 * time.Hour}).Draw(h.t, "deadline")),
		Call: Call{
			Name: "foo.py", Timeout: time.Minute,
			Lease: rapid.SampledFrom([]time.Duration{time.Second, 30 * time.Second, 15 * time.Minute}).Draw(h.t, "lease"),
			Retry: Retry{
				Policy:      rapid.SampledFrom([]Policy{Never, Constant, Linear, Linear, Exponential, Exponential}).Draw(h.t, "policy"),
				MaxAttempts: uint32(rapid.IntRange(0, 20).Draw(h.t, "max")),
				Delay:       rapid.SampledFrom([]time.Duration{0, time.Second, time.Minute}).Draw(h.t, "delay"),
				MaxDelay:    rapid.SampledFrom([]time.Duration{time.Second, time.Hour}).Draw(h.t, "max_delay"),
			},
		},
	}}
}

// nonce draws a new one, one that was used, or none.
func (h *history) nonce() Nonce {
	n := rapid.IntRange(-1, len(h.nonces)+1).Draw(h.t, "nonce")
	switch {
	case n < 0:
		return Nonce{}
	case n < len(h.nonces):
		return h.nonces[n]
	}
	h.nonces = append(h.nonces, nonce(fmt.Sprint("n", len(h.nonces))))
	return h.nonces[len(h.nonces)-1]
}

func (h *history) cause() Cause {
	return rapid.SampledFrom([]Cause{
		CauseOK, CauseExit, CauseExit, CauseExit, CauseExit, CauseSignal, CauseTimeout, CauseOutOfMemory, CauseGPUOutOfMemory, CauseDiskFull,
		CauseLost, CauseFrozen, CauseBadHost, CauseBadHost,
		CauseCanceled, CauseDrained, CauseSpot, CauseExhausted, CauseDeadline,
	}).Draw(h.t, "cause")
}

func (h *history) problem() Problem {
	return Problem{Detail: rapid.SampledFrom([]string{"", "no disk", "no runtime"}).Draw(h.t, "problem")}
}

// apply steps the record and the model, and compares.
func (h *history) apply(ev Event) {
	before := fmt.Sprintf("%+v", h.rec)
	next, effects, err := Step(h.rec, ev, h.now)
	if after := fmt.Sprintf("%+v", h.rec); after != before {
		h.t.Fatalf("%T changed its input\nfrom %s\nto   %s", ev, before, after)
	}
	if want := h.model.step(ev, h.now); !errors.Is(err, want) || err != nil && want == nil {
		h.t.Fatalf("%T%+v: %v, the model says %v", ev, ev, err, want)
	}
	for _, eff := range effects {
		if a, ok := eff.(Archive); ok {
			h.archived = append(h.archived, a.Attempt)
		}
	}
	h.checkAgainstModel(next, effects)
	checkStep(h.t, h.rec, next)
	checkDue(h.t, next, h.now)
	checkDerivable(h.t, next, effects)
	h.checkParent(next, ev)
	h.checkApart(next)
	if next.Rev != h.rec.Rev {
		next.WriteID = nonce(fmt.Sprint("write", next.Rev))
	}
	h.rec = next
}

func (h *history) checkAgainstModel(rec Record, effects []Effect) {
	m := &h.model
	is := model{
		born: rec.ID != "", state: rec.State, cause: rec.Outcome.Cause, told: rec.Outcome.Error, toldBy: rec.Outcome.Version, settledAt: rec.SettledAt, settleID: rec.SettleID,
		deadline: rec.DeadlineAt, call: rec.Call, running: rec.Task.State == TaskAcquired, version: rec.Task.Version,
		claim: m.claim, mayBeLate: m.mayBeLate, // what they allow is compared by what later events return
		lease: rec.Task.Lease, leaseEnd: rec.Task.LeaseEnd, history: whole(rec, h.archived),
		retries: rec.Retries, crashes: rec.Crashes, drains: rec.Drains, sends: rec.Sends,
		notBefore: rec.NotBefore, resendAt: rec.ResendAt, cascade: rec.Cascade,
		sent:      slices.Contains(effects, Effect(Send{Machine: "cpu", ID: "p", Version: rec.Task.Version, Delay: h.delay(rec)})),
		cancelled: slices.Contains(effects, Effect(CancelDescendants{ID: "p"})),
	}
	want := *m
	if !reflect.DeepEqual(is, want) {
		h.t.Fatalf("the record is\n%+v\nthe model\n%+v", is, want)
	}
	for _, eff := range effects {
		if _, ok := eff.(Send); ok && !m.sent {
			h.t.Fatalf("a message that nobody needs: %+v", eff)
		}
	}
}

// checkParent compares what the record and the model say of attaching a child
// under the version and claim of ev.
func (h *history) checkParent(rec Record, ev Event) {
	f, ok := ev.(Fulfil)
	if !ok || rec.ID == "" {
		return
	}
	m := &h.model
	want := m.state == Pending && h.now < m.deadline &&
		(f.ClaimID == Nonce{} || m.running && m.version == f.Version && m.claim == f.ClaimID)
	if err := CheckParent(rec, f.Version, f.ClaimID, h.now); (err == nil) != want {
		h.t.Fatalf("a child below %+v under version %d and claim %s: %v", rec, f.Version, f.ClaimID, err)
	}
	if late := CheckParent(rec, f.Version, Nonce{}, rec.DeadlineAt); late == nil {
		h.t.Fatalf("a child below what is past its deadline")
	}
}

// checkApart takes two ways on from one record: the second must not change
// what came of the first.
func (h *history) checkApart(rec Record) {
	soon := h.now.Add(time.Millisecond)
	one, _, _ := Step(rec, Claim{Worker: "one", ClaimID: nonce("one")}, soon)
	before := fmt.Sprintf("%+v", one)
	Step(rec, Claim{Worker: "two", ClaimID: nonce("two")}, soon)
	Step(rec, Cancel{}, soon)
	if after := fmt.Sprintf("%+v", one); before != after {
		h.t.Fatalf("a record changed with another\nfrom %s\nto   %s", before, after)
	}
}

// delay is how long a message that is sent now must wait.
func (h *history) delay(rec Record) time.Duration { return max(0, rec.NotBefore.Sub(h.now)) }

// whole is every attempt of rec, the archived ones put back.
func whole(rec Record, archived []Attempt) []Attempt {
	all := map[uint32]Attempt{}
	for _, a := range slices.Concat(archived, rec.Attempts) {
		all[a.Number] = a
	}
	var out []Attempt
	for n := range rec.Attempt {
		out = append(out, all[n+1])
	}
	return out
}

// checkStep is what holds between a record and its successor.
func checkStep(t *rapid.T, was, is Record) {
	a, b := was, is
	a.Rev, b.Rev = 0, 0
	a.WriteID, b.WriteID = Nonce{}, Nonce{}
	switch changed := !reflect.DeepEqual(a, b); {
	case changed && is.Rev != was.Rev+1:
		t.Fatalf("changed from rev %d to rev %d", was.Rev, is.Rev)
	case !changed && is.Rev != was.Rev:
		t.Fatalf("rev %d to %d without a change", was.Rev, is.Rev)
	case changed && is.WriteID != Nonce{}:
		t.Fatalf("a changed record keeps its write_id")
	}
	if is.Task.Version < was.Task.Version || is.Attempt < was.Attempt {
		t.Fatalf("version %d to %d, attempt %d to %d", was.Task.Version, is.Task.Version, was.Attempt, is.Attempt)
	}
	if was.State.Terminal() {
		a.Cascade, a.DueAt = b.Cascade, b.DueAt
		if was.Cascade != is.Cascade && is.Cascade || !reflect.DeepEqual(a, b) {
			t.Fatalf("settled, and changed all the same\nfrom %+v\nto   %+v", was, is)
		}
	}
	open := 0
	for _, at := range is.Attempts {
		if at.EndedAt == 0 && at.Cause == "" {
			open++
		}
	}
	if running := is.Task.State == TaskAcquired && !is.Remote(); open > 1 || running != (open == 1) {
		t.Fatalf("%d open attempts, task %s", open, is.Task.State)
	}
	if len(is.Attempts) > 2*keptAttempts {
		t.Fatalf("%d attempts in the record", len(is.Attempts))
	}
}

// checkDue is what holds between a record, its index and the next tick.
func checkDue(t *rapid.T, rec Record, now Time) {
	due := Due(rec)
	if rec.DueAt > due || (rec.DueAt == 0) != (due == 0) {
		t.Fatalf("indexed at %d, due at %d", rec.DueAt, due)
	}
	if rec.Cascade && due != rec.SettledAt {
		t.Fatalf("descendants may be pending, but due at %d", due)
	}
	if rec.ID != "" && !rec.State.Terminal() && (due == 0 || due > rec.DeadlineAt) {
		t.Fatalf("pending until %d, but due at %d", rec.DeadlineAt, due)
	}
	if due == 0 {
		return
	}
	if next, _, _ := Step(rec, Tick{}, rec.DueAt); next.DueAt == rec.DueAt && !next.Cascade {
		t.Fatalf("a tick at the indexed time leaves the index at %d", rec.DueAt)
	}
	held, _, _ := Step(rec, Tick{Hold: true}, max(now, due))
	if again := Due(held); again != 0 && again <= max(now, due) && !held.Cascade {
		t.Fatalf("due at %d, and still at %d after it was put off", due, again)
	}
	at := max(now, due)
	next, effects, err := Step(rec, Tick{}, at)
	switch {
	case err != nil:
		t.Fatalf("a tick: %v", err)
	case next.Rev == rec.Rev && len(effects) == 0:
		t.Fatalf("due at %d, but a tick at %d does nothing: %+v", due, at, rec)
	case Due(next) != 0 && Due(next) <= at && !next.Cascade:
		t.Fatalf("due at %d again after a tick at %d", Due(next), at)
	}
}

// checkDerivable loses the effects that followed a write and looks whether a
// tick, when it is due, finds them again.
func checkDerivable(t *rapid.T, rec Record, effects []Effect) {
	due := Due(rec)
	for _, eff := range effects {
		if _, before := eff.(Archive); before {
			continue // precedes the write
		}
		next, again, _ := Step(rec, Tick{}, due)
		if s, ok := eff.(Send); ok {
			s.Delay = 0 // it waited long enough
			eff = s
		}
		if !slices.Contains(again, eff) && !next.State.Terminal() {
			t.Fatalf("%T is lost for ever: a tick at %d yields %+v", eff, due, again)
		}
	}
}

// TestResumesAreBounded: a task keeps so many of those that resumed it, and is
// resumed by the next one all the same.
func TestResumesAreBounded(t *testing.T) {
	rec := NewRemote("local", "wf", 1_000_000, Protocol{Tags: map[string]string{TagTarget: "poll://any@g"}})
	rec, _, err := Step(Record{}, Create{Record: rec, Worker: "w", Lease: time.Hour}, 1)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 100 {
		id := strings.Repeat("x", MaxChildID-3) + strconv.Itoa(100+n)
		next, _, err := Step(rec, Resume{Awaited: id}, 2)
		if err != nil || next.Rev != rec.Rev+1 || next.Protocol.Resumes[len(next.Protocol.Resumes)-1] != id {
			t.Fatalf("resume %d: rev %d after %d, %v", n, next.Rev, rec.Rev, err)
		}
		rec = next
	}
	if n := len(strings.Join(rec.Protocol.Resumes, "")); n > MaxResumes || n < MaxResumes-MaxChildID {
		t.Errorf("%d bytes are kept, want nearly %d", n, MaxResumes)
	}
}
