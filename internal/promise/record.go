// Package promise is the core of Modulate: what a durable promise is, and
// every way in which it may change.
//
// It is pure. It does no I/O, reads no clock and draws no random number; time
// and nonces come in as arguments. [Step] takes a [Record], an [Event] and the
// time, and returns the next record and the effects that must follow, or a
// sentinel. All state changes of the system are in this package and nowhere
// else; the shell around it (package engine) loads, steps and swaps.
//
// The promise and the task follow the Resonate protocol. What is ours (claim,
// late settle, cancel with children, attempts and their budgets) stands beside
// its transitions, never inside them.
//
//	promise:  pending ──▶ resolved | rejected | rejected_canceled | rejected_timedout
//	task:     pending ──acquire/claim──▶ acquired ──fulfil/settle/cancel/deadline──▶ fulfilled
//	          pending ◀──release, lost lease, retry── acquired
//	          pending ◀──what it awaits is settled── suspended ◀──suspend── acquired
//	          pending ◀──continue── halted ◀──halt── any but fulfilled
package promise

import (
	"encoding/hex"
	"fmt"
	"math"
	"time"
)

// Time is an instant in milliseconds since the Unix epoch, UTC. Zero means
// "never" wherever a field is optional.
type Time int64

// TimeOf returns t in milliseconds.
func TimeOf(t time.Time) Time { return Time(t.UnixMilli()) }

// Add returns t shifted by d, rounded down to a millisecond.
func (t Time) Add(d time.Duration) Time { return t + Time(d.Milliseconds()) }

// Sub returns the time from u to t, and the longest there is if it is longer.
func (t Time) Sub(u Time) time.Duration {
	const longest = math.MaxInt64 / int64(time.Millisecond)
	return time.Duration(max(-longest, min(int64(t-u), longest))) * time.Millisecond
}

// Std returns t as a [time.Time] in UTC.
func (t Time) Std() time.Time { return time.UnixMilli(int64(t)).UTC() }

// A Nonce is 16 random bytes that mark one intended action, so that a repeated
// or retried request can be told from somebody else's. The zero Nonce is none.
type Nonce [16]byte

// String returns n as 32 hexadecimal digits.
func (n Nonce) String() string { return hex.EncodeToString(n[:]) }

// ParseNonce reads the form that [Nonce.String] writes.
func ParseNonce(s string) (n Nonce, err error) {
	if len(s) != 2*len(n) {
		return n, fmt.Errorf("nonce %q: want %d hexadecimal digits", s, 2*len(n))
	}
	if _, err := hex.Decode(n[:], []byte(s)); err != nil {
		return Nonce{}, fmt.Errorf("nonce %q: %w", s, err)
	}
	return n, nil
}

// A Hash is a SHA-256. The zero Hash is none.
type Hash [32]byte

// String returns h as 64 hexadecimal digits.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// IsZero reports whether h is no hash at all.
func (h Hash) IsZero() bool { return h == Hash{} }

// ParseHash reads the form that [Hash.String] writes.
func ParseHash(s string) (h Hash, err error) {
	if len(s) != 2*len(h) {
		return h, fmt.Errorf("sha256 %q: want %d hexadecimal digits", s, 2*len(h))
	}
	if _, err := hex.Decode(h[:], []byte(s)); err != nil {
		return Hash{}, fmt.Errorf("sha256 %q: %w", s, err)
	}
	return h, nil
}

// State is the state of a promise. Every state but [Pending] is terminal.
type State uint8

// The states of a promise.
const (
	Pending State = iota
	Resolved
	Rejected
	Canceled
	TimedOut
)

var stateNames = [...]string{"pending", "resolved", "rejected", "rejected_canceled", "rejected_timedout"}

// String returns the state's name in the protocol and the API.
func (s State) String() string { return stateNames[s] }

// Terminal reports whether a promise in state s can never change again.
func (s State) Terminal() bool { return s != Pending }

// ParseState reads the form that [State.String] writes.
func ParseState(name string) (State, bool) {
	for i, n := range stateNames {
		if n == name {
			return State(i), true
		}
	}
	return 0, false
}

// TaskState is the state of a promise's task.
type TaskState uint8

// The states of a task. A promise that nobody is to execute has none.
const (
	TaskNone TaskState = iota
	TaskPending
	TaskAcquired
	TaskSuspended
	TaskHalted
	TaskFulfilled
)

// String returns the state's name in the protocol.
func (s TaskState) String() string {
	return [...]string{"none", "pending", "acquired", "suspended", "halted", "fulfilled"}[s]
}

// Mode says what a submitter does after submitting.
type Mode uint8

// The modes of a submission. See DESIGN.md, "Modes".
const (
	Detached Mode = iota // answered at once; the top of its own call graph
	RFI                  // answered at once; a child of its parent
	RPC                  // waited for
)

