package sqlitequeue

import (
	"context"
	"time"

	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/internal/sqlite"
)

// takeRows receives visible rows of a machine for w. It returns before that is
// committed.
func (q *Queue) takeRows(ctx context.Context, name string, m *machine, w *waiter) (got []queue.Delivery, err error) {
	err = q.db.Ask(ctx, func(tx *sqlite.Tx) error {
		numbers, found, err := q.visible(tx, name, m, w.limit)
		if err != nil {
			return err
		}
		now := time.Now().UnixMilli()
		hidden := now + w.hide.Milliseconds()
		for _, number := range numbers {
			_, err := tx.Exec("UPDATE message SET visible_at = ?, receives = receives + 1 WHERE number = ?", hidden, number)
			if err != nil {
				return err
			}
		}
		got = found
		if len(got) > 0 {
			q.noteOn(tx, name, m, hidden)
		}
		return q.whatIsLeft(tx, name, m, now, len(got) == w.limit)
	})
	if err != nil {
		return nil, err
	}
	return got, nil
}

// visible returns up to limit visible rows that this process does not hold
// ready itself, as they will be received.
func (q *Queue) visible(tx *sqlite.Tx, name string, m *machine, limit int) (numbers []int64, got []queue.Delivery, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	m.rows = false // what is seen from now on is to be looked for again
	err = tx.Query(`SELECT number, receives, sent_at, body FROM message
		WHERE machine = ? AND visible_at <= ? ORDER BY visible_at LIMIT ?`,
		func(row []any) error {
			number, receives := row[0].(int64), row[1].(int64)+1
			if msg := q.held[number]; msg != nil && msg.ready {
				return nil
			}
			numbers = append(numbers, number)
			got = append(got, queue.Delivery{
				Body: row[3].([]byte), Receipt: receipt(number, receives),
				Receives: int(receives), SentAt: promise.Time(row[2].(int64)),
			})
			return nil
		}, name, time.Now().UnixMilli(), int64(limit))
	return numbers, got, err
}

// whatIsLeft notes what there is after rows were taken: perhaps more, and what
// becomes visible next.
func (q *Queue) whatIsLeft(tx *sqlite.Tx, name string, m *machine, now int64, more bool) error {
	var next int64
	err := tx.Query(`SELECT visible_at FROM message WHERE machine = ? AND visible_at > ? ORDER BY visible_at LIMIT 1`,
		func(row []any) error {
			next = row[0].(int64)
			return nil
		}, name, now)
	if err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if more {
		m.rows = true
		m.wake()
	}
	if next != 0 {
		q.wakeAt(m, next)
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
