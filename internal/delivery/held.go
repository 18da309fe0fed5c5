package delivery

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"modulate/functions/router/protocol"
)

// compactAt is how many lines the file has when it is written anew.
const compactAt = 100_000

// held knows which tasks each worker holds, as far as they were taken through
// this process: for heartbeats that name none. It is a hint, kept in a file of
// lines, one for each change, so that it outlives the process.
type held struct {
	mu    sync.Mutex
	path  string
	file  *os.File // nil: it is not kept
	lines int
	byID  map[string]holding
	byPID map[string]map[string]bool
}

// holding is a line of the file. Without a worker the task is left.
type holding struct {
	ID      string `json:"id"`
	Version uint64 `json:"version,omitempty"`
	PID     string `json:"pid,omitempty"`
}

func openHeld(path string) (*held, error) {
	h := &held{path: path, byID: make(map[string]holding), byPID: make(map[string]map[string]bool)}
	if path == "" {
		return h, nil
	}
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading who holds which task: %w", err)
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		var l holding
		if json.Unmarshal(lines.Bytes(), &l) == nil { // else the process died while it wrote it
			h.set(l)
		}
	}
	return h, h.rewrite()
}

// set applies a line. h.mu is held, or h is new.
func (h *held) set(l holding) {
	if old, ok := h.byID[l.ID]; ok {
		delete(h.byPID[old.PID], l.ID)
		if len(h.byPID[old.PID]) == 0 {
			delete(h.byPID, old.PID)
		}
		delete(h.byID, l.ID)
	}
	if l.PID == "" {
		return
	}
	h.byID[l.ID] = l
	if h.byPID[l.PID] == nil {
		h.byPID[l.PID] = make(map[string]bool)
	}
	h.byPID[l.PID][l.ID] = true
}

// rewrite writes the file anew, with a line for each task that is held.
func (h *held) rewrite() error {
	var text bytes.Buffer
	for _, l := range h.byID {
		text.Write(line(l))
	}
	next := h.path + ".new"
	if err := os.WriteFile(next, text.Bytes(), 0o600); err != nil {
		return fmt.Errorf("writing who holds which task: %w", err)
	}
	if err := os.Rename(next, h.path); err != nil {
		return fmt.Errorf("writing who holds which task: %w", err)
	}
	file, err := os.OpenFile(h.path, os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("writing who holds which task: %w", err)
	}
	if h.file != nil {
		h.file.Close()
	}
	h.file, h.lines = file, len(h.byID)
	return nil
}

func line(l holding) []byte {
	b, err := json.Marshal(l)
	if err != nil { // strings and a number
		panic(err)
	}
	return append(b, '\n')
}

// note applies a line and appends it to the file. What cannot be written is
// known until the process ends.
func (h *held) note(l holding) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if has, known := h.byID[l.ID]; l.PID == "" && (!known || has.Version > l.Version) {
		return
	}
	h.set(l)
	if h.file == nil {
		return
	}
	h.file.Write(line(l))
	if h.lines++; h.lines > compactAt+2*len(h.byID) {
		h.rewrite()
	}
}

func (h *held) acquired(id string, version uint64, pid string) { h.note(holding{id, version, pid}) }

// left forgets who holds a task, unless it was taken again at a later version.
func (h *held) left(id string, version uint64) { h.note(holding{ID: id, Version: version}) }

func (h *held) of(pid string) []protocol.Held {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []protocol.Held
	for id := range h.byPID[pid] {
		all = append(all, protocol.Held{ID: id, Version: h.byID[id].Version})
	}
	return all
}

func (h *held) close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.file == nil {
		return nil
	}
	return h.file.Close()
}
