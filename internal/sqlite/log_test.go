package sqlite

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A process that writes more than a little grows the log to its full length;
// nothing is lost by it, and a second process reads and writes on.
func TestTheLogGrowsAhead(t *testing.T) {
	path := file(t)
	db, peer := open(t, path), open(t, path)
	size := func() int64 {
		info, err := os.Stat(path + "-wal")
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	for i := range growAfter - 5 {
		if err := db.Write(t.Context(), insert(fmt.Sprint("a", i))); err != nil {
			t.Fatal(err)
		}
	}
	if size() >= growStep {
		t.Errorf("the log has %d bytes after a few commits", size())
	}
	for i := range 10 {
		if err := db.Write(t.Context(), insert(fmt.Sprint("b", i))); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(patience); size() < logBytes; {
		if time.Now().After(deadline) {
			t.Fatalf("the log has %d bytes, want %d", size(), logBytes)
		}
		<-time.After(time.Millisecond)
	}
	for i := range 10 {
		if err := peer.Write(t.Context(), insert(fmt.Sprint("c", i))); err != nil {
			t.Fatal(err)
		}
	}
	if n := count(t, db, ""); n != growAfter-5+10+10 {
		t.Errorf("%d rows", n)
	}
	if got := size(); got != logBytes {
		t.Errorf("the log has %d bytes, want %d", got, logBytes)
	}
}

func TestALogThatCannotGrowStaysAsItIs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte("frames"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, want := range []int64{6 + 100, 6 + 200, 250, 250} {
		if got, err := growFile(path, 250, 100); err != nil || got != want {
			t.Errorf("grown to %d (%v), want %d", got, err, want)
		}
	}
	if b, err := os.ReadFile(path); err != nil || string(b[:7]) != "frames\x00" || len(b) != 250 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if _, err := growFile(filepath.Join(path, "missing"), 1, 1); err == nil {
		t.Error("a log that is not there grew")
	}
}
