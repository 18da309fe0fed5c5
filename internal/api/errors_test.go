package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Every sentinel that a handler returns is the same sentinel, and no other,
// at the client.
func TestSentinelsRoundTrip(t *testing.T) {
	for _, r := range table {
		t.Run(r.slug, func(t *testing.T) {
			for name, sent := range map[string]error{
				"bare":    r.sentinel,
				"wrapped": fmt.Errorf("doing it: %w", r.sentinel),
				"Fail":    Fail(r.sentinel, "here", "not like %s", "this"),
			} {
				c := client(t, endpoint(func(*Request) (Answer, error) { return Answer{}, sent }))
				_, err := c.Get(t.Context(), "x", 0)
				var e *Error
				if !errors.As(err, &e) {
					t.Fatalf("%s: %v is no *Error", name, err)
				}
				if e.Status != r.status || e.Type != TypePrefix+r.slug || e.Title != r.sentinel.Error() {
					t.Errorf("%s: got %+v", name, e.Problem)
				}
				for _, other := range table {
					if got := errors.Is(err, other.sentinel); got != (other.sentinel == r.sentinel) {
						t.Errorf("%s: errors.Is(%v) = %v", name, other.sentinel, got)
					}
				}
				if name == "Fail" && (e.Where != "here" || e.Detail != "not like this") {
					t.Errorf("%s: got %q in %q", name, e.Detail, e.Where)
				}
				if again := e.RetryAfter > 0; again != (r.status == 429 || r.status == 503) {
					t.Errorf("%s: Retry-After %s with status %d", name, e.RetryAfter, r.status)
				}
			}
		})
	}
}

func TestTableIsUnambiguous(t *testing.T) {
	slugs := make(map[string]bool)
	for i, r := range table {
		if slugs[r.slug] {
			t.Errorf("two rows are called %s", r.slug)
		}
		slugs[r.slug] = true
		if r.status < 400 || http.StatusText(r.status) == "" {
			t.Errorf("%s has status %d", r.slug, r.status)
		}
		for _, s := range table[:i] {
			if errors.Is(r.sentinel, s.sentinel) {
				t.Errorf("%s is %s", r.slug, s.slug)
			}
		}
	}
}

// What the table does not know is an unknown outcome, and its text stays here.
func TestUnknownErrors(t *testing.T) {
	for _, sent := range []error{errors.New("the password is swordfish"), context.DeadlineExceeded, context.Canceled} {
		e := AsError(fmt.Errorf("writing: %w", sent))
		if !errors.Is(e, ErrUnavailable) || e.Status != http.StatusServiceUnavailable || e.RetryAfter != time.Second {
			t.Errorf("%v became %+v", sent, e)
		}
		if strings.Contains(e.Error(), sent.Error()) {
			t.Errorf("%q tells what happened inside", e)
		}
	}
}

// A body that was cut off where it got too long is no unknown outcome.
func TestCutBody(t *testing.T) {
	_, cut := io.ReadAll(http.MaxBytesReader(nil, io.NopCloser(strings.NewReader("1234")), 3))
	e := AsError(fmt.Errorf("reading: %w", cut))
	if !errors.Is(e, ErrTooLarge) || e.Status != http.StatusRequestEntityTooLarge || !strings.Contains(e.Detail, "over 3 bytes") || e.RetryAfter != 0 {
		t.Errorf("got %+v", e)
	}
}

// Answers that are not ours, a gateway's or a wrong server's.
func TestForeignAnswers(t *testing.T) {
	tests := []struct {
		status int
		body   string
		is     error // nil: none of ours
		says   string
	}{
		{502, "<html>Bad Gateway</html>\nmore", ErrUnavailable, "<html>Bad Gateway</html>"},
		{503, `{"message":"Service Unavailable"}`, ErrUnavailable, "Service Unavailable"},
		{504, "", ErrUnavailable, "504 Gateway Timeout"},
		{429, "slow down", ErrUnavailable, "slow down"},
		{404, "404 page not found", nil, "404 page not found"},
		{403, `{"Message":"no"}`, nil, "no"},
		{500, `{"type":"about:blank","title":"Internal Server Error","status":500}`, ErrUnavailable, "Internal Server Error"},
		{500, `{"message":"Internal Server Error"}`, ErrUnavailable, "Internal Server Error"},
		{400, `{"type":"urn:modulate:newer","title":"a sentinel of a newer server","detail":"say why"}`, nil, "say why"},
	}
	for _, tt := range tests {
		c := client(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(tt.status)
			w.Write([]byte(tt.body))
		}))
		_, err := c.Get(t.Context(), "x", 0)
		var e *Error
		if !errors.As(err, &e) || e.Status != tt.status || err.Error() != tt.says {
			t.Errorf("%d %s: got %v (%+v)", tt.status, tt.body, err, e)
		}
		for _, r := range table {
			if errors.Is(err, r.sentinel) != (r.sentinel == tt.is) {
				t.Errorf("%d %s: errors.Is(%v) = %v", tt.status, tt.body, r.sentinel, errors.Is(err, r.sentinel))
			}
		}
	}
}

// endpoint is a server of one endpoint.
func endpoint(fn func(*Request) (Answer, error)) http.Handler {
	return new(Service).Handle(fn)
}

// client is a client of h that repeats nothing.
func client(t *testing.T, h http.Handler) *Client {
	t.Helper()
	c := NewClient("http://localhost", HandlerTransport(h))
	c.Patience = -1
	return c
}
