package sqlite

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

// block occupies the writer until the returned function is called.
func block(t *testing.T, db *DB) (release func()) {
	t.Helper()
	started, over := make(chan struct{}), make(chan struct{})
	db.Ride(func(*Tx) error {
		close(started)
		<-over
		return nil
	}, nil)
	db.Hurry()
	<-started
	return sync.OnceFunc(func() { close(over) })
}

// pendings waits until n operations are pending.
func pendings(t *testing.T, db *DB, n int) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		db.mu.Lock()
		have := len(db.pending)
		db.mu.Unlock()
		if have == n {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d operations are pending, want %d", have, n)
		}
		<-time.After(100 * time.Microsecond)
	}
}

// commits returns how many transactions other connections have seen.
func commits(t *testing.T, c *Conn) int64 {
	t.Helper()
	n, err := number(c, "PRAGMA data_version")
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestWhatIsPendingSharesACommit(t *testing.T) {
	path := file(t)
	db := open(t, path)
	c, err := dial(path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	release := block(t, db)
	before := commits(t, c)
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			if err := db.Write(t.Context(), insert(fmt.Sprint("a", i))); err != nil {
				t.Error(err)
			}
		})
	}
	pendings(t, db, 50)
	release()
	all.Wait()
	if n := count(t, db, "a"); n != 50 {
		t.Errorf("%d of 50 writes", n)
	}
	if after := commits(t, c); after != before+1 {
		t.Errorf("50 writes took %d commits", after-before)
	}
}

func TestAnAnswerDisturbsNobody(t *testing.T) {
	db := open(t, file(t))
	release := block(t, db)
	refusal := errors.New("refused")
	errs := make(chan error, 3)
	for i, run := range []func(*Tx) error{insert("a"), func(*Tx) error { return refusal }, insert("b")} {
		go func() { errs <- db.Write(t.Context(), run) }()
		pendings(t, db, i+1)
	}
	release()
	refused := 0
	for range 3 {
		if err := <-errs; errors.Is(err, refusal) {
			refused++
		} else if err != nil {
			t.Error(err)
		}
	}
	if n := count(t, db, ""); n != 2 || refused != 1 {
		t.Errorf("%d written, %d refused", n, refused)
	}
}

