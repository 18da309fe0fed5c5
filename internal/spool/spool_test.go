package spool

import (
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
)

func TestSpoolIsOneWorkersAndAdoptsWhatOthersLeft(t *testing.T) {
	root := filepath.Join(t.TempDir(), "spool")
	gone, err := Open(root, "gone", "cpu")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(root, "gone", "cpu"); err == nil {
		t.Error("two workers have one spool")
	}
	left := filepath.Join(gone.Dir, "x.outcome")
	if err := os.WriteFile(left, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	heir, err := Open(root, "heir", "cpu")
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
	root := filepath.Join(t.TempDir(), "spool")
	var all sync.WaitGroup
	for n := range 8 {
		all.Go(func() {
			for range 50 {
				s, err := Open(root, "w"+strconv.Itoa(n), "cpu")
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
