package queue

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"modulate/internal/promise"
)

// Memory is a [Queue] in memory, for tests. It starts no goroutine, reads only
// package time's clock, and refuses what Amazon SQS would refuse.
type Memory struct {
	mu     sync.Mutex
	queues map[string]*memoryQueue
}

type memoryQueue struct {
	messages []*memoryMessage // in the order sent
	sent     int              // how many ever
	dead     [][]byte
	changed  chan struct{} // closed and replaced when a message may have become visible
}

type memoryMessage struct {
	number    int // from 1
	body      []byte
	receives  int
	sentAt    time.Time
	visibleAt time.Time
}

var _ Queue = (*Memory)(nil)

// NewMemory returns a Memory with an empty queue for each of machines, and for
// no other machine.
func NewMemory(machines ...string) *Memory {
	m := &Memory{queues: make(map[string]*memoryQueue, len(machines))}
	for _, name := range machines {
		m.queues[name] = &memoryQueue{changed: make(chan struct{})}
	}
	return m
}

// Send is that of [Queue].
func (m *Memory) Send(ctx context.Context, machine string, body []byte, delay time.Duration) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if err := CheckSend(delay); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	q, err := m.queue(machine)
	if err != nil {
		return err
	}
	now := time.Now()
	q.sent++
	q.messages = append(q.messages, &memoryMessage{
		number: q.sent, body: bytes.Clone(body), sentAt: now, visibleAt: now.Add(delay),
	})
	q.wake()
	return nil
}

// Receive is that of [Queue].
func (m *Memory) Receive(ctx context.Context, machine string, limit int, hide, wait time.Duration) ([]Delivery, error) {
	if err := CheckReceive(limit, hide, wait); err != nil {
		return nil, err
	}
	over := time.NewTimer(wait)
	defer over.Stop()
	for {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		got, changed, next, err := m.take(machine, limit, hide)
		if err != nil || len(got) > 0 || wait == 0 {
			return got, err
		}
		var visible <-chan time.Time // nil: nothing becomes visible by itself
		if !next.IsZero() {
			timer := time.NewTimer(time.Until(next))
			defer timer.Stop()
			visible = timer.C
		}
		select {
		case <-changed:
		case <-visible:
		case <-over.C:
			return nil, nil
		case <-ctx.Done():
		}
	}
}

// take receives what is visible. It returns also the channel that tells of
// changes from now on, and when the next hidden message becomes visible.
func (m *Memory) take(machine string, limit int, hide time.Duration) (
	got []Delivery, changed <-chan struct{}, next time.Time, err error,
) {
	m.mu.Lock()
	defer m.mu.Unlock()
	q, err := m.queue(machine)
	if err != nil {
		return nil, nil, time.Time{}, err
	}
	now := time.Now()
	for _, msg := range q.messages {
		if msg.visibleAt.After(now) {
			if next.IsZero() || msg.visibleAt.Before(next) {
				next = msg.visibleAt
			}
			continue
		}
		if len(got) == limit {
			break
		}
		msg.receives++
		msg.visibleAt = now.Add(hide)
		got = append(got, Delivery{
			Body: bytes.Clone(msg.body), Receipt: msg.receipt(),
			Receives: msg.receives, SentAt: promise.TimeOf(msg.sentAt),
		})
	}
	return got, q.changed, next, nil
}

// Extend is that of [Queue].
func (m *Memory) Extend(ctx context.Context, machine, receipt string, hide time.Duration) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if err := CheckHide(hide); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	q, err := m.queue(machine)
	if err != nil {
		return err
	}
	msg, err := q.find(receipt)
	now := time.Now()
	if err != nil || msg == nil || !msg.visibleAt.After(now) {
		return ErrReceipt
	}
	msg.visibleAt = now.Add(hide)
	q.wake()
	return nil
}

// Delete is that of [Queue]. ErrReceipt when the message has been received
// again since, or the receipt is none of this queue's.
func (m *Memory) Delete(ctx context.Context, machine, receipt string) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	q, err := m.queue(machine)
	if err != nil {
		return err
	}
	msg, err := q.find(receipt)
	if err != nil {
		return err
	}
	q.remove(msg)
	return nil
}

// Bury is that of [Queue]. ErrReceipt when the delivery is no longer the
// message's last.
func (m *Memory) Bury(ctx context.Context, machine string, d Delivery) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	q, err := m.queue(machine)
	if err != nil {
		return err
	}
	msg, err := q.find(d.Receipt)
	if err != nil || msg == nil {
		return ErrReceipt
	}
	q.remove(msg)
	q.dead = append(q.dead, msg.body)
	return nil
}

// Depth is that of [Queue].
func (m *Memory) Depth(ctx context.Context, machine string) (Depth, error) {
	if err := ctx.Err(); err != nil {
		return Depth{}, context.Cause(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	q, err := m.queue(machine)
	if err != nil {
		return Depth{}, err
	}
	now := time.Now()
	d := Depth{Dead: len(q.dead)}
	for _, msg := range q.messages {
		switch {
		case !msg.visibleAt.After(now):
			d.Visible++
		case msg.receives > 0:
			d.InFlight++
		default:
			d.Delayed++
		}
	}
	return d, nil
}

// Machines is that of [Queue].
func (m *Memory) Machines(ctx context.Context) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	names := slices.Sorted(maps.Keys(m.queues))
	return slices.DeleteFunc(names, func(name string) bool { return strings.HasPrefix(name, promise.SDKQueue) }), nil
}

// queue returns the machine's queue. m.mu is held.
func (m *Memory) queue(machine string) (*memoryQueue, error) {
	q, ok := m.queues[machine]
	if !ok && strings.HasPrefix(machine, promise.SDKQueue) {
		q, ok = &memoryQueue{changed: make(chan struct{})}, true
		m.queues[machine] = q
	}
	if !ok {
		return nil, fmt.Errorf("%w: %q", ErrNoQueue, machine)
	}
	return q, nil
}

// receipt names the last receive of msg.
func (msg *memoryMessage) receipt() string {
	return strconv.Itoa(msg.number) + "." + strconv.Itoa(msg.receives)
}

// find returns the message whose last receive has that receipt, nil if it is
// gone, ErrReceipt if it was received again or never under this receipt.
func (q *memoryQueue) find(receipt string) (*memoryMessage, error) {
	head, _, _ := strings.Cut(receipt, ".")
	number, err := strconv.Atoi(head)
	if err != nil || number < 1 || number > q.sent {
		return nil, ErrReceipt
	}
	for _, msg := range q.messages {
		if msg.number == number {
			if msg.receipt() != receipt {
				return nil, ErrReceipt
			}
			return msg, nil
		}
	}
	return nil, nil
}

func (q *memoryQueue) remove(msg *memoryMessage) {
	q.messages = slices.DeleteFunc(q.messages, func(m *memoryMessage) bool { return m == msg })
}

func (q *memoryQueue) wake() {
	close(q.changed)
	q.changed = make(chan struct{})
}
