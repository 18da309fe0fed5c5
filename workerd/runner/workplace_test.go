package runner

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// What a process that is gone has left is removed by the next; what one that
// lives has is not, nor is anything that only looks alike.
func TestOpenWorkplaceRemovesWhatTheDeadLeft(t *testing.T) {
	parent := t.TempDir()
	open := func() *Workplace {
		t.Helper()
		w, err := OpenWorkplace(parent)
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	dead, alive := open(), open()
	job, err := newJobDir(dead.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(job.work(), 0); err != nil {
		t.Fatal(err)
	}
	dead.lock.Close() // as the end of its process does
	file := filepath.Join(parent, workplacePrefix+"file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}

	next := open()
	if _, err := os.Stat(dead.Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what the dead left: %v, want it gone", err)
	}
	for _, path := range []string{alive.Dir, next.Dir, file} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
	for _, w := range []*Workplace{alive, next} {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(w.Dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a closed workplace: %v, want it gone", err)
		}
	}
}
