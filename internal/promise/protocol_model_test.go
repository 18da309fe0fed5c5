package promise

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// remoteModel is a promise of the protocol as its specification tells of it,
// with our back-off and budget. It shares no line with Step.
type remoteModel struct {
	born, target, timer, exact bool
	state                      State
	task                       TaskState
	version                    uint64
	pid                        string
	ttl                        time.Duration
	deadline, settledAt        Time
	timerAt                    Time // of the lease, or of the next message
	notBefore                  Time
	sends                      uint32
	failures                   int
	callbacks, listeners       []string
	resumes                    []string
	messages, woken, told      int // of the last event
}

func (m *remoteModel) step(ev Event, now Time) error {
	m.messages, m.woken, m.told = 0, 0, 0
	switch ev := ev.(type) {
	case Create:
		return m.create(ev, now)
	case Resume:
		m.resume(ev.Awaited, now)
		return nil
	}
	if !m.born {
		return ErrNotFound
	}
	if m.state == Pending && now >= m.deadline {
		m.expire()
	}
	switch ev := ev.(type) {
	case Settle:
		if m.state != Pending {
			return ErrSettled
		}
		if ev.State == Pending || ev.State == TimedOut {
			return ErrState
		}
		m.settle(ev.State, now)
		return nil
	case Await:
		if m.state != Pending {
			return ErrSettled
		}
		m.callbacks = add(m.callbacks, ev.Awaiter)
		return nil
	case Listen:
		if m.state != Pending {
			return ErrSettled
		}
		m.listeners = add(m.listeners, ev.Address)
		return nil
	case Tick:
		m.tick(now)
		return nil
	case View:
		return nil
	}
	if !m.target {
		return ErrNotFound
	}
	return m.ofTask(ev, now)
}

func (m *remoteModel) create(ev Create, now Time) error {
	if m.born {
		return ErrExists
	}
	tags := ev.Record.Protocol.Tags
	*m = remoteModel{
		born: true, target: tags["resonate:target"] != "", timer: tags["resonate:timer"] == "true",
		exact: ev.Record.Protocol.Exact, deadline: ev.Record.DeadlineAt,
	}
	if m.target {
		m.task = TaskPending
	}
	var delay Time
	fmt.Sscan(tags["resonate:delay"], &delay)
	switch {
	case now >= m.deadline:
		m.expire()
	case !m.target:
	case ev.Worker != "":
		m.take(ev.Worker, ev.Lease, now)
	case delay > now:
		m.notBefore, m.timerAt = delay, delay
	default:
		m.send(now, 0)
	}
	return nil
}

func (m *remoteModel) ofTask(ev Event, now Time) error {
	held := func(version uint64) error {
		if m.state != Pending {
			return ErrSettled
		}
		if m.task != TaskAcquired || m.version != version {
			return ErrVersion
		}
		return nil
	}
	switch ev := ev.(type) {
	case Acquire:
		if m.state != Pending {
			return ErrSettled
		}
		if m.task != TaskPending {
			return ErrState
		}
		if !ev.Latest && ev.Version != m.version {
			return ErrVersion
		}
		m.take(ev.Worker, ev.Lease, now)
	case Heartbeat:
		if ev.Worker != m.pid {
			return ErrVersion
		}
		if err := held(ev.Version); err != nil {
			return err
		}
		m.timerAt = now.Add(m.ttl)
	case Release:
		if err := held(ev.Version); err != nil {
			return err
		}
		m.back(now)
	case Complete:
		if err := held(ev.Version); err != nil {
			return err
		}
		if ev.State == Pending || ev.State == TimedOut {
			return ErrState
		}
		m.settle(ev.State, now)
	case Fence:
		if err := held(ev.Version); err != nil {
			return err
		}
		m.failures = 0
	case Suspend:
		if err := held(ev.Version); err != nil {
			return err
		}
		ready := ev.Ready
		for _, id := range ev.Awaits {
			ready = ready || slices.Contains(m.resumes, id)
		}
		m.resumes = nil
		if ready {
			return ErrReady
		}
		m.task, m.timerAt, m.failures = TaskSuspended, 0, 0
	case Halt:
		if m.state != Pending {
			return ErrSettled
		}
		if m.task != TaskHalted {
			m.task, m.timerAt, m.notBefore, m.sends = TaskHalted, 0, 0, 0
		}
	case Continue:
		if m.task != TaskHalted {
			return ErrState
		}
		m.failures = 0
		m.send(now, 0)
	}
	return nil
}

