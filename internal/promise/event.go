package promise

import (
	"errors"
	"time"
)

// The sentinels of [Step]. Only [ErrSettled] and [ErrVersion] mean that a
// worker has lost its task; contention and unknown answers are the store's and
// do not.
var (
	ErrExists   = errors.New("the promise exists")
	ErrNotFound = errors.New("there is no such promise")
	ErrSettled  = errors.New("the promise is settled")
	ErrVersion  = errors.New("the task is not held under this version and claim")
	ErrLeased   = errors.New("the task is leased to a worker")
	ErrNotYet   = errors.New("the task is to start later")
	ErrState    = errors.New("the task's state does not allow this")
	ErrParent   = errors.New("the parent is not pending under this claim")
	ErrReady    = errors.New("something that is awaited is settled already")
)

// An Event is something that happens to a promise. The types in this file are
// all there are.
type Event interface{ event() }

// Create brings a promise into being. It is the only event that the zero
// Record accepts. Record carries what the submitter decided: everything up to
// CallHash, DeadlineAt and Protocol; Step fills in the rest. With a Worker the
// task is that worker's from the beginning, under Lease.
type Create struct {
	Record Record
	Worker string
	Lease  time.Duration
}

// View looks at a promise. It changes it only when its deadline has passed.
type View struct{}

// Acquire takes a pending task exactly as the protocol has it: Version must be
// the task's own, unless Latest says to take it at whatever it is.
type Acquire struct {
	Version uint64
	Latest  bool
	Worker  string
	ClaimID Nonce
	Lease   time.Duration // zero: the call's
}

// Claim takes the task at whatever version is stored, expiring a dead lease
// first. ErrLeased: the lease lives, until Task.LeaseEnd plus [Skew].
// ErrNotYet: not before NotBefore. Repeated under the ClaimID that holds the
// task it succeeds and changes nothing.
type Claim struct {
	Worker  string
	ClaimID Nonce
}

// Extend moves the end of the lease to now plus the lease.
type Extend struct {
	Version uint64
	ClaimID Nonce
}

// Release gives the task back unfinished, at no cost to its budgets. The
// script must be dead. Cause is [CauseDrained] or [CauseSpot].
type Release struct {
	Version uint64
	ClaimID Nonce
	Cause   Cause
}

// Fulfil reports how an attempt ended. The promise settles, or its task
// becomes pending again where the retry policy or the crash budget says so.
// Repeated under the SettleID that is stored it succeeds and changes nothing.
// ErrState: a cause that no worker reports.
type Fulfil struct {
	Version  uint64
	ClaimID  Nonce
	SettleID Nonce
	Outcome  Outcome
}

// LateSettle is a Fulfil whose lease may be over: it is accepted while the
// promise is pending and the task has not been claimed since.
type LateSettle Fulfil

// Settle ends a promise from outside, whoever holds its task. State is
// Resolved or Rejected, or Canceled where the promise is no script's.
type Settle struct {
	State    State
	SettleID Nonce
	Outcome  Outcome
	Value    Value
}

// Cancel ends a promise as cancelled, and its descendants with it. Repeated it
// succeeds and changes nothing; over any other end it is ErrSettled.
type Cancel struct{ SettleID Nonce }

// Tick lets time pass: deadlines, dead leases, messages taken for lost,
// effects not known to be finished. Hold puts a re-send off for a while, where
// too many are due at once, and changes nothing else.
type Tick struct{ Hold bool }

// CascadeDone reports that a consistent look found no pending descendant.
type CascadeDone struct{}

func (Heartbeat) event()   {}
func (Complete) event()    {}
func (Suspend) event()     {}
func (Fence) event()       {}
func (Halt) event()        {}
func (Continue) event()    {}
func (Await) event()       {}
func (Resume) event()      {}
func (Listen) event()      {}
func (Fired) event()       {}
func (Reschedule) event()  {}
func (Create) event()      {}
func (View) event()        {}
func (Acquire) event()     {}
func (Claim) event()       {}
func (Extend) event()      {}
func (Release) event()     {}
func (Fulfil) event()      {}
func (LateSettle) event()  {}
func (Settle) event()      {}
func (Cancel) event()      {}
func (Tick) event()        {}
func (CascadeDone) event() {}

// An Effect is what must happen because a record changed. Send and
// CancelDescendants follow the write and can be derived again from the stored
// record: a crash between the two is repaired by a Tick. Archive and Fire
// precede the write, ResumeAwaiter is a part of it, and Notify, which follows,
// may be lost.
type Effect interface{ effect() }

// Send puts a message for the task into its machine's queue, visible after
// Delay.
type Send struct {
	Machine string
	ID      string
	Version uint64
	Delay   time.Duration
}

// CancelDescendants cancels all that is attached below the promise, and
// reports [CascadeDone] once nothing pending is left there.
type CancelDescendants struct{ ID string }

// Archive keeps an attempt that leaves the record. It is done before the
// write, and doing it twice is harmless.
type Archive struct {
	ID      string
	Attempt Attempt
}

// ResumeAwaiter steps the record of Awaiter by [Resume] in the same write as the
// record that it awaits: both or none. There are at most [MaxResumed] of them.
type ResumeAwaiter struct{ Awaiter, Awaited string }

// Notify tells a listener that the promise is settled. It may be lost: who
// listens registers again from time to time.
type Notify struct{ ID, Address string }

// Fire creates the promise of a schedule's run at At, if there is none with its
// id yet, and then steps the schedule by [Fired].
type Fire struct {
	ID string
	At Time
}

func (ResumeAwaiter) effect()     {}
func (Notify) effect()            {}
func (Fire) effect()              {}
func (Send) effect()              {}
func (CancelDescendants) effect() {}
func (Archive) effect()           {}
