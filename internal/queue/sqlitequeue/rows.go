package sqlitequeue

import (
	"context"
	"time"

	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/internal/sqlite"
)

// taking is one look for visible rows of a machine, within a transaction.
type taking struct {
	q      *Queue
	tx     *sqlite.Tx
	name   string
	m      *machine
	limit  int
	now    int64 // milliseconds since the Unix epoch
	hidden int64 // until when what is taken is hidden, likewise

	numbers []int64
	got     []queue.Delivery
}

// takeRows receives visible rows of a machine for w. It returns before that is
// committed.
func (q *Queue) takeRows(ctx context.Context, name string, m *machine, w *waiter) (got []queue.Delivery, err error) {
	err = q.db.Ask(ctx, func(tx *sqlite.Tx) error {
		now := time.Now().UnixMilli()
		t := &taking{q: q, tx: tx, name: name, m: m, limit: w.limit, now: now, hidden: now + w.hide.Milliseconds()}
		err := t.take()
		got = t.got
		return err
	})
	if err != nil {
		return nil, err
	}
	return got, nil
}

func (t *taking) take() error {
	if err := t.find(); err != nil {
		return err
	}
	for _, number := range t.numbers {
		_, err := t.tx.Exec("UPDATE message SET visible_at = ?, receives = receives + 1 WHERE number = ?", t.hidden, number)
		if err != nil {
			return err
		}
	}
	if len(t.got) > 0 {
		t.q.noteOn(t.tx, t.name, t.m, t.hidden)
	}
	return t.look()
}

// find finds the rows that are visible and that this process does not hold
// ready itself.
func (t *taking) find() error {
	t.q.mu.Lock()
	defer t.q.mu.Unlock()
	t.m.rows = false // what comes from now on is to be looked for again
	return t.tx.Query(`SELECT number, receives, sent_at, body FROM message
		WHERE machine = ? AND visible_at <= ? ORDER BY visible_at LIMIT ?`,
		func(row []any) error {
			number, receives := row[0].(int64), row[1].(int64)+1
			if msg := t.q.held[number]; msg != nil {
				if msg.ready {
					return nil
				}
				msg.receives, msg.visibleAt = receives, t.hidden // it leaves the memory with this commit
			}
			t.numbers = append(t.numbers, number)
			t.got = append(t.got, queue.Delivery{
				Body: row[3].([]byte), Receipt: receipt(number, receives),
				Receives: int(receives), SentAt: promise.Time(row[2].(int64)),
			})
			return nil
		}, t.name, t.now, int64(t.limit))
}

// look notes what is left: perhaps more, and what becomes visible next.
func (t *taking) look() error {
	var next int64
	err := t.tx.Query(`SELECT visible_at FROM message WHERE machine = ? AND visible_at > ? ORDER BY visible_at LIMIT 1`,
		func(row []any) error {
			next = row[0].(int64)
			return nil
		}, t.name, t.now)
	if err != nil {
		return err
	}
	t.q.mu.Lock()
	defer t.q.mu.Unlock()
	if len(t.got) == t.limit {
		t.m.rows = true
		t.m.wake()
	}
	if next != 0 {
		t.q.wakeAt(t.m, next)
	}
	return nil
}

// noteOn notes after the commit, here and at the peers, from when on a row is
// visible.
func (q *Queue) noteOn(tx *sqlite.Tx, name string, m *machine, at int64) {
	tx.Note(sqlite.Note{Kind: sqlite.Machine, Name: name, At: at})
	tx.OnCommit(func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.wakeAt(m, at)
	})
}
