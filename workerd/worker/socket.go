package worker

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"

	"modulate/internal/api"
	"modulate/internal/engine"
)

// A socket is what one script submits through. It serves the worker's API in
// the name of the script's promise, and dies with the attempt.
type socket struct {
	j        *job
	children children

	server *http.Server // nil: nobody serves
	cancel context.CancelFunc

	mu      sync.Mutex
	closed  bool
	serving sync.WaitGroup // Serve, and the requests
}

// serve begins to serve at l, and counts children on from what stands in the
// file numbers, "": there is none. It is called once by the runner that starts
// the script or goes on with it.
func (s *socket) serve(l net.Listener, numbers string) {
	if err := s.children.open(numbers); err != nil {
		s.j.w.log.Error("the numbers of a script's children cannot be kept; it submits none", "id", s.j.id, "error", err)
	}
	var ctx context.Context
	ctx, s.cancel = context.WithCancel(s.j.work)
	routes := sync.OnceValue(s.routes) // most scripts ask for nothing
	s.server = &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { routes().ServeHTTP(w, r) }),
		ReadHeaderTimeout: callTime,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	s.serving.Go(func() {
		// A runner that leaves the script to an adopter closes l itself.
		if err := s.server.Serve(l); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			s.j.w.log.Warn("a script's socket broke", "id", s.j.id, "error", err)
		}
	})
}

// close ends the socket and whatever it is in the middle of.
func (s *socket) close() {
	if s.server == nil {
		return
	}
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.server.Close() // what it cannot close is closed already
	s.serving.Wait()
	s.children.close()
}

// begin reports whether a request may still be served; it is then waited for.
func (s *socket) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.serving.Add(1)
	}
	return !s.closed
}

// routes is what a script may ask for. All else is not there.
func (s *socket) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/promises", s.submit)
	mux.HandleFunc("POST /v1/promises/{id}/cancel", s.pass)
	mux.HandleFunc("GET /v1/promises/{id}", s.pass)
	mux.HandleFunc("POST /v1/blobs", s.pass)
	mux.HandleFunc("PUT /v1/blobs/{sha256}", s.pass)
	mux.Handle("/", (&api.Service{}).Handle(func(r *api.Request) (api.Answer, error) {
		return api.Answer{}, api.Fail(api.ErrRoute, "", "%s %s is not there for scripts", r.Method, r.URL.Path)
	}))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del(api.ParentHeader) // whoever the script says that it is
		mux.ServeHTTP(w, r)
	})
}

// pass hands a request on in the name of the script's promise.
func (s *socket) pass(w http.ResponseWriter, r *http.Request) {
	if !s.begin() {
		panic(http.ErrAbortHandler)
	}
	defer s.serving.Done()
	r.Header.Set(api.ParentHeader, api.FormatParent(engine.Parent{ID: s.j.id, Version: s.j.version, Claim: s.j.claim}))
	r.Host = "localhost" // whatever name a client gives to a socket

	// The API may have to hold a body whole, to sign it. Not so an upload, which
	// says its size and is refused by that.
	if r.Method != http.MethodPut {
		r.Body = http.MaxBytesReader(w, r.Body, api.MaxBody)
	}
	s.j.w.cfg.API.ServeHTTP(w, r)
}

// submit gives a child its id and hands the submission on.
func (s *socket) submit(w http.ResponseWriter, r *http.Request) {
	tell := s.j.w.cfg.OnSubmit
	if tell == nil {
		s.number(r, false)
		s.pass(w, r)
		return
	}
	// Whoever executes the child is told of it once it is accepted, and so the
	// answer must not wait for its end.
	id := s.number(r, true)
	seen := &statusWriter{ResponseWriter: w}
	s.pass(seen, r)
	if seen.status < http.StatusMultipleChoices && id != "" {
		tell(id)
	}
}

// number gives the child in r its id. Where that cannot be written down the
// request is broken off: repeated, it must get the same.
func (s *socket) number(r *http.Request, hasten bool) string {
	id, err := s.children.adopt(s.j.id, r, hasten)
	if err != nil {
		s.j.w.log.Error("the number of a child cannot be kept; its submission is broken off", "id", s.j.id, "error", err)
		panic(http.ErrAbortHandler)
	}
	return id
}

// statusWriter remembers the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader passes the status on.
func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
