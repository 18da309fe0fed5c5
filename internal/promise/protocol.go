package promise

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The tags that mean something to the core.
const (
	TagTarget = "resonate:target" // who is to execute the promise; without it there is no task
	TagTimer  = "resonate:timer"  // "true": at its deadline the promise resolves
	TagDelay  = "resonate:delay"  // a task's earliest start, milliseconds since the Unix epoch
	TagOrigin = "resonate:origin" // the id at the top of its call graph
	TagBranch = "resonate:branch" // the id whose worker made it
)

// Bounds of what the protocol brings.
const (
	// MaxResumed is how many awaiters one write resumes. More stay in the record,
	// which is due until all are.
	MaxResumed = 80
	// MaxFailures is how often in a row a task may be given back, or lost,
	// without any progress.
	MaxFailures = 20
	// MaxListeners is how many listen to one promise; beyond, the one that has
	// registered first is forgotten. Each process of a client is another one.
	MaxListeners = 100
	// MaxResumes is how many bytes of ids of what has ended a task keeps; beyond,
	// the oldest are forgotten. They are told as a number only.
	MaxResumes = 16 << 10
	// exactResend is when a message is sent again where the protocol is followed
	// to the letter.
	exactResend = 30 * time.Second
)

// Protocol is what a promise has that came through the protocol's door. Of a
// promise without a call it is another program that executes the task, and says
// what is to be settled: such a task has no attempts and no retries, its lease
// ends when it ends, and its deadline cancels nothing.
type Protocol struct {
	Param     Value             `cbor:"1,keyasint,omitzero"`
	Value     Value             `cbor:"2,keyasint,omitzero"`
	Tags      map[string]string `cbor:"3,keyasint,omitempty"`
	Callbacks []string          `cbor:"4,keyasint,omitempty"` // ids of those that await it, oldest first
	Listeners []string          `cbor:"5,keyasint,omitempty"` // addresses to be told, oldest first
	Resumes   []string          `cbor:"6,keyasint,omitempty"` // what was settled of what the task awaits since it was acquired
	Exact     bool              `cbor:"7,keyasint,omitempty"` // no back-off and no budget
	Schedule  *Schedule         `cbor:"8,keyasint,omitempty"` // set: it is no promise but a schedule
}

// Value is what goes into a promise and comes out of it, opaque to us.
type Value struct {
	Headers map[string]string `cbor:"1,keyasint,omitempty"`
	Data    string            `cbor:"2,keyasint,omitempty"`
	HasData bool              `cbor:"3,keyasint,omitempty"` // also when Data is ""
}

// Heartbeat extends the lease of a worker that is known by its name.
type Heartbeat struct {
	Version uint64
	Worker  string
}

// Complete ends the promise by who holds its task. State is Resolved, Rejected
// or Canceled.
type Complete struct {
	Version uint64
	State   State
	Value   Value
}

// Suspend gives the task up until one of Awaits is settled, or with Ready says
// that one is: it stays acquired then. ErrReady: one is; the task stays.
type Suspend struct {
	Version uint64
	Awaits  []string
	Ready   bool
}

// Fence shows that the task is held, and that its worker gets on: what failed
// before is forgotten.
type Fence struct{ Version uint64 }

// Halt stops the task for a person to look at, whoever holds it.
type Halt struct{}

// Continue lets a halted task go on.
type Continue struct{}

// Await registers a callback: the promise's end resumes the task of Awaiter.
// ErrSettled.
type Await struct{ Awaiter string }

// Resume tells a task that what it awaits is settled.
type Resume struct{ Awaited string }

// Listen registers an address to be told of the promise's end. ErrSettled.
type Listen struct{ Address string }

// Remote reports whether another program executes the task, if there is one:
// the promise is no script's.
func (r Record) Remote() bool { return r.Protocol != nil && r.Call.Name == "" }

// Tag returns a tag of the promise's, "" if it has none.
func (r Record) Tag(name string) string {
	if r.Protocol == nil {
		return ""
	}
	return r.Protocol.Tags[name]
}

func (r Record) exact() bool { return r.Protocol != nil && r.Protocol.Exact }