func (m *remoteModel) tick(now Time) {
	switch {
	case m.state != Pending:
	case m.task == TaskAcquired && now >= m.timerAt:
		m.back(now)
	case m.task == TaskPending && now >= m.timerAt:
		m.sends++
		m.messages++
		m.timerAt = now.Add(resendAfter("p", m.sends))
		if m.exact {
			m.timerAt = now.Add(30 * time.Second)
		}
	}
}

// back is what happens when a worker gave up or was lost.
func (m *remoteModel) back(now Time) {
	if m.exact {
		m.send(now, 0)
		return
	}
	m.failures++
	if m.failures == 21 {
		m.settle(Rejected, now)
		return
	}
	waits := []time.Duration{0, 0, 1, 2, 4, 8, 16, 32}
	wait := time.Minute
	if m.failures < len(waits) {
		wait = waits[m.failures] * time.Second
	}
	m.send(now, wait)
}

func (m *remoteModel) send(now Time, wait time.Duration) {
	m.task, m.sends, m.notBefore = TaskPending, 0, 0
	m.messages++
	first := time.Minute
	if m.exact {
		first = 30 * time.Second
	}
	m.timerAt = now.Add(wait + first)
	if wait > 0 {
		m.notBefore = now.Add(wait)
	}
}

func (m *remoteModel) take(pid string, ttl time.Duration, now Time) {
	m.task, m.pid, m.ttl, m.timerAt = TaskAcquired, pid, ttl, now.Add(ttl)
	m.version++
	m.resumes, m.notBefore, m.sends = nil, 0, 0
}

func (m *remoteModel) resume(id string, now Time) {
	if !m.born || !m.target || m.state != Pending || now >= m.deadline {
		return
	}
	m.resumes = add(m.resumes, id)
	if m.task == TaskSuspended {
		m.send(now, 0)
	}
}

func (m *remoteModel) expire() {
	if m.timer {
		m.settle(Resolved, m.deadline)
	} else {
		m.settle(TimedOut, m.deadline)
	}
}

func (m *remoteModel) settle(s State, at Time) {
	m.state, m.settledAt = s, at
	if m.target {
		m.task = TaskFulfilled
	}
	m.woken, m.told, m.messages = len(m.callbacks), len(m.listeners), 0
	m.callbacks, m.listeners, m.resumes = nil, nil, nil
	m.timerAt, m.notBefore, m.sends = 0, 0, 0
}

func add(set []string, s string) []string {
	if slices.Contains(set, s) {
		return set
	}
	return append(slices.Clone(set), s)
}

// TestProtocolAgainstModel runs random histories of a promise of the protocol
// through Step and through a model.
func TestProtocolAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := history{t: t, now: epoch}
		var m remoteModel
		for range rapid.IntRange(1, 80).Draw(t, "events") {
			h.now += Time(h.pass().Milliseconds())
			ev := h.drawRemote()
			before := dump(h.rec)
			next, effects, err := Step(h.rec, ev, h.now)
			if dump(h.rec) != before {
				t.Fatalf("%T changed its input\nfrom %s\nto   %s", ev, before, dump(h.rec))
			}
			if want := m.step(ev, h.now); !errors.Is(err, want) || err != nil && want == nil {
				if _, exists := ev.(Create); !exists || h.rec.ID == "" || !errors.Is(err, ErrExists) {
					t.Fatalf("%T%+v: %v, the model says %v", ev, ev, err, want)
				}
			}
			compareRemote(t, next, effects, m)
			checkStep(t, h.rec, next)
			checkDue(t, next, h.now)
			checkDerivable(t, next, slices.DeleteFunc(effects, partOfWrite))
			h.rec = next
		}
	})
}

