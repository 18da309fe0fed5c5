package local

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
)

func TestSecondServerIsRefusedAndNamed(t *testing.T) {
	dir := t.TempDir()
	if url, ok := FindServer(dir); ok {
		t.Fatalf("a server %q before there was one", url)
	}
	first, err := LockServer(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := FindServer(dir); ok {
		t.Error("a server that has not said where it is was found")
	}
	if err := first.Announce("http://127.0.0.1:1"); err != nil {
		t.Fatal(err)
	}
	var held *Held
	if _, err := LockServer(dir); !errors.As(err, &held) || held.PID != os.Getpid() || held.URL != "http://127.0.0.1:1" {
		t.Errorf("the second server got %v", err)
	}
	if url, ok := FindServer(dir); !ok || url != "http://127.0.0.1:1" {
		t.Errorf("FindServer = %q, %v", url, ok)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if url, ok := FindServer(dir); ok {
		t.Errorf("a server %q that has gone was found", url)
	}
}

func TestSpoolIsOneWorkersAndAdoptsWhatOthersLeft(t *testing.T) {
	l, err := Open(t.Context(), Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	gone, err := l.Spool("gone")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Spool("gone"); err == nil {
		t.Error("two workers have one spool")
	}
	left := filepath.Join(gone.Dir, "x.outcome")
	if err := os.WriteFile(left, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	heir, err := l.Spool("heir")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(heir.Dir, "x.outcome")); err != nil || string(b) != "kept" {
		t.Errorf("what was left: %q, %v", b, err)
	}
	if _, err := os.Stat(gone.Dir); !os.IsNotExist(err) {
		t.Errorf("the spool of the worker that is gone: %v", err)
	}
	if err := os.Remove(filepath.Join(heir.Dir, "x.outcome")); err != nil {
		t.Fatal(err)
	}
	if err := heir.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(heir.Dir); !os.IsNotExist(err) {
		t.Errorf("an empty spool stays: %v", err)
	}
}

func TestSpoolsComeAndGoAtOnce(t *testing.T) {
	l, err := Open(t.Context(), Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var all sync.WaitGroup
	for n := range 8 {
		all.Go(func() {
			for range 50 {
				s, err := l.Spool("w" + strconv.Itoa(n))
				if err != nil {
					t.Error(err)
					return
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}

func TestWhoAsksIsNotTakenForAServer(t *testing.T) {
	dir := t.TempDir()
	gone, err := LockServer(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := gone.Announce("http://127.0.0.1:1"); err != nil {
		t.Fatal(err)
	}
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	asking, err := os.Open(filepath.Join(dir, lockFile))
	if err != nil {
		t.Fatal(err)
	}
	defer asking.Close()
	if err := flock(asking, syscall.LOCK_SH); err != nil {
		t.Fatal(err)
	}
	if url, ok := FindServer(dir); ok {
		t.Errorf("found %s, which has gone", url)
	}
}
