//go:build linux

package chaos

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
)

// A front is one address before servers that come and go: a TCP proxy that
// passes each connection to the server that is up, and drops it when none is.
type front struct {
	listener net.Listener
	mu       sync.Mutex
	backend  string // host:port; "": none
	up       chan struct{}
	conns    map[net.Conn]bool
	wait     sync.WaitGroup
}

func newFront(t *testing.T) *front {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &front{listener: l, up: make(chan struct{}), conns: map[net.Conn]bool{}}
	f.wait.Go(f.serve)
	t.Cleanup(f.close)
	return f
}

// url is the address that clients are given.
func (f *front) url() string { return "http://" + f.listener.Addr().String() }

// set makes backend, a host:port, the server behind the front; "" is none.
func (f *front) set(backend string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.backend == "" && backend != "" {
		close(f.up)
	}
	if f.backend != "" && backend == "" {
		f.up = make(chan struct{})
	}
	f.backend = backend
}

// ready waits until a server is up.
func (f *front) ready(ctx context.Context) error {
	f.mu.Lock()
	up := f.up
	f.mu.Unlock()
	select {
	case <-up:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (f *front) serve() {
	for {
		c, err := f.listener.Accept()
		if err != nil {
			return
		}
		f.wait.Go(func() { f.pass(c) })
	}
}

// pass copies both ways until either end is gone.
func (f *front) pass(client net.Conn) {
	if !f.keep(client) {
		return
	}
	defer f.drop(client)
	f.mu.Lock()
	backend := f.backend
	f.mu.Unlock()
	if backend == "" {
		return
	}
	server, err := net.Dial("tcp", backend)
	if err != nil || !f.keep(server) {
		return
	}
	defer f.drop(server)
	var both sync.WaitGroup
	both.Go(func() { io.Copy(server, client); f.drop(server) })
	both.Go(func() { io.Copy(client, server); f.drop(client) })
	both.Wait()
}

// keep remembers c for close; false, and c closed, when that has been.
func (f *front) keep(c net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.conns == nil {
		c.Close()
		return false
	}
	f.conns[c] = true
	return true
}

func (f *front) drop(c net.Conn) {
	c.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.conns, c)
}

func (f *front) close() {
	f.listener.Close()
	f.mu.Lock()
	for c := range f.conns {
		c.Close()
	}
	f.conns = nil
	f.mu.Unlock()
	f.wait.Wait()
}
