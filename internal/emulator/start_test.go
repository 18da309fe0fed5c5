package emulator

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"
)

// listen answers with text on a port until the test ends.
func listen(t *testing.T, port int, text string) {
	t.Helper()
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, text) })}
	go srv.Serve(l) // until it is closed
	t.Cleanup(func() { srv.Close() })
}

// Somebody else is given the port: the emulator dies of it, and what answers
// there is not taken for it.
func TestStartOnATakenPort(t *testing.T) {
	tries := 0
	e := &emulator{says: "it is me", call: func(_, _ string, port int) *exec.Cmd {
		if tries++; tries == 1 {
			listen(t, port, "somebody else")
			return exec.Command("sh", "-c", "echo the port is taken")
		}
		listen(t, port, "it is me")
		return exec.Command("sleep", "600")
	}}
	if err := e.start(""); err != nil || tries != 2 {
		t.Errorf("%v at try %d", err, tries)
	}
	e.stop()
}

func TestStartOfWhatAlwaysDies(t *testing.T) {
	tries := 0
	e := &emulator{call: func(string, string, int) *exec.Cmd {
		tries++
		return exec.Command("sh", "-c", "echo no licence")
	}}
	if err := e.start(""); !errors.Is(err, errDied) || !strings.Contains(err.Error(), "no licence") || tries != 3 {
		t.Errorf("%v after %d tries", err, tries)
	}
}
