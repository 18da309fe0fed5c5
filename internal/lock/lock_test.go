package lock

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestOneHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	if Held(path) {
		t.Error("held before it was there")
	}
	first, err := Take(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Take(path); !errors.Is(err, ErrHeld) {
		t.Errorf("the second got %v, want ErrHeld", err)
	}
	if !Held(path) {
		t.Error("not held")
	}
	got := make(chan error)
	go func() {
		second, err := Wait(path)
		if err == nil {
			err = second.Close()
		}
		got <- err
	}()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Errorf("who waited got %v", err)
	}
	if Held(path) {
		t.Error("held although both have gone")
	}
}

func TestWhoAsksHoldsNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	asking, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer asking.Close()
	if err := flock(asking, syscall.LOCK_SH); err != nil {
		t.Fatal(err)
	}
	if Held(path) {
		t.Error("who asks is taken for a holder")
	}
}

func TestNoDirectory(t *testing.T) {
	if _, err := Take(filepath.Join(t.TempDir(), "no", "lock")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want that there is no such directory", err)
	}
}
