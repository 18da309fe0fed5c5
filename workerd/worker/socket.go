package worker

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"

	"modulate/internal/api"
	"modulate/internal/engine"
	"modulate/internal/promise"
)

// maxSocketPath is the longest path of a socket. The address of a unix socket
// has room for 104 bytes on macOS and 108 on Linux, the final zero included
// (unix(7)).
const maxSocketPath = 100

// sockets is the directory of a worker's sockets, there while anything runs.
type sockets struct {
	temp string // where it is made; "": the system's

	mu    sync.Mutex
	users int
	dir   string // "": not made yet
}

// open and close count who may need the directory.
func (s *sockets) open() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users++
}

func (s *sockets) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users--; s.users == 0 && s.dir != "" {
		os.RemoveAll(s.dir) // what stays is an empty directory of the system's temp
		s.dir = ""
	}
}

// path returns where the socket of a claim is to be, which no other script can
// guess. Only the worker's own user can reach it.
func (s *sockets) path(claim promise.Nonce) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := claim.String()[:16]
	if s.dir == "" {
		temp := s.temp
		if temp == "" {
			temp = os.TempDir()
		}
		if len(filepath.Join(temp, "modulate-4294967295", name)) > maxSocketPath {
			temp = "/tmp"
		}
		dir, err := os.MkdirTemp(temp, "modulate-")
		if err != nil {
			return "", err
		}
		s.dir = dir
	}
	return s.dir + "/" + name, nil
}

// A socket is what one script submits through. It serves the worker's API in
// the name of the script's promise, and dies with the attempt.
type socket struct {
	j        *job
	path     string
	children children

	server *http.Server // nil: nobody has listened
	cancel context.CancelFunc

	mu      sync.Mutex
	closed  bool
	serving sync.WaitGroup // Serve, and the requests
}

// listen begins to serve. It is called at most once a process start, by the
// runner that lays out the script.
func (s *socket) listen() error {
	if s.server != nil {
		return nil
	}
	l, err := net.Listen("unix", s.path)
	if err != nil {
		return err
	}
	if err := os.Chmod(s.path, 0o700); err != nil {
		l.Close()
		return err
	}
	var ctx context.Context
	ctx, s.cancel = context.WithCancel(s.j.work)
	s.server = &http.Server{
		Handler:           s.routes(),
		ReadHeaderTimeout: callTime,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	s.serving.Go(func() {
		if err := s.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.j.w.log.Warn("a script's socket broke", "id", s.j.id, "error", err)
		}
	})
	return nil
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
		s.children.adopt(s.j.id, r, false)
		s.pass(w, r)
		return
	}
	// Whoever executes the child is told of it once it is accepted, and so the
	// answer must not wait for its end.
	id := s.children.adopt(s.j.id, r, true)
	seen := &statusWriter{ResponseWriter: w}
	s.pass(seen, r)
	if seen.status < http.StatusMultipleChoices && id != "" {
		tell(id)
	}
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
