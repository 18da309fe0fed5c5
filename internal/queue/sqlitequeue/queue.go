// Package sqlitequeue is the queue of an embedded deployment: messages are rows
// of the SQLite file that holds the promises. The tables are described in
// package sqlite.
//
// The queue is a hint, so nobody waits for its writes: they ride with the next
// commit. A message goes straight to a receiver that waits in the same process,
// and its row is written as received already; one that is deleted before it
// was written never is. Receivers in other processes find the row once it is
// committed. Waiting receivers are woken by a Send, by a peer's note, or by one
// timer a machine for what becomes visible later.
package sqlitequeue

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/internal/sqlite"
)

// Queue is a [queue.Queue] over a file.
type Queue struct {
	db *sqlite.DB

	mu       sync.Mutex
	machines map[string]*machine
	held     map[int64]*message // by number: those in memory
	last     int64              // the number given last
	salt     int64              // tells the numbers of two processes apart
}

var _ queue.Queue = (*Queue)(nil)

// New returns the queue in db, which the caller closes. cpu and gpu have a
// queue from the start, and so has every machine that the roster knows.
func New(db *sqlite.DB) *Queue {
	q := &Queue{
		db:       db,
		machines: map[string]*machine{"cpu": {}, "gpu": {}},
		held:     make(map[int64]*message),
		salt:     rand.Int64N(256),
	}
	for _, m := range q.machines {
		m.rows = true
	}
	db.Listen(q.hear)
	return q
}

// Send is that of [queue.Queue].
func (q *Queue) Send(ctx context.Context, machine string, body []byte, delay time.Duration) error {
	if err := queue.CheckSend(delay); err != nil {
		return err
	}
	m, err := q.machine(ctx, machine)
	if err != nil {
		return err
	}
	now := time.Now().UnixMilli()
	q.mu.Lock()
	defer q.mu.Unlock()
	msg := &message{
		number: q.number(), machine: machine, body: slices.Clone(body),
		sentAt: now, visibleAt: now + delay.Milliseconds(),
	}
	q.held[msg.number] = msg
	handed := delay == 0 && q.offer(m, msg, now)
	q.sync(msg)
	if !handed && !q.db.Alone() {
		q.db.Hurry() // somebody may wait elsewhere
	}
	return nil
}

// Receive is that of [queue.Queue].
func (q *Queue) Receive(
	ctx context.Context, machine string, limit int, hide, wait time.Duration,
) ([]queue.Delivery, error) {
	if err := queue.CheckReceive(limit, hide, wait); err != nil {
		return nil, err
	}
	m, err := q.machine(ctx, machine)
	if err != nil {
		return nil, err
	}
	var over *time.Timer
	for {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		w := &waiter{limit: limit, hide: hide, woken: make(chan []queue.Delivery, 1)}
		got, rows := q.look(m, w, wait > 0)
		if len(got) == 0 && rows {
			if got, err = q.takeRows(ctx, machine, m, w); err != nil {
				return nil, err
			}
			if len(got) == 0 && wait > 0 {
				continue // wait, unless there is something by now
			}
		}
		if len(got) > 0 || wait == 0 {
			return got, nil
		}
		if over == nil {
			over = time.NewTimer(wait)
			defer over.Stop()
		}
		select {
		case got := <-w.woken:
			if len(got) > 0 {
				return got, nil
			}
		case <-over.C:
			return q.leave(m, w), nil
		case <-ctx.Done():
			if got := q.leave(m, w); len(got) > 0 {
				return got, nil
			}
		}
	}
}

// Extend is that of [queue.Queue].
func (q *Queue) Extend(ctx context.Context, machine, receipt string, hide time.Duration) error {
	if err := queue.CheckHide(hide); err != nil {
		return err
	}
	number, receives, err := parse(receipt)
	if err != nil {
		return err
	}
	m, err := q.machine(ctx, machine)
	if err != nil {
		return err
	}
	now := time.Now().UnixMilli()
	visibleAt := now + hide.Milliseconds()
	if held, err := q.extendHeld(m, message{number: number, receives: receives, visibleAt: visibleAt}, now); held {
		return err
	}
	return q.db.Ask(ctx, func(tx *sqlite.Tx) error {
		n, err := tx.Exec(`UPDATE message SET visible_at = ?
			WHERE number = ? AND receives = ? AND machine = ? AND visible_at > ?`, visibleAt, number, receives, machine, now)
		if err == nil && n == 0 {
			return queue.ErrReceipt
		}
		q.noteOn(tx, machine, m, visibleAt)
		return err
	})
}

