package runner

import (
	"bytes"
	"os"
	"testing"
	"time"
)

// gated is a writer that says when it is called and waits to be let go.
type gated struct {
	bytes.Buffer
	called, gate chan struct{}
}

func (g *gated) Write(p []byte) (int, error) {
	select {
	case g.called <- struct{}{}:
		<-g.gate
	default: // the second time
	}
	return g.Buffer.Write(p)
}

// A writer that is slow gets all that is in the pipe, though its script is
// long dead and a stranger holds the pipe open.
func TestLateReader(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	const size = 60_000 // fits into the pipe
	if _, err := w.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	dst := &gated{called: make(chan struct{}, 1), gate: make(chan struct{})}
	o := &output{name: "stdout", dst: dst, pipe: r, done: make(chan struct{})}
	go o.take()
	<-dst.called
	dst.called <- struct{}{} // from now on it writes at once
	if err := r.SetReadDeadline(time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	close(dst.gate)
	<-o.done
	if dst.Len() != size || o.err != nil {
		t.Errorf("%d bytes came, want %d; %v", dst.Len(), size, o.err)
	}
}