// String returns the mode's name in the API.
func (m Mode) String() string { return [...]string{"detached", "rfi", "rpc"}[m] }

// Cause says why an attempt, or a promise, ended.
type Cause string

// The causes, from the script's own doing to the host's.
const (
	CauseOK             Cause = "ok"                // exit code 0
	CauseExit           Cause = "exit"              // nonzero exit code
	CauseSignal         Cause = "signal"            // killed by a signal that was not ours
	CauseTimeout        Cause = "timeout"           // the attempt's timeout
	CauseOutOfMemory    Cause = "out_of_memory"     // its memory limit
	CauseGPUOutOfMemory Cause = "gpu_out_of_memory" // its device's memory
	CauseDiskFull       Cause = "disk_full"         // its disk limit
	CauseLost           Cause = "lost"              // the lease ran out unextended
	CauseFrozen         Cause = "frozen"            // the worker stood still past its lease
	CauseCanceled       Cause = "canceled"          // the promise was cancelled
	CauseDrained        Cause = "drained"           // the worker gave it back to stop
	CauseSpot           Cause = "spot"              // the instance was reclaimed
	CauseBadHost        Cause = "bad_host"          // the worker could not run it at all
	CauseExhausted      Cause = "exhausted"         // the crash budget was spent
	CauseDeadline       Cause = "deadline"          // the promise's deadline
)

// blame says whose doing the end of an attempt was.
type blame uint8

const (
	others    blame = iota // concluded without its worker, which never reports it
	nobody                 // it went well
	theScript              // retried under the call's policy
	theHost                // retried within the crash budget
)

func (c Cause) blame() blame {
	switch c {
	case CauseOK:
		return nobody
	case CauseExit, CauseSignal, CauseTimeout, CauseOutOfMemory, CauseGPUOutOfMemory, CauseDiskFull:
		return theScript
	case CauseLost, CauseFrozen, CauseBadHost:
		return theHost
	default:
		return others
	}
}

// A Record is all that is stored of one promise. It is a value: functions take
// and return it, and no two records share memory that either may change.
//
// Rev counts writes: [Step] adds one exactly when it changes the record, and a
// store accepts a record only over the one with Rev-1. WriteID is random for
// each intended write, so that the writer can recognise its own.
type Record struct {
	ID      string `cbor:"1,keyasint"`
	Rev     uint64 `cbor:"2,keyasint"`
	WriteID Nonce  `cbor:"3,keyasint"`

	Owner    string `cbor:"4,keyasint"`
	Machine  string `cbor:"5,keyasint"`
	Mode     Mode   `cbor:"6,keyasint,omitempty"`
	Parent   string `cbor:"7,keyasint,omitempty"` // "" at the top of a call graph
	Call     Call   `cbor:"8,keyasint"`
	CallHash Hash   `cbor:"9,keyasint"`

	State      State   `cbor:"10,keyasint,omitempty"`
	Outcome    Outcome `cbor:"11,keyasint,omitzero"` // zero while pending
	CreatedAt  Time    `cbor:"12,keyasint"`
	DeadlineAt Time    `cbor:"13,keyasint"`
	SettledAt  Time    `cbor:"14,keyasint,omitempty"`
	SettleID   Nonce   `cbor:"15,keyasint,omitzero"`

	Task     Task      `cbor:"16,keyasint,omitzero"`
	Attempts []Attempt `cbor:"17,keyasint,omitempty"` // the first and the last three, oldest first
	Attempt  uint32    `cbor:"18,keyasint,omitempty"` // how many there were in all
	Retries  uint32    `cbor:"19,keyasint,omitempty"` // what the script did
	Crashes  uint32    `cbor:"20,keyasint,omitempty"` // what the host did
	Drains   uint32    `cbor:"21,keyasint,omitempty"` // given back; free

	NotBefore Time   `cbor:"22,keyasint,omitempty"` // a retry's earliest start
	ResendAt  Time   `cbor:"23,keyasint,omitempty"` // when the message is taken for lost
	Sends     uint32 `cbor:"24,keyasint,omitempty"` // re-sends since the task became pending
	Cascade   bool   `cbor:"25,keyasint,omitempty"` // descendants may still be pending
	DueAt     Time   `cbor:"26,keyasint,omitempty"` // the indexed time, never later than Due; 0: none

	Protocol *Protocol `cbor:"27,keyasint,omitempty"` // never changed in place; nil: nothing of the protocol's
}

