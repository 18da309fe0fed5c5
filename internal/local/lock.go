package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
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
	l, err := lock(path)
	if errors.Is(err, errLocked) {
		return nil, holder(path)
	}
	if err != nil {
		return nil, err
	}
	if err := l.file.Truncate(0); err != nil { // where the last one served
		return nil, errors.Join(fmt.Errorf("clearing %s: %w", path, err), l.Close())
	}
	return l, nil
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
	f, err := os.Open(path)
	if err != nil {
		return "", false
	}
	defer f.Close()
	// A shared lock: those who ask do not take each other for a server.
	if err := flock(f, syscall.LOCK_SH|syscall.LOCK_NB); !errors.Is(err, syscall.EWOULDBLOCK) {
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

// errLocked: another process has the lock.
var errLocked = errors.New("locked by another process")

// lock takes the lock of the file, which is made if it is not there.
func lock(path string) (*Lock, error) {
	f, err := openLock(path)
	if err != nil {
		return nil, err
	}
	err = flock(f, syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return &Lock{file: f}, nil
	}
	f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, fmt.Errorf("%s: %w", path, errLocked)
	}
	return nil, fmt.Errorf("locking %s: %w", path, err)
}

func openLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the lock: %w", err)
	}
	return f, nil
}

// flock is flock(2), over interruptions.
func flock(f *os.File, how int) error {
	for {
		if err := syscall.Flock(int(f.Fd()), how); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
