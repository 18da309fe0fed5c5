// Package lambdahttp lets an http.Handler answer the events of API Gateway:
// payload 1.0 of a REST API, and 2.0 of an HTTP API or a function URL (AWS,
// "Lambda proxy integrations"). The handlers are those of every other
// deployment; what is Lambda's stays here: the caller's identity, the request
// id, panics, and how large an answer may be.
package lambdahttp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"modulate/internal/api"
)

// maxAnswer is the most bytes that a function may answer, the JSON around the
// body included (AWS, "Lambda quotas": 6 MB for a synchronous invocation).
const maxAnswer = 6_291_556

// Handler answers events; it is a lambda.Handler. The deadline of an
// invocation is its request's.
type Handler struct {
	next http.Handler
	log  *slog.Logger
}

// New returns a Handler that lets next answer, and writes a line for each
// request to log.
func New(next http.Handler, log *slog.Logger) *Handler { return &Handler{next: next, log: log} }

// Invoke answers one event. Its error is that of an event which is none of API
// Gateway's.
func (h *Handler) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	began := time.Now()
	var e event
	if err := json.Unmarshal(payload, &e); err != nil {
		return nil, fmt.Errorf("reading an event of %d bytes: %w", len(payload), err)
	}
	if e.method() == "" {
		return nil, errors.New("this is no event of API Gateway: want payload 1.0 of a REST API, or 2.0 of an HTTP API or a function URL")
	}
	r, err := e.request(ctx)
	if err != nil {
		return refusal(err).encode(e.multiValue())
	}
	a := h.serve(r)
	out, err := a.encode(e.multiValue())
	if err == nil && len(out) > maxAnswer {
		a = refusal(api.Fail(api.ErrTooLarge, "", "the answer is %d bytes: a Lambda function answers with at most %d", max(a.size, len(out)), maxAnswer))
		out, err = a.encode(e.multiValue())
	}
	h.log.InfoContext(ctx, "answered", "method", r.Method, "path", r.URL.Path, "status", a.status,
		"duration_ms", float64(time.Since(began).Microseconds())/1000, "id", promiseID(r, a))
	return out, err
}

// serve calls the handler. One that panics has answered 500; one that broke
// off, lest a part pass for the whole, 503, for the same request may do better.
func (h *Handler) serve(r *http.Request) (a *answer) {
	defer func() {
		switch v := recover(); v {
		case nil:
		case http.ErrAbortHandler:
			a = refusal(api.ErrUnavailable)
		default:
			h.log.ErrorContext(r.Context(), "a handler panicked", "method", r.Method, "path", r.URL.Path, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			a = problem(api.Problem{
				Type: "about:blank", Title: http.StatusText(http.StatusInternalServerError),
				Status: http.StatusInternalServerError, Detail: "the request met an error of ours, which is in the log",
			})
		}
	}()
	a = newAnswer()
	h.next.ServeHTTP(a, r)
	a.WriteHeader(http.StatusOK) // unless it has answered
	if r.Method == http.MethodHead {
		a.body.Reset()
	}
	return a
}

// promiseID is the id of the promise that a request was about: the path has
// it, or names what a submission has created.
func promiseID(r *http.Request, a *answer) string {
	if id := r.PathValue("id"); id != "" {
		return id
	}
	id, ok := strings.CutPrefix(a.sent.Get("Location"), api.PromisePath(""))
	if !ok {
		return ""
	}
	return id
}