// Task is the right to execute a pending promise. Version rises with every
// claim and is the fencing token; ClaimID tells two claims of one version
// number apart and survives later writes. A task that lost its lease keeps
// both until the next claim, which is what lets an outcome settle late.
type Task struct {
	State    TaskState     `cbor:"1,keyasint,omitempty"`
	Version  uint64        `cbor:"2,keyasint,omitempty"`
	Worker   string        `cbor:"3,keyasint,omitempty"`
	ClaimID  Nonce         `cbor:"4,keyasint,omitzero"`
	Lease    time.Duration `cbor:"5,keyasint,omitempty"` // what an extension grants
	LeaseEnd Time          `cbor:"6,keyasint,omitempty"`
}

// An Attempt is one execution by one worker. EndedAt and Cause are zero while
// it runs.
type Attempt struct {
	Number    uint32 `cbor:"1,keyasint"`
	Version   uint64 `cbor:"2,keyasint"`
	Worker    string `cbor:"3,keyasint"`
	StartedAt Time   `cbor:"4,keyasint"`
	EndedAt   Time   `cbor:"5,keyasint,omitempty"`
	Cause     Cause  `cbor:"6,keyasint,omitempty"`
}

// A Call is what to run.
type Call struct {
	Name      string        `cbor:"1,keyasint"` // the script's file name, no directories
	Script    Hash          `cbor:"2,keyasint"` // blob
	Runtime   string        `cbor:"3,keyasint,omitempty"`
	Stdin     Hash          `cbor:"4,keyasint,omitzero"` // blob; zero: empty
	Input     Input         `cbor:"5,keyasint,omitzero"`
	InputBlob Hash          `cbor:"6,keyasint,omitzero"` // where Input is kept when it is large; it is zero here then
	Timeout   time.Duration `cbor:"7,keyasint"`          // of one attempt
	Lease     time.Duration `cbor:"8,keyasint"`
	Retry     Retry         `cbor:"9,keyasint,omitzero"`
}

// Input is the part of a call that has no fixed size.
type Input struct {
	Args  []string          `cbor:"1,keyasint,omitempty"`
	Env   map[string]string `cbor:"2,keyasint,omitempty"`
	Files []File            `cbor:"3,keyasint,omitempty"`
	Tags  map[string]string `cbor:"4,keyasint,omitempty"`
}

// A File is an input laid beside the script under Name.
type File struct {
	Name   string `cbor:"1,keyasint"`
	SHA256 Hash   `cbor:"2,keyasint"`
	Size   int64  `cbor:"3,keyasint"` // bytes
}

// Outcome is what came of a call.
type Outcome struct {
	Cause     Cause   `cbor:"1,keyasint,omitempty"`
	ExitCode  int     `cbor:"2,keyasint,omitempty"` // when Cause is ok or exit
	Signal    int     `cbor:"3,keyasint,omitempty"` // when Cause is signal
	Version   uint64  `cbor:"4,keyasint,omitempty"` // of the attempt whose output or error this is; 0: none
	Result    Body    `cbor:"5,keyasint,omitzero"`
	Stdout    Stream  `cbor:"6,keyasint,omitzero"`
	Stderr    Stream  `cbor:"7,keyasint,omitzero"`
	Artifacts Body    `cbor:"8,keyasint,omitzero"` // JSON array of artifacts; empty: none
	Usage     Usage   `cbor:"9,keyasint,omitzero"`
	Error     Problem `cbor:"10,keyasint,omitzero"`
}

// Body is bytes kept inline while they are few, else in a blob whose key
// follows from the id, the version and the field.
type Body struct {
	Size   int64  `cbor:"1,keyasint,omitempty"` // bytes
	Inline []byte `cbor:"2,keyasint,omitempty"` // the whole, or empty
	SHA256 Hash   `cbor:"3,keyasint,omitzero"`  // of the blob
}

// Stream is what a script wrote to one of its output streams. Tail is its end;
// it is the whole when it is as long as Size.
type Stream struct {
	Size   int64  `cbor:"1,keyasint,omitempty"` // bytes written by the script
	Cut    int64  `cbor:"2,keyasint,omitempty"` // bytes of them dropped from the middle, over the cap
	Tail   []byte `cbor:"3,keyasint,omitempty"`
	Stored bool   `cbor:"4,keyasint,omitempty"` // chunks of the whole stand in the blobs
}

// Usage is what an attempt used.
type Usage struct {
	Wall   time.Duration `cbor:"1,keyasint,omitempty"`
	CPU    time.Duration `cbor:"2,keyasint,omitempty"`
	MaxRSS int64         `cbor:"3,keyasint,omitempty"` // bytes
}

// Problem says what went wrong beyond the cause, in the words of RFC 9457.
type Problem struct {
	Type   string `cbor:"1,keyasint,omitempty"`
	Title  string `cbor:"2,keyasint,omitempty"`
	Detail string `cbor:"3,keyasint,omitempty"`
}
