package api

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"modulate/internal/engine"
)

// Service is what every endpoint of both handlers stands on.
type Service struct {
	Engine *engine.Engine
	Owner  func(*http.Request) (string, error) // who calls; nil: LocalOwner. Its errors are those of the table
	Log    *slog.Logger                        // nil: discarded
}

// Request is a request whose caller is known.
type Request struct {
	*http.Request
	Caller Caller
	Prefer Prefer
}

// Answer is what an endpoint answers. Body is written as JSON, or Raw as it is
// and closed; with neither there is no body.
type Answer struct {
	Status     int // 200 when zero
	Location   string
	RetryAfter time.Duration // rounded up to seconds
	Applied    string        // Preference-Applied
	Header     http.Header   // further ones
	Body       any
	Raw        io.ReadCloser
}

// Handle makes fn an endpoint: it finds the caller, calls fn, and writes its
// answer or what the table says of its error.
func (s *Service) Handle(fn func(*Request) (Answer, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a, err := s.answer(r, fn)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		s.write(w, r, a)
	})
}

// HandleJSON is Handle for an endpoint that takes a Q as its body.
func HandleJSON[Q any](s *Service, fn func(*Request, Q) (Answer, error)) http.Handler {
	return s.Handle(func(r *Request) (Answer, error) {
		var q Q
		if err := Decode(r.Request, &q); err != nil {
			return Answer{}, err
		}
		return fn(r, q)
	})
}

func (s *Service) answer(r *http.Request, fn func(*Request) (Answer, error)) (Answer, error) {
	prefer, err := parsePrefer(r.Header)
	if err != nil {
		return Answer{}, err
	}
	caller, err := s.caller(r)
	if err != nil {
		return Answer{}, err
	}
	return fn(&Request{Request: r, Caller: caller, Prefer: prefer})
}

func (s *Service) write(w http.ResponseWriter, r *http.Request, a Answer) {
	h := w.Header()
	for name, values := range a.Header {
		h[name] = values
	}
	if a.Location != "" {
		h.Set("Location", a.Location)
	}
	if a.Applied != "" {
		h.Set("Preference-Applied", a.Applied)
	}
	setRetryAfter(h, a.RetryAfter)
	if a.Status == 0 {
		a.Status = http.StatusOK
	}
	switch {
	case a.Raw != nil:
		s.writeRaw(w, r, a)
	case a.Body != nil:
		s.writeJSON(w, a)
	default:
		w.WriteHeader(a.Status)
	}
}

func (s *Service) writeJSON(w http.ResponseWriter, a Answer) {
	body, err := encode(a.Body)
	if err != nil { // no type of ours does this
		s.log().Error("an answer cannot be written as JSON", "error", err)
		a.Status, body = http.StatusInternalServerError, []byte(`{"type":"about:blank","title":"Internal Server Error","status":500}`)
	}
	h := w.Header()
	if h.Get("Content-Type") == "" {
		h.Set("Content-Type", mediaJSON)
	}
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(a.Status)
	w.Write(body) // who went away misses it
}

// encode writes an answer, and a newline, by the standard library: it is no
// slower than what requests are read by, and takes what scripts may have put
// there, a result with duplicate names or text that is not UTF-8.
func encode(v any) ([]byte, error) {
	b := bytes.NewBuffer(make([]byte, 0, 1024)) // most fit
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return b.Bytes(), err
}

// writeRaw streams. It breaks the connection off where the source fails, lest
// a part pass for the whole.
func (s *Service) writeRaw(w http.ResponseWriter, r *http.Request, a Answer) {
	defer a.Raw.Close()
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(a.Status)
	if r.Method == http.MethodHead {
		return
	}
	if _, err := io.Copy(w, a.Raw); err != nil {
		s.log().WarnContext(r.Context(), "an answer broke off", "path", r.URL.Path, "error", err)
		panic(http.ErrAbortHandler)
	}
}

// fail writes the problem that err is. What the table does not know is logged,
// for its text is not for the caller.
func (s *Service) fail(w http.ResponseWriter, r *http.Request, err error) {
	e := AsError(err)
	if e.Status >= http.StatusInternalServerError && r.Context().Err() == nil {
		s.log().ErrorContext(r.Context(), "a request failed", "method", r.Method, "path", r.URL.Path, "status", e.Status, "error", err)
	}
	w.Header().Set("Content-Type", mediaProblem)
	setRetryAfter(w.Header(), e.RetryAfter)
	s.writeJSON(w, Answer{Status: e.Status, Body: e.Problem})
}

func setRetryAfter(h http.Header, d time.Duration) {
	if d > 0 {
		h.Set("Retry-After", strconv.Itoa(int((d+time.Second-1)/time.Second)))
	}
}

// Warn logs what went wrong without failing the request.
func (s *Service) Warn(ctx context.Context, text string, args ...any) {
	s.log().WarnContext(ctx, text, args...)
}

func (s *Service) log() *slog.Logger {
	if s.Log != nil {
		return s.Log
	}
	return slog.New(slog.DiscardHandler)
}