// leaseOver returns when others may take the task.
func (r Record) leaseOver() Time {
	if r.Remote() {
		return r.Task.LeaseEnd
	}
	return r.Task.LeaseEnd.Add(Skew)
}

// protocol returns what the record has of the protocol's, to be changed.
func (s *step) protocol() *Protocol {
	var p Protocol
	if s.rec.Protocol != nil {
		p = *s.rec.Protocol
	}
	s.rec.Protocol = &p
	s.change()
	return &p
}

// open creates a promise that came through the protocol's door.
func (s *step) open(ev Create) {
	s.rec = ev.Record
	s.rec.CreatedAt = s.now
	p := *ev.Record.Protocol
	p.Tags, p.Param.Headers = maps.Clone(p.Tags), maps.Clone(p.Param.Headers)
	s.rec.Protocol = &p
	s.change()
	s.rec.Task = Task{}
	if p.Schedule != nil {
		p.Schedule = p.Schedule.at(s.now)
		return
	}
	if p.Tags[TagTarget] != "" {
		s.rec.Task.State = TaskPending
	}
	if s.now >= s.rec.DeadlineAt {
		s.rec.CreatedAt = s.rec.DeadlineAt
		s.expire()
		return
	}
	delay, _ := strconv.ParseInt(p.Tags[TagDelay], 10, 64) // as the door has checked
	switch {
	case s.rec.Task.State == TaskNone:
	case ev.Worker != "":
		s.begin(ev.Worker, Nonce{}, ev.Lease)
	case Time(delay) > s.now:
		s.rec.NotBefore, s.rec.ResendAt = Time(delay), Time(delay)
	default:
		s.rec.ResendAt = s.now.Add(s.resendAfter(0))
		s.send(0)
	}
}

// ofTask applies the protocol's events that are about a task.
func (s *step) ofTask(ev Event) error {
	if s.rec.Task.State == TaskNone {
		return ErrNotFound
	}
	switch ev := ev.(type) {
	case Heartbeat:
		if s.rec.Task.Worker != ev.Worker {
			return ErrVersion
		}
		return s.extend(Extend{Version: ev.Version})
	case Complete:
		if err := s.mine(ev.Version, Nonce{}); err != nil {
			return err
		}
		if ev.State < Resolved || ev.State > Canceled {
			return ErrState
		}
		s.protocol().Value = ev.Value
		s.settle(ev.State, Outcome{}, Nonce{})
		return nil
	case Suspend:
		return s.suspend(ev)
	case Fence:
		if err := s.mine(ev.Version, Nonce{}); err != nil {
			return err
		}
		if s.rec.Crashes > 0 {
			s.rec.Crashes = 0
			s.change()
		}
		return nil
	case Halt:
		return s.halt()
	case Continue:
		if s.rec.Task.State != TaskHalted {
			return ErrState
		}
		s.rec.Crashes = 0
		s.requeue(0)
		return nil
	}
	return ErrState
}

func (s *step) suspend(ev Suspend) error {
	if err := s.mine(ev.Version, Nonce{}); err != nil {
		return err
	}
	if !s.rec.Remote() {
		return ErrState
	}
	ready := ev.Ready || slices.ContainsFunc(s.rec.Protocol.Resumes, func(id string) bool { return slices.Contains(ev.Awaits, id) })
	if ready && len(s.rec.Protocol.Resumes) > 0 || !ready {
		s.protocol().Resumes = nil
	}
	if ready {
		return ErrReady
	}
	s.rec.Task.State, s.rec.Task.LeaseEnd = TaskSuspended, 0
	s.rec.Crashes = 0
	return nil
}

func (s *step) halt() error {
	switch {
	case s.rec.State.Terminal():
		return ErrSettled
	case !s.rec.Remote():
		return ErrState
	case s.rec.Task.State != TaskHalted:
		s.rec.Task.State, s.rec.Task.LeaseEnd = TaskHalted, 0
		s.rec.NotBefore, s.rec.ResendAt, s.rec.Sends = 0, 0, 0
		s.change()
	}
	return nil
}