// partOfWrite reports whether an effect need not be found again.
func partOfWrite(eff Effect) bool {
	switch eff.(type) {
	case ResumeAwaiter, Notify:
		return true
	}
	return false
}

// dump is a record and what it points to.
func dump(r Record) string {
	var p Protocol
	if r.Protocol != nil {
		p = *r.Protocol
	}
	r.Protocol = nil
	return fmt.Sprintf("%+v %+v", r, p)
}

// drawRemote draws the next event: mostly by who holds the task.
func (h *history) drawRemote() Event {
	if h.rec.ID == "" {
		return h.drawOpen()
	}
	version := h.rec.Task.Version
	if rapid.IntRange(0, 4).Draw(h.t, "stranger") == 0 {
		version += uint64(rapid.IntRange(0, 2).Draw(h.t, "ahead")) - 1
	}
	worker := rapid.SampledFrom([]string{"w1", "w1", "w2"}).Draw(h.t, "worker")
	id := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(h.t, "id")
	acquire := Acquire{Version: version, Latest: rapid.Bool().Draw(h.t, "latest"), Worker: worker, Lease: 10 * time.Second}
	release := Release{Version: version}
	suspend := Suspend{Version: version, Awaits: []string{id, "d"}, Ready: rapid.IntRange(0, 3).Draw(h.t, "ready") == 0}
	state := State(rapid.IntRange(0, 4).Draw(h.t, "state"))
	events := []Event{
		acquire, release, suspend, Resume{Awaited: id}, Heartbeat{Version: version, Worker: worker}, Fence{Version: version},
		Await{Awaiter: id}, Listen{Address: id}, Tick{}, Tick{}, View{}, Halt{}, Continue{}, h.drawOpen(),
		h.seldom(Complete{Version: version, State: state}), h.seldom(Settle{State: state}),
	}
	switch {
	case rapid.Bool().Draw(h.t, "any"):
	case h.rec.Task.State == TaskPending:
		events = []Event{acquire}
	case h.rec.Task.State == TaskAcquired:
		events = []Event{release, release, release, Tick{}, suspend, Resume{Awaited: id}}
	case h.rec.Task.State == TaskSuspended:
		events = []Event{Resume{Awaited: id}}
	case h.rec.Task.State == TaskHalted:
		events = []Event{Continue{}}
	}
	return rapid.SampledFrom(events).Draw(h.t, "event")
}

func (h *history) drawOpen() Create {
	tags := map[string]string{}
	c := Create{Record: Record{
		ID: "p", Owner: "local", Machine: "sdk:gpu",
		DeadlineAt: h.now.Add(rapid.SampledFrom([]time.Duration{-time.Second, 5 * time.Second, time.Hour, 24 * time.Hour, 720 * time.Hour}).Draw(h.t, "deadline")),
		Protocol:   &Protocol{Tags: tags, Exact: rapid.IntRange(0, 3).Draw(h.t, "exact") == 0},
	}}
	if rapid.IntRange(0, 4).Draw(h.t, "target") > 0 {
		tags[TagTarget] = "poll://any@gpu"
		switch rapid.IntRange(0, 2).Draw(h.t, "born") {
		case 0:
			c.Worker, c.Lease = "w1", 10*time.Second
		case 1:
			tags[TagDelay] = fmt.Sprint(h.now.Add(rapid.SampledFrom([]time.Duration{-time.Second, time.Second, time.Minute}).Draw(h.t, "delay")))
		}
	}
	if rapid.IntRange(0, 3).Draw(h.t, "timer") == 0 {
		tags[TagTimer] = "true"
	}
	return c
}

