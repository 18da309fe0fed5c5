package sqlitequeue_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/internal/queue/sqlitequeue"
	"modulate/internal/sqlite"
	"modulate/internal/store"
	"modulate/internal/store/sqlitestore"
)

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

// send sends bodies to cpu.
func send(t *testing.T, q *sqlitequeue.Queue, bodies ...string) {
	t.Helper()
	for _, body := range bodies {
		if err := q.Send(t.Context(), "cpu", []byte(body), 0); err != nil {
			t.Fatal(err)
		}
	}
}

// receive receives one message of cpu. It may be called on any goroutine.
func receive(t *testing.T, q *sqlitequeue.Queue, hide time.Duration) queue.Delivery {
	t.Helper()
	got, err := q.Receive(t.Context(), "cpu", 1, hide, queue.MaxWait)
	if err != nil || len(got) != 1 {
		t.Errorf("%d messages, %v", len(got), err)
		return queue.Delivery{}
	}
	return got[0]
}

// flush commits what rides.
func flush(t *testing.T, db *sqlite.DB) {
	t.Helper()
	if err := db.Write(t.Context(), func(*sqlite.Tx) error { return nil }); err != nil {
		t.Fatal(err)
	}
}

// rows returns how many messages are in the file.
func rows(t *testing.T, db *sqlite.DB) (n int64) {
	t.Helper()
	err := db.Read(t.Context(), func(c *sqlite.Conn) error {
		return c.Query("SELECT count(*) FROM message", func(row []any) error {
			n = row[0].(int64)
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestMessagesSurviveClosing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	q, db := openAt(t, path)
	send(t, q, "a", "b")
	receive(t, q, 50*time.Millisecond)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	q, _ = openAt(t, path)
	bodies := []string{string(receive(t, q, time.Hour).Body), string(receive(t, q, time.Hour).Body)}
	if slices.Sort(bodies); !slices.Equal(bodies, []string{"a", "b"}) {
		t.Errorf("got %q", bodies)
	}
}

// What is received and deleted before it was written is never written: the
// peers hear of no message.
func TestAShortLifeCostsNoWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	q, db := openAt(t, path)
	_, peer := openAt(t, path)
	heard := make(chan sqlite.Note, 100)
	peer.Listen(func(n sqlite.Note, _ bool) { heard <- n })
	for db.Alone() { // until then it tells nobody
		<-time.After(time.Millisecond)
	}
	if got, err := q.Receive(t.Context(), "cpu", 1, 0, 0); err != nil || len(got) != 0 {
		t.Fatal(got, err) // it knows now that there is no row
	}
	started, over := make(chan struct{}), make(chan struct{})
	db.Ride(func(*sqlite.Tx) error { // until then the writer is busy
		close(started)
		<-over
		return nil
	}, nil)
	db.Hurry()
	<-started
	send(t, q, "a")
	if err := q.Delete(t.Context(), "cpu", receive(t, q, time.Hour).Receipt); err != nil {
		t.Fatal(err)
	}
	close(over)
	if err := sqlitestore.New(db).Create(t.Context(), promise.Record{ID: "marker", Rev: 1}); err != nil {
		t.Fatal(err)
	}
	for n := range heard {
		if n.Kind == sqlite.Machine {
			t.Error("the message was written")
		}
		if n.Kind == sqlite.Promise {
			break
		}
	}
	if n := rows(t, db); n != 0 {
		t.Errorf("%d rows are left", n)
	}
}

func TestAPeerReceivesWhatIsSent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	sender, _ := openAt(t, path)
	receiver, _ := openAt(t, path)
	got := make(chan queue.Delivery)
	for _, body := range []string{"a", "b", "c"} {
		go func() { got <- receive(t, receiver, time.Hour) }()
		send(t, sender, body)
		if d := <-got; string(d.Body) != body || d.Receives != 1 {
			t.Errorf("got %q, want %q", d.Body, body)
		}
	}
}

// Of two processes that receive, one gets a message; which one hides it gives
// it back to the other.
func TestPeersShareAQueue(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	a, dbA := openAt(t, path)
	b, _ := openAt(t, path)
	const messages = 200
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	got := make(chan string, 2*messages)
	ended := make(chan struct{})
	for _, q := range []*sqlitequeue.Queue{a, b, a, b} {
		go func() {
			deleteAll(ctx, t, q, got)
			ended <- struct{}{}
		}()
	}
	for i := range messages {
		send(t, []*sqlitequeue.Queue{a, b}[i%2], fmt.Sprint(i))
	}
	seen := map[string]int{}
	for range messages {
		select {
		case body := <-got:
			seen[body]++
		case <-ctx.Done():
			t.Fatalf("%d of %d messages", len(seen), messages)
		}
	}
	cancel()
	for range 4 {
		<-ended
	}
	if len(seen) != messages {
		t.Errorf("%d messages came twice", messages-len(seen))
	}
	flush(t, dbA)
}

// deleteAll receives and deletes until ctx ends, and says what.
func deleteAll(ctx context.Context, t *testing.T, q *sqlitequeue.Queue, got chan<- string) {
	for {
		ds, err := q.Receive(ctx, "cpu", 3, time.Hour, queue.MaxWait)
		if err != nil {
			return
		}
		for _, d := range ds {
			if err := q.Delete(ctx, "cpu", d.Receipt); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
			got <- string(d.Body)
		}
	}
}

// What one process has received and does not delete wakes a receiver that
// waits in another when it is visible again, though nobody tells it then.
func TestAPeerWakesWhenAMessageIsVisibleAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	a, _ := openAt(t, path)
	b, _ := openAt(t, path)
	send(t, a, "x")
	const hide = 200 * time.Millisecond
	got := make(chan queue.Delivery)
	start := time.Now()
	first := receive(t, a, hide)
	go func() { got <- receive(t, b, time.Hour) }()
	again := <-got
	if again.Receives != 2 || again.Receipt == first.Receipt {
		t.Errorf("first %+v, then %+v", first, again)
	}
	if passed := time.Since(start); passed < hide-2*time.Millisecond {
		t.Errorf("visible again after %v", passed)
	}
	if err := a.Extend(t.Context(), "cpu", first.Receipt, 0); !errors.Is(err, queue.ErrReceipt) {
		t.Errorf("a stale receipt: got %v, want ErrReceipt", err)
	}
	if err := a.Bury(t.Context(), "cpu", first); !errors.Is(err, queue.ErrReceipt) {
		t.Errorf("burying by a stale receipt: got %v, want ErrReceipt", err)
	}
	if err := a.Delete(t.Context(), "cpu", first.Receipt); err != nil { // nobody waits to learn
		t.Error(err)
	}
	if err := b.Extend(t.Context(), "cpu", again.Receipt, time.Hour); err != nil {
		t.Errorf("the stale calls touched the message: %v", err)
	}
}

func TestAnAnnouncedMachineHasAQueue(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	q, _ := openAt(t, path)
	_, peer := openAt(t, path)
	if err := q.Send(t.Context(), "tpu", []byte("a"), 0); !errors.Is(err, queue.ErrNoQueue) {
		t.Fatalf("got %v, want ErrNoQueue", err)
	}
	if err := sqlitestore.New(peer).Announce(t.Context(), store.Presence{Worker: "w", Machine: "tpu"}); err != nil {
		t.Fatal(err)
	}
	if err := q.Send(t.Context(), "tpu", []byte("a"), 0); err != nil {
		t.Fatal(err)
	}
	machines, err := q.Machines(t.Context())
	if err != nil || !slices.Equal(machines, []string{"cpu", "gpu", "tpu"}) {
		t.Errorf("got %q, %v", machines, err)
	}
	if d, err := q.Depth(t.Context(), "tpu"); err != nil || d.Visible != 1 {
		t.Errorf("got %+v, %v", d, err)
	}
}

// A backlog beyond what is kept in memory is found through the file, whole.
func TestABacklogIsDelivered(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	q, db := openAt(t, path)
	const messages = 3000
	for i := range messages {
		send(t, q, fmt.Sprint(i))
	}
	seen := map[string]bool{}
	for len(seen) < messages {
		got, err := q.Receive(t.Context(), "cpu", queue.MaxReceive, time.Hour, time.Second)
		if err != nil || len(got) == 0 {
			t.Fatalf("%d of %d, then %d messages, %v", len(seen), messages, len(got), err)
		}
		for _, d := range got {
			if seen[string(d.Body)] {
				t.Fatalf("message %s came twice", d.Body)
			}
			seen[string(d.Body)] = true
			if err := q.Delete(t.Context(), "cpu", d.Receipt); err != nil {
				t.Fatal(err)
			}
		}
	}
	flush(t, db)
	if n := rows(t, db); n != 0 {
		t.Errorf("%d rows are left", n)
	}
}

// beChild is a second process on the file: this test binary again. It sends a
// message to itself, receives it, commits something, and waits to be killed.
func beChild(path string) int {
	ctx := context.Background()
	db, err := sqlite.Open(ctx, path)
	if err == nil {
		q := sqlitequeue.New(db)
		go func() { _ = q.Send(ctx, "cpu", []byte("survivor"), 0) }()
		var got []queue.Delivery
		if got, err = q.Receive(ctx, "cpu", 1, 1500*time.Millisecond, queue.MaxWait); err == nil && len(got) == 1 {
			err = sqlitestore.New(db).Announce(ctx, store.Presence{Worker: "w", Machine: "cpu"}) // as a claim would be
		}
	}
	fmt.Println(err)
	<-make(chan struct{})
	return 0
}

func TestAKilledReceiverLeavesTheMessage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	q, db := openAt(t, path)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "SQLITEQUEUE_TEST_CHILD="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewScanner(out)
	said.Scan()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if said.Text() != "<nil>" {
		t.Fatal(said.Text())
	}
	if n := rows(t, db); n != 1 {
		t.Fatalf("%d rows", n)
	}
	if d := receive(t, q, time.Hour); string(d.Body) != "survivor" || d.Receives != 2 {
		t.Errorf("got %q, received %d times", d.Body, d.Receives)
	}
}
