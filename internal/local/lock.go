package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"modulate/internal/lock"
)

// A Lock says that one process serves a directory. It ends with the process,
// however that ends.
type Lock struct{ file *os.File }

// Held is the error of a lock that another process holds. PID and URL are zero
// while that process has not yet said them.
type Held struct {
	PID int    `json:"pid"`
	URL string `json:"url"`
}

// Error names the holder.
func (h *Held) Error() string {
	return fmt.Sprintf("held by process %d, which serves %s", h.PID, h.URL)
}

// lockFile is the name of a directory's lock.
const lockFile = "dev.lock"

// LockServer takes the lock of the directory's server, which is made if it is
// not there. *Held: another process serves it.
func LockServer(dir string) (*Lock, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the store's directory: %w", err)
	}
	path := filepath.Join(dir, lockFile)
	file, err := lock.Take(path)
	if errors.Is(err, lock.ErrHeld) {
		return nil, holder(path)
	}
	if err != nil {
		return nil, err
	}
	if err := file.Truncate(0); err != nil { // where the last one served
		return nil, errors.Join(fmt.Errorf("clearing %s: %w", path, err), file.Close())
	}
	return &Lock{file}, nil
}

// Announce says where the holder serves.
func (l *Lock) Announce(url string) error {
	b, err := json.Marshal(Held{PID: os.Getpid(), URL: url})
	if err != nil {
		return err
	}
	if err := l.file.Truncate(0); err != nil {
		return fmt.Errorf("writing %s: %w", l.file.Name(), err)
	}
	if _, err := l.file.WriteAt(b, 0); err != nil {
		return fmt.Errorf("writing %s: %w", l.file.Name(), err)
	}
	return nil
}

// Close gives the lock up.
func (l *Lock) Close() error { return l.file.Close() }

// FindServer returns the URL of the process that serves the directory now, and
// whether there is one.
func FindServer(dir string) (url string, ok bool) {
	path := filepath.Join(dir, lockFile)
	if !lock.Held(path) {
		return "", false
	}
	url = holder(path).URL
	return url, url != ""
}

func holder(path string) *Held {
	var h Held
	if b, err := os.ReadFile(path); err == nil {
		_ = json.Unmarshal(b, &h) // not yet written: the zero Held
	}
	return &h
}
