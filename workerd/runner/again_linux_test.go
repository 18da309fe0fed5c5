package runner_test

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"modulate/workerd/runner"
)

// TestKeptUsesAgain runs scripts that leave everything in disorder one after
// the other, each with a socket: each finds a place as the first one did, but
// for its name, and its own words come to its own worker.
func TestKeptUsesAgain(t *testing.T) {
	d := newDaemon(t, nil)
	const look = `ls -A . $MODULATE_OUTPUT .. | sed s:/.*/::; stat -c %a:%s:%h $0 ../socket . .. $MODULATE_OUTPUT
python3 -c 'import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect("'$MODULATE_SOCKET'"); s.sendall(b"hello"); s.shutdown(1); s.recv(1)'
`
	var first string
	for i, mess := range []string{
		"", "chmod 700 $0", "ln $0 ../twin", "ln -s / ../script", "mkdir -p ../script/x", "rm $0; mkfifo $0", "rm $0; ln -s /etc/passwd $0", "head -c 100000 /dev/zero >$0; exit 0",
		"rm ../socket", "rm ../socket; touch ../socket", "chmod 0 ../socket", "mkdir y; mv ../socket y", "",
	} {
		mess += " #" + strings.Repeat(".", 100-len(mess)) // all are of one size
		said := make(chan string, 1)
		var out strings.Builder
		var closing net.Listener
		r := d.Run(t.Context(), job("bash", look+mess, func(j *runner.Job) {
			j.Note, j.Stdout, j.Stderr = note("note"), &out, io.Discard
			j.Serve = func(l net.Listener, _ string) {
				closing = l
				go func() {
					c, err := l.Accept()
					if err != nil {
						said <- err.Error()
						return
					}
					defer c.Close()
					b, _ := io.ReadAll(c)
					said <- string(b)
				}()
			}
		}))
		if err := closing.Close(); err != nil {
			t.Error(err)
		}
		forget(t, ran{Result: r})
		if first == "" {
			first = out.String()
		}
		if got := <-said; r.End != runner.Exited || out.String() != first || got != "hello" {
			t.Errorf("script %d, %q: %+v, it said %q\n%s", i, strings.TrimRight(mess, "#."), r, got, out.String())
		}
	}
	d.end(t)
}

// TestNoScriptSpeaksForTheNext leaves connections that nobody has let in when
// a script ends: its successor at the same socket must not be taken for it.
func TestNoScriptSpeaksForTheNext(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) *daemon{
		"without a sandbox": func(t *testing.T) *daemon { return newDaemon(t, nil) },
		"in sandboxes":      func(t *testing.T) *daemon { return boxed(t, nil, ample) },
	} {
		t.Run(name, func(t *testing.T) { speaksForItself(t, open(t)) })
	}
}

func speaksForItself(t *testing.T, d *daemon) {
	var places []os.FileInfo // of the socket, as each script finds it
	say := func(word string, serve func(net.Listener)) {
		t.Helper()
		var l net.Listener
		r := d.Run(t.Context(), job(python, `
import os, socket
for _ in range(3):
    s = socket.socket(socket.AF_UNIX)
    s.connect(os.environ["MODULATE_SOCKET"])
    s.sendall(b"`+word+`")
    os.dup(s.fileno())`, func(j *runner.Job) {
			j.Note, j.Stdout, j.Stderr = note("note"), io.Discard, os.Stderr
			j.Serve = func(given net.Listener, _ string) {
				l = given
				for _, pattern := range []string{filepath.Join(d.dir, "*", "socket"), filepath.Join(d.spool, "*", "*", "socket")} {
					found, err := filepath.Glob(pattern)
					if err != nil {
						t.Error(err)
					}
					for _, path := range found {
						info, err := os.Lstat(path)
						if err != nil {
							t.Error(err)
						}
						places = append(places, info)
					}
				}
			}
		}))
		if r.End != runner.Exited || r.Code != 0 {
			t.Fatalf("%+v", r)
		}
		serve(l)
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		forget(t, ran{Result: r})
	}
	say("one", func(net.Listener) {})
	say("two", func(l net.Listener) {
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		word := make([]byte, 3)
		if _, err := io.ReadFull(c, word); err != nil || string(word) != "two" {
			t.Errorf("the second script said %q, %v", word, err)
		}
	})
	if len(places) != 2 || !os.SameFile(places[0], places[1]) {
		t.Errorf("the two had %d sockets, or not the same", len(places))
	}
	d.end(t)
}

// A listener that its job still has open is not lent to the next one.
func TestASocketInUseIsNotLentAgain(t *testing.T) {
	d := newDaemon(t, nil)
	var held []net.Listener
	for range 2 {
		r := d.Run(t.Context(), job("bash", ":", func(j *runner.Job) {
			j.Note, j.Stdout, j.Stderr = note("note"), io.Discard, io.Discard
			j.Serve = func(l net.Listener, _ string) { held = append(held, l) }
		}))
		forget(t, ran{Result: r})
	}
	for _, l := range held {
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a listener whose job is forgotten: %v, want it closed", err)
		}
	}
	d.end(t)
}

// TestNothingIsLeftOfALongerScript: the file of one is written anew for the
// next, whatever it was and whatever it made of itself.
func TestNothingIsLeftOfALongerScript(t *testing.T) {
	d := newDaemon(t, nil)
	for _, script := range []string{
		"cat $0 #" + strings.Repeat("x", 30_000), "cat $0", "cat $0; head -c 20000 /dev/zero >>$0; exit", "cat $0", "cat $0 #" + strings.Repeat("y", 5000), "cat $0; : >$0; exit", "cat $0",
	} {
		var out strings.Builder
		r := d.Run(t.Context(), job("bash", script, func(j *runner.Job) { j.Note, j.Stdout, j.Stderr = note("note"), &out, io.Discard }))
		forget(t, ran{Result: r})
		if r.End != runner.Exited || out.String() != script {
			t.Errorf("%+v, a script of %d bytes found itself as one of %d", r, len(script), out.Len())
		}
	}
	d.end(t)
}
