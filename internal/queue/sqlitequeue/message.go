package sqlitequeue

import (
	"slices"

	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/internal/sqlite"
)

// message is a message in memory: one whose row is not yet as it should be, or
// one that this process may hand to its own receivers without asking the file.
// It is what the row should be; when it has left the memory the row alone
// counts.
type message struct {
	number    int64
	machine   string
	body      []byte
	sentAt    int64 // milliseconds since the Unix epoch
	visibleAt int64 // likewise
	receives  int64

	gone    bool // it is deleted: the row should not be
	written bool // there may be a row
	syncing bool // an operation that makes the row right is pending
	ready   bool // it is in its machine's ready list
}

// sync has the row made right with the next commit. q.mu is held.
func (q *Queue) sync(msg *message) {
	if msg.syncing {
		return
	}
	msg.syncing = true
	q.db.Ride(func(tx *sqlite.Tx) error { return q.write(tx, msg) }, func() { q.lost(msg) })
}

// write makes the row right.
func (q *Queue) write(tx *sqlite.Tx, msg *message) error {
	q.mu.Lock()
	want := *msg
	msg.syncing = false // what changes from now on is for the next operation
	msg.written = msg.written || !msg.gone
	q.mu.Unlock()
	if want.gone {
		if !want.written {
			return nil
		}
		_, err := tx.Exec("DELETE FROM message WHERE number = ?", want.number)
		return err
	}
	_, err := tx.Exec(`INSERT INTO message (number, machine, sent_at, visible_at, receives, body)
		VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (number) DO UPDATE
		SET visible_at = excluded.visible_at, receives = excluded.receives`,
		want.number, want.machine, want.sentAt, want.visibleAt, want.receives, want.body)
	tx.Note(sqlite.Note{Kind: sqlite.Machine, Name: want.machine, At: want.visibleAt})
	tx.OnCommit(func() { q.written(msg) })
	return err
}

// written notes that the row is committed. Unless it is wrong again by now, or
// the message is ours to hand out, it leaves the memory.
func (q *Queue) written(msg *message) {
	q.mu.Lock()
	defer q.mu.Unlock()
	m := q.machines[msg.machine]
	if msg.gone || msg.syncing || msg.ready && !m.rows && q.db.Alone() {
		return
	}
	m.drop(msg)
	delete(q.held, msg.number)
	q.wakeAt(m, msg.visibleAt)
}

// lost notes that the row could not be made right. Unless the message waits to
// be handed out, it leaves the memory: the row, if there is one, counts, and
// for what is lost the sweep sends again.
func (q *Queue) lost(msg *message) {
	q.mu.Lock()
	defer q.mu.Unlock()
	msg.syncing = false
	if !msg.ready {
		delete(q.held, msg.number)
	}
}

// receive marks msg as received for w, and returns the delivery. q.mu is held.
func (q *Queue) receive(m *machine, msg *message, w *waiter, now int64) queue.Delivery {
	m.drop(msg)
	msg.receives++
	msg.visibleAt = now + w.hide.Milliseconds()
	q.wakeAt(m, msg.visibleAt)
	q.sync(msg)
	return queue.Delivery{
		Body:     slices.Clone(msg.body),
		Receipt:  receipt(msg.number, msg.receives),
		Receives: int(msg.receives),
		SentAt:   promise.Time(msg.sentAt),
	}
}

// deleteHeld deletes the message if it is in memory under that receipt.
func (q *Queue) deleteHeld(number, receives int64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	msg := q.held[number]
	if msg == nil || msg.receives != receives || msg.ready {
		return false
	}
	msg.gone = true
	delete(q.held, number)
	q.sync(msg)
	return true
}

// extendHeld hides the message until want.visibleAt if it is in memory under
// want's receipt; held is false if it is not in memory.
func (q *Queue) extendHeld(m *machine, want message, now int64) (held bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	msg := q.held[want.number]
	if msg == nil {
		return false, nil
	}
	if msg.ready || msg.receives != want.receives || msg.visibleAt <= now {
		return true, queue.ErrReceipt
	}
	msg.visibleAt = want.visibleAt
	q.sync(msg)
	if msg.visibleAt > now {
		q.wakeAt(m, msg.visibleAt)
	} else {
		q.offer(m, msg, now)
	}
	return true, nil
}
