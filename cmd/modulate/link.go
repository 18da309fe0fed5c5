package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"modulate/internal/api"
)

// firstContact is how long a wait tries to reach a server that has never been
// there.
const firstContact = 3 * time.Second

// A link carries requests and knows how the other end is doing. A server that
// was there once is waited for however long it is away; a dev that comes back
// at another address is found there.
type link struct {
	next    http.RoundTripper
	address string        // for messages
	find    func() string // the host and port of this folder's dev, "" while there is none; nil: the address is fixed

	mu    sync.Mutex
	host  string // what find last found
	met   bool   // somebody has answered, or at least listened
	began time.Time
	down  bool
	lost  context.CancelCauseFunc // ends a wait; nil: nobody waits
}

// Address names the other end.
func (l *link) Address() string { return l.address }

// RoundTrip carries one request.
func (l *link) RoundTrip(req *http.Request) (*http.Response, error) {
	if host := l.current(); host != "" {
		req = req.Clone(req.Context())
		req.URL.Host, req.Host = host, host
	}
	resp, err := l.next.RoundTrip(req)
	err = barred(err)
	if errors.Is(err, api.ErrBarred) {
		return nil, err
	}
	if err == nil || req.Context().Err() == nil {
		l.note(err)
	}
	return resp, err
}

func (l *link) current() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.host
}

// note takes in how a request fared.
func (l *link) note(err error) {
	var op *net.OpError
	dialing := errors.As(err, &op) && op.Op == "dial"
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = err != nil
	l.met = l.met || !dialing
	if l.down && l.find != nil {
		if host := l.find(); host != "" {
			l.host = host
		}
	}
	if l.down && !l.met && l.lost != nil && time.Since(l.began) > firstContact {
		l.lost(&api.Unreachable{Address: l.address, Err: err})
	}
}

// watch makes lost end a wait that never reaches anybody.
func (l *link) watch(lost context.CancelCauseFunc) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.began, l.lost = time.Now(), lost
}

// trouble says that the other end is away; "" where it is not.
func (l *link) trouble() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.down {
		return ""
	}
	return "no answer from " + l.address + ", trying again"
}