// Delete is that of [queue.Queue]. It always succeeds: whether the receipt was
// stale is seen only later, and then the message stays.
func (q *Queue) Delete(ctx context.Context, machine, receipt string) error {
	number, receives, err := parse(receipt)
	if err != nil {
		return err
	}
	if _, err := q.machine(ctx, machine); err != nil {
		return err
	}
	if q.deleteHeld(number, receives) {
		return nil
	}
	q.db.Ride(func(tx *sqlite.Tx) error {
		_, err := tx.Exec("DELETE FROM message WHERE number = ? AND receives = ? AND machine = ?", number, receives, machine)
		return err
	}, nil)
	return nil
}

// Bury is that of [queue.Queue].
func (q *Queue) Bury(ctx context.Context, machine string, d queue.Delivery) error {
	number, receives, err := parse(d.Receipt)
	if err != nil {
		return err
	}
	if _, err := q.machine(ctx, machine); err != nil {
		return err
	}
	held := q.deleteHeld(number, receives)
	return q.db.Write(ctx, func(tx *sqlite.Tx) error {
		n, err := tx.Exec("DELETE FROM message WHERE number = ? AND receives = ? AND machine = ?", number, receives, machine)
		if err != nil {
			return err
		}
		if n == 0 && !held {
			return queue.ErrReceipt
		}
		_, err = tx.Exec("INSERT INTO dead (number, machine, buried_at, body) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
			number, machine, time.Now().UnixMilli(), d.Body)
		return err
	})
}

// Depth is that of [queue.Queue].
func (q *Queue) Depth(ctx context.Context, machine string) (d queue.Depth, err error) {
	if _, err := q.machine(ctx, machine); err != nil {
		return queue.Depth{}, err
	}
	// What still rides counts too.
	if err := q.db.Write(ctx, func(*sqlite.Tx) error { return nil }); err != nil {
		return queue.Depth{}, err
	}
	now := time.Now().UnixMilli()
	err = q.db.Read(ctx, func(c *sqlite.Conn) error {
		return c.Query(`SELECT
			(SELECT count(*) FROM message WHERE machine = ?1 AND visible_at <= ?2),
			(SELECT count(*) FROM message WHERE machine = ?1 AND visible_at > ?2 AND receives > 0),
			(SELECT count(*) FROM message WHERE machine = ?1 AND visible_at > ?2 AND receives = 0),
			(SELECT count(*) FROM dead WHERE machine = ?1)`, func(row []any) error {
			d = queue.Depth{
				Visible: int(row[0].(int64)), InFlight: int(row[1].(int64)),
				Delayed: int(row[2].(int64)), Dead: int(row[3].(int64)),
			}
			return nil
		}, machine, now)
	})
	return d, err
}

// Machines is that of [queue.Queue].
func (q *Queue) Machines(ctx context.Context) ([]string, error) {
	names := []string{"cpu", "gpu"}
	err := q.db.Read(ctx, func(c *sqlite.Conn) error {
		return c.Query("SELECT name FROM machine", func(row []any) error {
			names = append(names, row[0].(string))
			return nil
		})
	})
	slices.Sort(names)
	return slices.Compact(names), err
}

// machine returns what this process knows of a machine's queue. ErrNoQueue
// when nobody ever announced it.
func (q *Queue) machine(ctx context.Context, name string) (*machine, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	q.mu.Lock()
	m, ok := q.machines[name]
	q.mu.Unlock()
	if ok {
		return m, nil
	}
	known := strings.HasPrefix(name, promise.SDKQueue)
	err := q.db.Read(ctx, func(c *sqlite.Conn) error {
		return c.Query("SELECT 1 FROM machine WHERE name = ?", func([]any) error {
			known = true
			return nil
		}, name)
	})
	if err != nil {
		return nil, err
	}
	if !known {
		return nil, fmt.Errorf("%w: %q", queue.ErrNoQueue, name)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.machines[name] == nil {
		q.machines[name] = &machine{rows: true}
	}
	return q.machines[name], nil
}

// number returns a number for a new message: microseconds since the epoch,
// then the salt, so that rows are appended and processes seldom collide (a
// message that does is lost). q.mu is held.
func (q *Queue) number() int64 {
	q.last = max(q.last+256, time.Now().UnixMicro()<<8|q.salt)
	return q.last
}

// receipt names one receive of a message.
func receipt(number, receives int64) string {
	return strconv.FormatInt(number, 36) + "." + strconv.FormatInt(receives, 10)
}

// parse reads what receipt wrote. ErrReceipt.
func parse(receipt string) (number, receives int64, err error) {
	head, tail, _ := strings.Cut(receipt, ".")
	number, err = strconv.ParseInt(head, 36, 64)
	if err == nil {
		receives, err = strconv.ParseInt(tail, 10, 64)
	}
	if err != nil || number < 1 || receives < 1 {
		return 0, 0, queue.ErrReceipt
	}
	return number, receives, nil
}