func compareRemote(t *rapid.T, rec Record, effects []Effect, m remoteModel) {
	if rec.ID == "" {
		return
	}
	p := rec.Protocol
	is := remoteModel{
		born: true, target: p.Tags[TagTarget] != "", timer: p.Tags[TagTimer] == "true", exact: p.Exact,
		state: rec.State, task: rec.Task.State, version: rec.Task.Version, pid: rec.Task.Worker, ttl: rec.Task.Lease,
		deadline: rec.DeadlineAt, settledAt: rec.SettledAt, timerAt: rec.ResendAt, notBefore: rec.NotBefore, sends: rec.Sends,
		failures: int(rec.Crashes), callbacks: p.Callbacks, listeners: p.Listeners, resumes: p.Resumes,
	}
	if rec.Task.State == TaskAcquired {
		is.timerAt = rec.Task.LeaseEnd
	}
	for _, eff := range effects {
		switch eff.(type) {
		case Send:
			is.messages++
		case ResumeAwaiter:
			is.woken++
		case Notify:
			is.told++
		default:
			t.Fatalf("%T is none of the protocol's", eff)
		}
	}
	if !reflect.DeepEqual(is, m) {
		t.Fatalf("the record is\n%+v\nthe model\n%+v", is, m)
	}
}

// TestManyAwaiters settles what more await than one write resumes: the others
// keep the promise due until all are.
func TestManyAwaiters(t *testing.T) {
	rec, _, _ := Step(Record{}, Create{Record: Record{ID: "p", DeadlineAt: epoch + 1000, Protocol: &Protocol{}}}, epoch)
	const all = 2*MaxResumed + 5
	for n := range all {
		rec, _, _ = Step(rec, Await{Awaiter: fmt.Sprint("a", n)}, epoch)
	}
	woken := 0
	var ev Event = Settle{State: Resolved}
	for range 4 {
		next, effects, err := Step(rec, ev, epoch+1)
		if err != nil || len(effects) > MaxResumed {
			t.Fatalf("%d resumed at once: %v", len(effects), err)
		}
		woken += len(effects)
		if due := Due(next) != 0; due != (woken < all) {
			t.Fatalf("%d of %d are resumed, and due at %d", woken, all, Due(next))
		}
		rec, ev = next, Tick{}
	}
	if woken != all {
		t.Fatalf("%d of %d are resumed", woken, all)
	}
}

func TestCron(t *testing.T) {
	at := func(s string) Time {
		v, err := time.Parse(time.DateTime, s)
		if err != nil {
			t.Fatal(err)
		}
		return TimeOf(v)
	}
	for _, c := range []struct{ cron, from, want string }{
		{"* * * * *", "2026-01-31 23:59:00", "2026-02-01 00:00:00"},
		{"*/15 * * * *", "2026-01-01 00:00:00", "2026-01-01 00:15:00"},
		{"5/20 * * * *", "2026-01-01 00:26:00", "2026-01-01 00:45:00"},
		{"0 9 * * mon-fri", "2026-01-02 09:00:00", "2026-01-05 09:00:00"},
		{"0 0 1,15 * *", "2026-01-02 00:00:00", "2026-01-15 00:00:00"},
		{"0 0 13 * 5", "2026-01-01 00:00:00", "2026-01-02 00:00:00"}, // a Friday
		{"0 0 29 2 *", "2026-01-01 00:00:00", "2028-02-29 00:00:00"},
		{"0 0 * * 7", "2026-01-01 00:00:00", "2026-01-04 00:00:00"},
		{"30 * * * * *", "2026-01-01 00:00:30", "2026-01-01 00:01:30"},
		{"0 0 0 1 1 ? 2030", "2026-01-01 00:00:00", "2030-01-01 00:00:00"},
	} {
		cron, err := ParseCron(c.cron)
		if err != nil {
			t.Errorf("%s: %v", c.cron, err)
			continue
		}
		if got := cron.Next(at(c.from)); got != at(c.want) {
			t.Errorf("%s after %s: %s, want %s", c.cron, c.from, got.Std(), c.want)
		}
	}
	never, err := ParseCron("0 0 30 2 *")
	if err != nil || never.Next(at("2026-01-01 00:00:00")) != 0 {
		t.Errorf("30 February: %v, %v", never.Next(0).Std(), err)
	}
	for _, bad := range []string{"", "* * * *", "60 * * * *", "* * 0 * *", "*/0 * * * *", "5-1 * * * *", "x * * * *", "* * * foo *", "1-2-3 * * * *", "* * * * * * * *"} {
		if _, err := ParseCron(bad); err == nil {
			t.Errorf("%q is no cron expression, and is taken for one", bad)
		}
	}
}
