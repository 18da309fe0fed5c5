package sqlitestore_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"modulate/internal/promise"
	"modulate/internal/sqlite"
	"modulate/internal/store/sqlitestore"
)

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

// beChild is a second process on a store: this test binary again. It says on
// stdout what is acknowledged, and does what stdin says.
func beChild(job string) int {
	db, err := sqlite.Open(context.Background(), os.Getenv("SQLITESTORE_TEST_PATH"))
	if err != nil {
		fmt.Println("open:", err)
		return 1
	}
	s := sqlitestore.New(db)
	switch job {
	case "write":
		err = writeForever(s)
	case "replace":
		err = replaceOnDemand(s)
	}
	if err == nil {
		err = db.Close()
	}
	if err != nil {
		fmt.Println("failed:", err)
		return 1
	}
	return 0
}

// writeForever has eight goroutines each create and settle promises, and says
// "ID REV" after every acknowledged write.
func writeForever(s *sqlitestore.Store) error {
	errs := make(chan error)
	for client := range 8 {
		go func() {
			for n := 0; ; n++ {
				rec := newRecord(fmt.Sprintf("%d-%d-%d", os.Getpid(), client, n))
				if err := s.Create(context.Background(), rec); err != nil {
					errs <- err
					return
				}
				fmt.Printf("%s 1\n", rec.ID)
				rec.Rev, rec.State, rec.SettledAt = 2, promise.Resolved, 2
				if err := s.Replace(context.Background(), rec); err != nil {
					errs <- err
					return
				}
				fmt.Printf("%s 2\n", rec.ID)
			}
		}()
	}
	return <-errs
}

// replaceOnDemand replaces the promise "a" for each line of stdin.
func replaceOnDemand(s *sqlitestore.Store) error {
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		rec, err := s.Get(context.Background(), "a")
		if err != nil {
			return err
		}
		rec.Rev++
		if err := s.Replace(context.Background(), rec); err != nil {
			return err
		}
		fmt.Println("replaced")
	}
	return nil
}

func newRecord(id string) promise.Record {
	return promise.Record{
		ID: id, Rev: 1, WriteID: promise.Nonce{1}, Owner: "local", Machine: "cpu",
		CreatedAt: 1, DeadlineAt: 1_000, DueAt: 500,
		Call: promise.Call{Name: "hello.py", Script: promise.Hash{1}, Timeout: time.Second, Lease: time.Second},
	}
}

// child starts a second process on the store in path.
func child(t *testing.T, job, path string) (cmd *exec.Cmd, say func(string), said *bufio.Scanner) {
	t.Helper()
	cmd = exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "SQLITESTORE_TEST_CHILD="+job, "SQLITESTORE_TEST_PATH="+path)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	say = func(line string) {
		if _, err := fmt.Fprintln(in, line); err != nil {
			t.Error(err)
		}
	}
	return cmd, say, bufio.NewScanner(out)
}

func TestWatchHearsASecondProcess(t *testing.T) {
	s, db := openAt(t, t.TempDir()+"/store.db")
	if err := s.Create(t.Context(), newRecord("a")); err != nil {
		t.Fatal(err)
	}
	_, say, said := child(t, "replace", db.Path())
	if !said.Scan() || said.Text() != "ready" {
		t.Fatal(said.Text(), said.Err())
	}
	changed, stop := s.Watch("a")
	defer stop()
	fastest := patience
	for rev := uint64(2); rev < 22; rev++ {
		say("replace")
		if !said.Scan() || said.Text() != "replaced" {
			t.Fatal(said.Text(), said.Err())
		}
		acknowledged := time.Now()
		rec, err := s.Get(t.Context(), "a")
		if err != nil || rec.Rev != rev {
			t.Fatalf("rev %d (%v) is read after rev %d was acknowledged elsewhere", rec.Rev, err, rev)
		}
		select {
		case <-changed:
		case <-time.After(patience):
			t.Fatalf("rev %d did not wake", rev)
		}
		fastest = min(fastest, time.Since(acknowledged))
	}
	if fastest > 25*time.Millisecond { // the others depend on how busy the machine is
		t.Errorf("woken %v after the acknowledgement at best", fastest)
	}
}

func TestKillInTheMiddleOfCommits(t *testing.T) {
	path := t.TempDir() + "/store.db"
	acknowledged := map[string]uint64{}
	rounds := 20
	if testing.Short() {
		rounds = 4
	}
	for round := range rounds {
		cmd, _, said := child(t, "write", path)
		for n := 0; said.Scan(); n++ {
			id, rev, ok := strings.Cut(said.Text(), " ")
			if !ok {
				t.Fatal(said.Text())
			}
			acknowledged[id] = max(acknowledged[id], uint64(rev[0]-'0'))
			if n == 20+37*round { // kill -9; what it said before is read to the end
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait()
		checkAll(t, path, acknowledged)
	}
	t.Logf("%d promises over %d kills", len(acknowledged), rounds)
}

// checkAll opens the store and checks that it is whole and holds what was
// acknowledged.
func checkAll(t *testing.T, path string, acknowledged map[string]uint64) {
	t.Helper()
	db, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	s := sqlitestore.New(db)
	err = db.Read(t.Context(), func(c *sqlite.Conn) error {
		return c.Query("PRAGMA integrity_check", func(row []any) error {
			if row[0] != "ok" {
				t.Error(row[0])
			}
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	for id, rev := range acknowledged {
		rec, err := s.Get(t.Context(), id)
		if err != nil || rec.Rev < rev {
			t.Errorf("%s is at rev %d (%v), rev %d was acknowledged", id, rec.Rev, err, rev)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}
