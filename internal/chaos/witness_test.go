//go:build linux

package chaos

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// An entry is one line of the witness file: a script says what it does.
type entry struct {
	id      string
	attempt uint32
	pid     int
	what    string // start, end, or a word of the test's own
}

// A witness is the file to which scripts append, outside the store. It is
// followed by inotify, so that a test can wait for a line.
type witness struct {
	path string
	*feed[entry]
}

// prelude begins every script: note appends a line to the witness by one
// write, with the number that the process has for the host; hang waits for a signal that never comes.
const prelude = `import os, signal, subprocess, sys, time
ATTEMPT = int(os.environ["MODULATE_ATTEMPT"])
def note(what):
    fd = os.open(os.environ["WITNESS"], os.O_WRONLY | os.O_APPEND)
    line = "%s %d %s %s\n" % (os.environ["MODULATE_ID"], ATTEMPT, os.readlink("/proc/self"), what)
    os.write(fd, line.encode())
    os.close(fd)
def hang():
    while True:
        signal.pause()
def gate(path):
    os.read(os.open(path, os.O_RDONLY), 1)
note("start")
`

func newWitness(t *testing.T) *witness {
	t.Helper()
	w := &witness{path: filepath.Join(t.TempDir(), "witness"), feed: newFeed[entry]()}
	file, err := os.OpenFile(w.path, os.O_CREATE|os.O_RDONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.InotifyAddWatch(fd, w.path, unix.IN_MODIFY); err != nil {
		t.Fatal(err)
	}
	notify := os.NewFile(uintptr(fd), "inotify")
	ended := make(chan error, 1)
	go func() { ended <- w.follow(file, notify) }()
	t.Cleanup(func() {
		notify.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		file.Close()
	})
	return w
}

// follow adds line after line until notify is closed.
func (w *witness) follow(file, notify *os.File) error {
	var rest []byte
	buf := make([]byte, 4096)
	for {
		if _, err := notify.Read(buf); err != nil {
			return nil
		}
		text, err := io.ReadAll(file)
		if err != nil {
			return fmt.Errorf("following the witness: %w", err)
		}
		rest = append(rest, text...)
		for {
			line, after, whole := bytes.Cut(rest, []byte("\n"))
			if !whole {
				break
			}
			rest = after
			e, err := parseEntry(string(line))
			if err != nil {
				return err
			}
			w.add(e)
		}
	}
}

func parseEntry(line string) (e entry, err error) {
	f := strings.SplitN(line, " ", 4)
	if len(f) != 4 {
		return e, fmt.Errorf("witness line %q: want id, attempt, pid, what", line)
	}
	attempt, err1 := strconv.ParseUint(f[1], 10, 32)
	pid, err2 := strconv.Atoi(f[2])
	if err1 != nil || err2 != nil {
		return e, fmt.Errorf("witness line %q: attempt and pid are not numbers", line)
	}
	return entry{id: f[0], attempt: uint32(attempt), pid: pid, what: f[3]}, nil
}

// saw waits until the script of id said what in that attempt.
func (w *witness) saw(ctx context.Context, t *testing.T, id string, attempt uint32, what string) entry {
	t.Helper()
	e, err := w.await(ctx, func(e entry) bool { return e.id == id && e.attempt == attempt && e.what == what })
	if err != nil {
		t.Fatalf("waiting for attempt %d of %s to %s: %v", attempt, id, what, err)
	}
	return e
}
