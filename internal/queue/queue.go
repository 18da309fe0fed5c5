// Package queue carries hints from those who create work to those who do it:
// one queue for each machine, the port, the form of a message, and an
// implementation in memory.
//
// The queue is never the truth. Losing, doubling, delaying or reordering any
// message is harmless, because a receiver claims the stored record and the
// sweep sends again.
package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"modulate/internal/promise"
)

// The errors of a Queue. Any other means that the outcome is unknown.
var (
	// ErrNoQueue: there is no queue for that machine (any more).
	ErrNoQueue = errors.New("no queue for this machine")
	// ErrThrottled: there is no capacity for now. A later try may succeed.
	ErrThrottled = errors.New("the queues have no capacity left for now")
	// ErrDeployment: this program may not use the queue. No try again helps
	// before somebody has allowed what the error says.
	ErrDeployment = errors.New("the queues are not open to this program")
	// ErrReceipt: the receipt names no message that is in flight. Advisory:
	// some queues answer nil instead.
	ErrReceipt = errors.New("the receipt is stale")
	// ErrGarbage: the body of a message is not a message.
	ErrGarbage = errors.New("not a message")
	// ErrNewer: the message was made by a newer version of the program.
	ErrNewer = errors.New("a message of a newer version")
)

// A Queue delivers messages at least once, in no order.
//
// Names: a machine's name, or [promise.SDKQueue] and a group for the tasks of
// other programs. Embedded, every group has a queue; on AWS those do whose
// machine's stack makes one.
// Durability: a message that was sent survives as long as the queue's medium
// does; an embedded queue may lose the last moments before a crash.
// Time: a queue may count in whole seconds; it rounds up, and a receive then
// hides for one at least.
// Concurrency: all methods may be called at any time from any goroutine.
type Queue interface {
	// Send puts body into the machine's queue, visible after delay (at most
	// [MaxDelay]). ErrNoQueue.
	Send(ctx context.Context, machine string, body []byte, delay time.Duration) error

	// Receive takes up to limit visible messages (1 to [MaxReceive]) and hides
	// each for the time given, at most [MaxVisibility]. It waits until there is
	// one, until wait is over (no message, nil error), or for ctx's end.
	// ErrNoQueue.
	Receive(ctx context.Context, machine string, limit int, hide, wait time.Duration) ([]Delivery, error)

	// Extend makes a received message visible again after hide from now; zero
	// is at once. ErrReceipt.
	Extend(ctx context.Context, machine, receipt string, hide time.Duration) error

	// Delete ends a message. A message that is gone already is no error.
	Delete(ctx context.Context, machine, receipt string) error

	// Bury moves a received message to the machine's dead-letter queue, for a
	// person to look at.
	Bury(ctx context.Context, machine string, d Delivery) error

	// Depth returns about how many messages there are. ErrNoQueue.
	Depth(ctx context.Context, machine string) (Depth, error)

	// Machines returns the machines that have a queue, sorted, and no groups.
	Machines(ctx context.Context) ([]string, error)
}

// Limits of every queue; those of Amazon SQS.
const (
	MaxDelay      = 15 * time.Minute
	MaxReceive    = 10
	MaxVisibility = 12 * time.Hour
	MaxWait       = 20 * time.Second
)

// A Delivery is one receipt of a message.
type Delivery struct {
	Body     []byte
	Receipt  string       // names this delivery in Extend, Delete and Bury
	Receives int          // how often the message was received, this time included
	SentAt   promise.Time // when it was first sent
}

// Depth counts a queue's messages: to be received now, received and not yet
// deleted, to become visible later, and dead.
type Depth struct{ Visible, InFlight, Delayed, Dead int }

// messageVersion is the version of the message's form.
const messageVersion = 1

// A Message says that a promise's task wants a worker. Version is that of the
// task when it was sent: a hint, for the stored one decides.
type Message struct {
	V       int    `json:"v"`
	ID      string `json:"id"`
	Version uint64 `json:"version"`
}

// Encode returns the body of a message: JSON of ASCII characters only.
func Encode(id string, version uint64) []byte {
	b, err := json.Marshal(Message{V: messageVersion, ID: id, Version: version})
	if err != nil { // a string and two numbers
		panic(err)
	}
	return b
}

// Decode reads a body. ErrNewer: leave it to a newer worker. ErrGarbage: bury
// it.
func Decode(body []byte) (Message, error) {
	var m Message
	if err := json.Unmarshal(body, &m); err != nil {
		return Message{}, fmt.Errorf("%w: %w", ErrGarbage, err)
	}
	if m.V > messageVersion {
		return m, fmt.Errorf("%w: v %d, this program knows %d", ErrNewer, m.V, messageVersion)
	}
	if m.V < 1 || !promise.ValidStoredID(m.ID) {
		return Message{}, fmt.Errorf("%w: v %d, id %q", ErrGarbage, m.V, m.ID)
	}
	return m, nil
}