// resume tells the task that something it awaits is settled. After its own
// deadline it is no concern of anybody's.
func (s *step) resume(awaited string) error {
	if !s.rec.Remote() || s.rec.State.Terminal() || s.now >= s.rec.DeadlineAt || s.rec.Task.State == TaskNone {
		return nil
	}
	if !slices.Contains(s.rec.Protocol.Resumes, awaited) {
		p := s.protocol()
		p.Resumes = append(slices.Clone(p.Resumes), awaited)
		for bytes := len(strings.Join(p.Resumes, "")); bytes > MaxResumes; p.Resumes = p.Resumes[1:] {
			bytes -= len(p.Resumes[0])
		}
	}
	if s.rec.Task.State == TaskSuspended {
		s.requeue(0)
	}
	return nil
}

// listen adds to one of the lists of those who wait for the end.
func (s *step) listen(ev Event) error {
	if s.rec.State.Terminal() {
		return ErrSettled
	}
	var has Protocol
	if s.rec.Protocol != nil {
		has = *s.rec.Protocol
	}
	switch ev := ev.(type) {
	case Await:
		if !slices.Contains(has.Callbacks, ev.Awaiter) {
			s.protocol().Callbacks = append(slices.Clone(has.Callbacks), ev.Awaiter)
		}
	case Listen:
		if !slices.Contains(has.Listeners, ev.Address) {
			all := append(slices.Clone(has.Listeners), ev.Address)
			s.protocol().Listeners = all[max(0, len(all)-MaxListeners):]
		}
	}
	return nil
}

// tell has those hear of the end who wait for it.
func (s *step) tell() {
	p := s.rec.Protocol
	if p == nil || len(p.Callbacks)+len(p.Listeners)+len(p.Resumes) == 0 {
		return
	}
	p = s.protocol()
	n := min(len(p.Callbacks), MaxResumed)
	for _, id := range p.Callbacks[:n] {
		s.effects = append(s.effects, ResumeAwaiter{Awaiter: id, Awaited: s.rec.ID})
	}
	for _, address := range p.Listeners {
		s.effects = append(s.effects, Notify{ID: s.rec.ID, Address: address})
	}
	p.Callbacks, p.Listeners, p.Resumes = slices.Clone(p.Callbacks[n:]), nil, nil
	if len(p.Callbacks) == 0 {
		p.Callbacks = nil
	}
}

// Later puts off whom a step resumes, but for so many: the others stay on the
// record, which is due until they are. It is for where too many resume the same
// one at once, or one write cannot take them all.
func Later(next Record, effects []Effect, but int) (Record, []Effect) {
	var awaiters []string
	effects = slices.DeleteFunc(slices.Clone(effects), func(eff Effect) bool {
		resume, ok := eff.(ResumeAwaiter)
		if ok && but > 0 {
			but--
			return false
		}
		if ok {
			awaiters = append(awaiters, resume.Awaiter)
		}
		return ok
	})
	if len(awaiters) > 0 {
		p := *next.Protocol
		p.Callbacks = append(awaiters, p.Callbacks...)
		next.Protocol = &p
		next.DueAt = Due(next)
	}
	return next, effects
}

// giveBack gives the task of another program to the next worker, later each time it
// comes back without progress, and not for ever.
func (s *step) giveBack() {
	s.rec.Crashes++
	if s.rec.exact() {
		s.rec.Crashes = 0
	}
	if s.rec.Crashes > MaxFailures {
		s.settle(Rejected, Outcome{Cause: CauseExhausted, Error: Problem{
			Title:  "no worker gets on with it",
			Detail: "given back or lost " + strconv.Itoa(MaxFailures+1) + " times in a row without progress",
		}}, Nonce{})
		return
	}
	s.requeue(failureDelay(s.rec.Crashes))
}

// failureDelay returns the wait after failure number n (from 0) in a row: none
// at first, then 1 s, doubling to a minute.
func failureDelay(n uint32) time.Duration {
	if n < 2 {
		return 0
	}
	return min(time.Second<<(n-2), time.Minute)
}

func (s *step) resendAfter(n uint32) time.Duration {
	if s.rec.exact() {
		return exactResend
	}
	return resendAfter(s.rec.ID, n)
}
