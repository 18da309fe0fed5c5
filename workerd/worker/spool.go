package worker

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"modulate/internal/promise"
	"modulate/internal/store"
)

// kept is an outcome that waits for the store.
type kept struct {
	ID       string
	Version  uint64
	ClaimID  promise.Nonce
	SettleID promise.Nonce
	Outcome  promise.Outcome
}

// A spool keeps outcomes, one file each, whole and synced before keep returns.
// The file is a record of the fields that a late settle needs, in the store's
// form, so that a later version reads it. Files do not depend on the directory
// that they are in: they may be moved to another worker's spool.
type spool struct {
	dir   string // "": in memory only
	log   *slog.Logger
	added chan struct{} // tells that something waits

	mu   sync.Mutex
	held []kept // handed over, oldest first
}

// A file of the spool, and one that is not whole yet.
const (
	keptSuffix = ".outcome"
	halfSuffix = ".half"
)

// openSpool makes the directory and takes over what is in it.
func openSpool(dir string, log *slog.Logger) (*spool, error) {
	s := &spool{dir: dir, log: log, added: make(chan struct{}, 1)}
	if dir == "" {
		return s, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the spool: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("reading the spool: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch {
		case strings.HasSuffix(path, keptSuffix):
			s.load(path)
		case strings.HasSuffix(path, keptSuffix+halfSuffix):
			os.Remove(path) // the process died while writing it
		}
	}
	return s, nil
}

// load takes over one file. One that cannot be read is set aside for a person.
func (s *spool) load(path string) {
	b, err := os.ReadFile(path)
	var rec promise.Record
	if err == nil {
		rec, err = store.Decode(b)
	}
	if err == nil && rec.ID == "" {
		err = errors.New("it names no promise")
	}
	if err != nil {
		s.log.Error("a kept outcome cannot be read; it is set aside", "path", path+".bad", "error", err)
		_ = os.Rename(path, path+".bad") // where that fails it is met again
		return
	}
	s.held = append(s.held, kept{
		ID: rec.ID, Version: rec.Task.Version, ClaimID: rec.Task.ClaimID,
		SettleID: rec.SettleID, Outcome: rec.Outcome,
	})
}

// keep writes o down. Where that fails, o is in memory only, and the log says
// so.
func (s *spool) keep(o kept) {
	if s.dir == "" {
		return
	}
	if err := s.write(o); err != nil {
		s.log.Error("an outcome is kept in memory only", "id", o.ID, "version", o.Version, "error", err)
	}
}

func (s *spool) write(o kept) error {
	b, err := store.Encode(&promise.Record{
		ID: o.ID, SettleID: o.SettleID, Outcome: o.Outcome,
		Task: promise.Task{Version: o.Version, ClaimID: o.ClaimID},
	})
	if err != nil {
		return err
	}
	path := s.path(o)
	if err := writeSynced(path+halfSuffix, b); err != nil {
		return err
	}
	if err := os.Rename(path+halfSuffix, path); err != nil {
		return err
	}
	return syncDir(s.dir)
}

// handOver leaves o to whoever settles what waits.
func (s *spool) handOver(o kept) {
	s.mu.Lock()
	s.held = append(s.held, o)
	s.mu.Unlock()
	select {
	case s.added <- struct{}{}:
	default:
	}
}

// waiting returns what was handed over, oldest first.
func (s *spool) waiting() []kept {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.held)
}

// has reports whether an outcome of that promise waits.
func (s *spool) has(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.held, func(h kept) bool { return h.ID == id })
}

// drop forgets o.
func (s *spool) drop(o kept) {
	s.mu.Lock()
	s.held = slices.DeleteFunc(s.held, func(h kept) bool { return h.SettleID == o.SettleID })
	s.mu.Unlock()
	if s.dir == "" {
		return
	}
	if err := os.Remove(s.path(o)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("a kept outcome stays in the spool although it is settled", "id", o.ID, "error", err)
	}
}

// path is where o is kept. Ids may be longer than file names.
func (s *spool) path(o kept) string {
	sum := sha256.Sum256([]byte(o.ID + " " + strconv.FormatUint(o.Version, 10) + " " + o.ClaimID.String()))
	return filepath.Join(s.dir, hex.EncodeToString(sum[:16])+keptSuffix)
}

func writeSynced(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