// What fails in SQLite is undone and fails alone, even if its operation does
// not say so.
func TestAFailureFailsAlone(t *testing.T) {
	db := open(t, file(t))
	release := block(t, db)
	errs := make(map[string]chan error)
	runs := map[string]int{}
	start := func(name string, run func(*Tx) error) {
		errs[name] = make(chan error, 1)
		go func() {
			errs[name] <- db.Write(t.Context(), func(tx *Tx) error {
				runs[name]++
				return run(tx)
			})
		}()
		pendings(t, db, len(errs))
	}
	start("a", insert("a"))
	start("bad", func(tx *Tx) error {
		_, _ = tx.Exec("INSERT INTO machine (name) VALUES ('half')")
		_, _ = tx.Exec("INSERT INTO nowhere VALUES (1)")
		return nil
	})
	start("b", insert("b"))
	release()
	for name, ch := range errs {
		if err := <-ch; (err != nil) != (name == "bad") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if all, half := count(t, db, ""), count(t, db, "half"); all != 2 || half != 0 {
		t.Errorf("%d rows, %d of them of the operation that failed", all, half)
	}
	if runs["a"] != 2 {
		t.Errorf("a ran %d times: it was not in the batch that failed", runs["a"])
	}
}

func TestWithdrawnIsNotWritten(t *testing.T) {
	db := open(t, file(t))
	release := block(t, db)
	defer release()
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	got := make(chan error, 1)
	go func() { got <- db.Write(ctx, insert("a")) }()
	pendings(t, db, 1)
	cancel(cause)
	if err := <-got; err != cause {
		t.Errorf("got %v, want the cause alone: nothing was written", err)
	}
	release()
	if err := db.Write(t.Context(), insert("b")); err != nil {
		t.Fatal(err)
	}
	if n := count(t, db, "a"); n != 0 {
		t.Error("what was withdrawn is written")
	}
}

func TestUnderWayIsUnknown(t *testing.T) {
	db := open(t, file(t))
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	running, over := make(chan struct{}), make(chan struct{})
	release := block(t, db)
	got := make(chan error, 1)
	go func() {
		got <- db.Write(ctx, func(tx *Tx) error {
			close(running)
			<-over
			return insert("a")(tx)
		})
	}()
	pendings(t, db, 1)
	release()
	<-running
	cancel(cause)
	if err := <-got; !errors.Is(err, cause) || err == cause {
		t.Errorf("got %v, want an unknown outcome because of the cause", err)
	}
	close(over)
	if err := db.Write(t.Context(), insert("b")); err != nil {
		t.Fatal(err)
	}
	if n := count(t, db, "a"); n != 1 {
		t.Error("the write that was under way is lost")
	}
}

func TestRidesWithTheNextCommit(t *testing.T) {
	path := file(t)
	db := open(t, path)
	c, err := dial(path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	before := commits(t, c)
	done := make(chan struct{})
	began := time.Now()
	db.Ride(func(tx *Tx) error {
		tx.OnCommit(func() { close(done) })
		return insert("a")(tx)
	}, nil)
	if err := db.Write(t.Context(), insert("b")); err != nil {
		t.Fatal(err)
	}
	<-done
	slow := time.Since(began) >= rideFor // it may have been alone
	if after := commits(t, c); after != before+1 && !slow {
		t.Errorf("it took %d commits", after-before)
	}
}

func TestRidesAloneIfNoCommitComes(t *testing.T) {
	db := open(t, file(t))
	done := make(chan struct{})
	start := time.Now()
	db.Ride(func(tx *Tx) error {
		tx.OnCommit(func() { close(done) })
		return insert("a")(tx)
	}, nil)
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("never written")
	}
	if n := count(t, db, "a"); n != 1 {
		t.Errorf("%d rows", n)
	}
	t.Logf("after %v", time.Since(start))
}

func TestAskAnswersBeforeTheCommit(t *testing.T) {
	db := open(t, file(t))
	answered := make(chan struct{})
	db.Ride(func(tx *Tx) error { return nil }, nil) // shares the batch
	err := db.Ask(t.Context(), func(tx *Tx) error {
		tx.OnCommit(func() { <-answered })
		return insert("a")(tx)
	})
	if err != nil {
		t.Fatal(err)
	}
	close(answered) // the commit waits for this, the answer did not
	if err := db.Write(t.Context(), insert("b")); err != nil {
		t.Fatal(err)
	}
	if n := count(t, db, "a"); n != 1 {
		t.Errorf("%d rows", n)
	}
}

func TestFullDiskWritesNothing(t *testing.T) {
	db := open(t, file(t))
	pragma := func(query string) {
		t.Helper()
		err := db.Write(t.Context(), func(tx *Tx) error { return tx.Query(query, func([]any) error { return nil }) })
		if err != nil {
			t.Fatal(err)
		}
	}
	pages, err := number(db.writer, "PRAGMA page_count")
	if err != nil {
		t.Fatal(err)
	}
	pragma(fmt.Sprintf("PRAGMA max_page_count = %d", pages+3))
	big := func(tx *Tx) error {
		_, err := tx.Exec("INSERT INTO dead (machine, buried_at, body) VALUES ('cpu', 0, ?)", make([]byte, 5000))
		return err
	}
	var failed error
	written := int64(0)
	for range 100 {
		if failed = db.Write(t.Context(), big); failed != nil {
			break
		}
		written++
	}
	if !errors.Is(failed, ErrFull) {
		t.Fatalf("got %v, want ErrFull", failed)
	}
	var rows int64
	err = db.Read(t.Context(), func(c *Conn) (err error) {
		rows, err = number(c, "SELECT count(*) FROM dead")
		return err
	})
	if err != nil || rows != written {
		t.Errorf("%d rows of %d that were acknowledged (%v)", rows, written, err)
	}
	pragma("PRAGMA max_page_count = 1000000")
	if err := db.Write(t.Context(), big); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

// Who rides is told that it was not written, once, and not of the others in its
// batch.
func TestALostRideIsTold(t *testing.T) {
	db := open(t, file(t))
	var lost []string
	ride := func(name string, run func(*Tx) error) {
		db.Ride(run, func() { lost = append(lost, name) })
	}
	release := block(t, db)
	ride("first", insert("a"))
	ride("fails", func(tx *Tx) error {
		_, err := tx.Exec("INSERT INTO nowhere VALUES (1)")
		return err
	})
	ride("last", insert("b"))
	release()
	if err := db.Write(t.Context(), insert("c")); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(lost, []string{"fails"}) {
		t.Errorf("lost: %q", lost)
	}
	if n := count(t, db, "a") + count(t, db, "b"); n != 2 {
		t.Errorf("%d of 2 are written", n)
	}
}

// One that writes all the time lets others write too.
func TestWritersTakeTurns(t *testing.T) {
	path := file(t)
	busy, other := open(t, path), open(t, path)
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				if err := busy.Write(ctx, insert(fmt.Sprintf("busy%d-%d", i, n))); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
			}
		})
	}
	start := time.Now()
	for n := range 50 {
		if err := other.Write(t.Context(), insert(fmt.Sprintf("other%d", n))); err != nil {
			t.Error(err)
		}
	}
	took, busyWrote := time.Since(start), count(t, busy, "busy")
	stop()
	all.Wait()
	if took > patience {
		t.Errorf("50 writes beside a busy process took %v", took)
	}
	t.Logf("50 writes in %v, while the other did %d", took, busyWrote)
}

// A process that is stopped in the middle of a commit stalls the others, but
// who stops waiting has written nothing, and Close comes to an end.
func TestAStoppedWriterIsWaitedFor(t *testing.T) {
	path := file(t)
	db, other := open(t, path), open(t, path)
	stopped, err := dial(path)
	if err != nil {
		t.Fatal(err)
	}
	defer stopped.close()
	if _, err := stopped.Exec("BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	got := make(chan error, 2)
	for _, name := range []string{"leads", "follows"} {
		go func() { got <- db.Write(ctx, insert(name)) }()
	}
	pendings(t, db, 2)
	cancel(cause)
	for range 2 {
		if err := <-got; err != cause {
			t.Errorf("got %v, want the cause alone: nothing was written", err)
		}
	}
	waits := make(chan error, 1)
	go func() { waits <- other.Write(t.Context(), insert("closed")) }()
	pendings(t, other, 1)
	if err := other.Close(); err != nil {
		t.Error(err)
	}
	if err := <-waits; !errors.Is(err, ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
	if _, err := stopped.Exec("ROLLBACK"); err != nil { // it goes on
		t.Fatal(err)
	}
	if err := db.Write(t.Context(), insert("later")); err != nil {
		t.Fatal(err)
	}
	if n := count(t, db, ""); n != 1 {
		t.Errorf("%d rows, want 1", n)
	}
}
