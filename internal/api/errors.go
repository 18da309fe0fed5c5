package api

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"modulate/internal/blob"
	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/internal/store"
)

// The sentinels of the API itself. Those of the packages below keep their own
// names: see the table in this file.
var (
	// ErrInvalid: the request is at fault; Problem.Where names the field.
	ErrInvalid = errors.New("the request is not valid")
	// ErrTooLarge: a limit in bytes is exceeded.
	ErrTooLarge = errors.New("the request is too large")
	// ErrMedia: the body is not said to be JSON.
	ErrMedia = errors.New("the body must be application/json")
	// ErrConflict: the id is taken by another call or another owner.
	ErrConflict = errors.New("the id is taken")
	// ErrForbidden: the caller is not who it says it acts for.
	ErrForbidden = errors.New("this is not allowed")
	// ErrOrigin: a page of another site sent the request.
	ErrOrigin = errors.New("requests of other sites are refused")
	// ErrHost: the request was meant for another host.
	ErrHost = errors.New("this server is not that host")
	// ErrRoute: there is no such path.
	ErrRoute = errors.New("there is no such path")
	// ErrMethod: the path does not know this method.
	ErrMethod = errors.New("the path does not know this method")
	// ErrUnavailable: the outcome is not known; the same request may be
	// repeated.
	ErrUnavailable = errors.New("the service cannot answer now")
)

// row is one line of the table between sentinels and answers.
type row struct {
	sentinel error
	slug     string // the last part of Problem.Type
	status   int
}

// TypePrefix and a slug of the table are a Problem's type.
const TypePrefix = "urn:modulate:"

// table is the one place where sentinels and statuses meet. The server looks
// for the first row whose sentinel an error is, the client for the row with
// the type that it was sent. What is in no row is [ErrUnavailable].
var table = [...]row{
	{ErrInvalid, "invalid", http.StatusBadRequest},
	{ErrTooLarge, "too-large", http.StatusRequestEntityTooLarge},
	{ErrMedia, "not-json", http.StatusUnsupportedMediaType},
	{ErrConflict, "conflict", http.StatusConflict},
	{ErrForbidden, "forbidden", http.StatusForbidden},
	{ErrOrigin, "foreign-origin", http.StatusForbidden},
	{ErrHost, "foreign-host", http.StatusMisdirectedRequest},
	{ErrRoute, "no-such-path", http.StatusNotFound},
	{ErrMethod, "no-such-method", http.StatusMethodNotAllowed},
	{promise.ErrNotFound, "not-found", http.StatusNotFound},
	{promise.ErrSettled, "settled", http.StatusConflict},
	{promise.ErrParent, "parent", http.StatusConflict},
	{blob.ErrNotFound, "no-such-content", http.StatusNotFound},
	{blob.ErrMismatch, "content-mismatch", http.StatusBadRequest},
	{store.ErrCursor, "bad-cursor", http.StatusBadRequest},
	{store.ErrThrottled, "throttled", http.StatusTooManyRequests},
	{blob.ErrThrottled, "blobs-throttled", http.StatusTooManyRequests},
	{queue.ErrThrottled, "queues-throttled", http.StatusTooManyRequests},
	{store.ErrDeployment, "store-deployment", http.StatusInternalServerError},
	{blob.ErrDeployment, "blobs-deployment", http.StatusInternalServerError},
	{queue.ErrDeployment, "queues-deployment", http.StatusInternalServerError},
	{store.ErrFull, "store-full", http.StatusInsufficientStorage},
	{blob.ErrFull, "blobs-full", http.StatusInsufficientStorage},
	{ErrUnavailable, "unavailable", http.StatusServiceUnavailable},
}

// Error is a refused request, the same at both ends. errors.Is finds the
// sentinel of the table that its type stands for.
type Error struct {
	Problem
	// RetryAfter is when to ask again; zero where repeating is no use.
	RetryAfter time.Duration
}

// Error says the detail, or the title where there is none.
func (e *Error) Error() string {
	if e.Detail != "" {
		return e.Detail
	}
	return e.Title
}

// Is reports whether target is the sentinel that e stands for. An answer that
// is not ours, a gateway's perhaps, is [ErrUnavailable] where its status says
// so.
func (e *Error) Is(target error) bool {
	for _, r := range table {
		if r.sentinel == target && e.Type == TypePrefix+r.slug {
			return true
		}
	}
	return target == ErrUnavailable && e.foreign() && e.passing()
}

// foreign reports whether p says no more than its status.
func (p Problem) foreign() bool { return p.Type == "" || p.Type == blankType }

// blankType is the type of a problem that says no more than its status.
const blankType = "about:blank"

// Fail returns an Error that is sentinel, which must be in the table. where
// names the field at fault, or is empty; the rest says what is wrong and what
// to do instead.
func Fail(sentinel error, where, format string, args ...any) error {
	p := problemOf(sentinel)
	p.Where, p.Detail = where, fmt.Sprintf(format, args...)
	return &Error{Problem: p, RetryAfter: p.retryAfter()}
}

// Invalid is Fail for a field that is not as it should be.
func Invalid(where, format string, args ...any) error {
	return Fail(ErrInvalid, where, format, args...)
}

// AsError returns what the server answers for err: the Error in it, or that of
// the first sentinel that it is. Anything else is an outcome that is not known.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	var long *http.MaxBytesError
	if errors.As(err, &long) {
		err = fmt.Errorf("%w: its body is over %d bytes, which is the most that it may have", ErrTooLarge, long.Limit)
	}
	p := problemOf(err)
	if p.Status != http.StatusServiceUnavailable {
		p.Detail = err.Error()
	} else {
		p.Detail = "the outcome of the request is not known; repeat it, the same request does nothing twice"
	}
	return &Error{Problem: p, RetryAfter: p.retryAfter()}
}

// problemOf returns the problem of the first row that err is.
func problemOf(err error) Problem {
	for _, r := range table {
		if errors.Is(err, r.sentinel) {
			return Problem{Type: TypePrefix + r.slug, Title: r.sentinel.Error(), Status: r.status}
		}
	}
	return problemOf(ErrUnavailable)
}

// passing reports whether a request that was answered with p may be answered
// otherwise a moment later. An HTTP API says 500 where the function that was at
// it died; our own 500s wait for a person.
func (p Problem) passing() bool {
	switch p.Status {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	case http.StatusInternalServerError:
		return p.foreign()
	}
	return false
}

// retryAfter is what the server tells a client to wait before it repeats.
func (p Problem) retryAfter() time.Duration {
	if p.passing() {
		return time.Second
	}
	return 0
}

// Unreachable is the error of a client that found no server at its address.
type Unreachable struct {
	Address string // of the server: a URL, or the path of a socket
	Err     error
}

// Error names the address.
func (u *Unreachable) Error() string {
	return fmt.Sprintf("no server answers at %s: %v", u.Address, u.Err)
}

// Unwrap returns what the connection failed of.
func (u *Unreachable) Unwrap() error { return u.Err }
