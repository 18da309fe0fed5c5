package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"modulate/internal/promise"
	"modulate/internal/store"
)

// script is a server that gives one answer after another, the last for ever.
// A nil answer is a connection that breaks.
type script struct {
	answers []http.HandlerFunc
	seen    []*http.Request
	bodies  []string
	at      []time.Time
}

// RoundTrip gives the next answer.
func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	n := min(len(s.seen), len(s.answers)-1)
	var body []byte
	if r.Body != nil {
		body, _ = io.ReadAll(r.Body)
		r.Body.Close()
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	s.seen, s.at, s.bodies = append(s.seen, r), append(s.at, time.Now()), append(s.bodies, string(body))
	if s.answers[n] == nil {
		return nil, &net.OpError{Op: "dial", Err: errors.New("connection refused")}
	}
	return HandlerTransport(s.answers[n]).RoundTrip(r)
}

func fails(err error) http.HandlerFunc {
	return endpoint(func(*Request) (Answer, error) { return Answer{}, err }).ServeHTTP
}

func says(a Answer) http.HandlerFunc {
	return endpoint(func(*Request) (Answer, error) { return a, nil }).ServeHTTP
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

var pending, resolved = says(Answer{Body: Promise{ID: "x", State: "pending"}}), says(Answer{Body: Promise{ID: "x", State: "resolved"}})

func TestClientRepeats(t *testing.T) {
	tests := []struct {
		name    string
		answers []http.HandlerFunc
		tries   int
		want    error // nil: it succeeds
	}{
		{"at once", []http.HandlerFunc{resolved}, 1, nil},
		{"connection refused twice", []http.HandlerFunc{nil, nil, resolved}, 3, nil},
		{"503 and 504", []http.HandlerFunc{fails(ErrUnavailable), status(504), status(502), status(500), resolved}, 5, nil},
		{"throttled", []http.HandlerFunc{fails(store.ErrThrottled), resolved}, 2, nil},
		{"not deployed", []http.HandlerFunc{fails(store.ErrDeployment)}, 1, store.ErrDeployment},
		{"not found", []http.HandlerFunc{fails(promise.ErrNotFound)}, 1, promise.ErrNotFound},
		{"full", []http.HandlerFunc{fails(store.ErrFull)}, 1, store.ErrFull},
		{"invalid", []http.HandlerFunc{fails(ErrInvalid)}, 1, ErrInvalid},
		{"a broken answer", []http.HandlerFunc{func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, resolved}, 2, nil},
		{"half an answer", []http.HandlerFunc{func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, `{"id":`)
			panic(http.ErrAbortHandler)
		}, resolved}, 2, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{answers: tt.answers}
				c := NewClient("http://localhost", s)
				retries := 0
				c.OnRetry = func(err error, wait time.Duration) {
					if retries++; err == nil || wait <= 0 {
						t.Errorf("repeated after %s for %v", wait, err)
					}
				}
				_, err := c.Get(t.Context(), "x", 0)
				if !errors.Is(err, tt.want) || len(s.seen) != tt.tries || retries != tt.tries-1 {
					t.Errorf("got %v after %d tries, %d of them told", err, len(s.seen), retries)
				}
			})
		})
	}
}

func TestClientPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct{ patience, least, most time.Duration }{
			{-1, 0, 0}, {0, Patience / 3, Patience}, {time.Minute, 50 * time.Second, time.Minute},
		} {
			c := NewClient("127.0.0.1:8700", &script{answers: []http.HandlerFunc{nil}})
			c.Patience = tt.patience
			began := time.Now()
			_, err := c.Get(t.Context(), "x", 0)
			var away *Unreachable
			if !errors.As(err, &away) || away.Address != "http://127.0.0.1:8700" || !strings.Contains(err.Error(), "http://127.0.0.1:8700: dial: connection refused") {
				t.Errorf("got %v", err)
			}
			if took := time.Since(began); took < tt.least || took > tt.most {
				t.Errorf("patience %s lasted %s", tt.patience, took)
			}
		}
	})
}

// barred is a transport that lets nobody through.
type barred struct{ calls int }

func (b *barred) RoundTrip(*http.Request) (*http.Response, error) {
	b.calls++
	return nil, fmt.Errorf("%w: who are you", ErrBarred)
}

func TestClientDoesNotRepeatWhatIsBarred(t *testing.T) {
	b := &barred{}
	c := NewClient("http://localhost", b)
	var away *Unreachable
	if _, err := c.Get(t.Context(), "x", 0); !errors.Is(err, ErrBarred) || errors.As(err, &away) || err.Error() != ErrBarred.Error()+": who are you" {
		t.Errorf("got %v", err)
	}
	if b.calls != 1 {
		t.Errorf("%d tries, want 1", b.calls)
	}
}

func TestClientHonoursRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busy := func(after string) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Retry-After", after)
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		}
		date := time.Now().Add(20 * time.Second).UTC().Format(http.TimeFormat)
		s := &script{answers: []http.HandlerFunc{busy("7"), busy(date), busy("soon"), resolved}}
		c := NewClient("http://localhost", s)
		c.Patience = time.Minute
		if _, err := c.Get(t.Context(), "x", 0); err != nil {
			t.Fatal(err)
		}
		for i, want := range []time.Duration{7 * time.Second, 13 * time.Second, 0} {
			if got := s.at[i+1].Sub(s.at[i]); got < want || got > want+time.Second {
				t.Errorf("wait %d was %s, want about %s", i, got, want)
			}
		}
	})
}

func TestClientContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, answer := range map[string]http.HandlerFunc{
			"while it is unreachable": nil,
			"while it hangs":          func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			c := NewClient("http://localhost", &script{answers: []http.HandlerFunc{answer}})
			c.Patience = time.Hour
			if _, err := c.Get(ctx, "x", 0); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", name, err)
			}
			cancel()
		}
	})
}

// A server that accepts and never answers, as a stopped one does, is taken for
// unreachable.
func TestClientHungServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
		s := &script{answers: []http.HandlerFunc{hang, resolved}}
		c := NewClient("http://localhost", s)
		c.Patience = time.Minute
		p, err := c.Get(t.Context(), "x", 10*time.Second)
		if err != nil || p.State != "resolved" || s.at[1].Sub(s.at[0]) < 10*time.Second+tryLimit {
			t.Errorf("got %+v, %v after %s", p, err, s.at[1].Sub(s.at[0]))
		}
	})
}

func TestWaitTerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// A wait that is over, a gateway's timeouts, a restart that takes
		// longer than anybody's patience, then the end.
		answers := []http.HandlerFunc{pending, status(504), fails(ErrUnavailable)}
		for range 200 {
			answers = append(answers, nil)
		}
		s := &script{answers: append(answers, pending, resolved)}
		c := NewClient("http://localhost", s)
		p, err := c.WaitTerminal(t.Context(), "x", nil)
		if err != nil || p.State != "resolved" || len(s.seen) != len(s.answers) {
			t.Fatalf("got %+v, %v after %d of %d requests", p, err, len(s.seen), len(s.answers))
		}
		for _, r := range s.seen {
			if got := r.Header.Get("Prefer"); got != "wait=10" {
				t.Errorf("Prefer: %q", got)
			}
		}
		if took := s.at[len(s.at)-1].Sub(s.at[0]); took < time.Minute {
			t.Errorf("200 tries in %s: it hammers", took)
		}
	})
}

func TestWaitTerminalProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{answers: []http.HandlerFunc{pending, pending, resolved}}
		var states []string
		_, err := NewClient("http://localhost", s).WaitTerminal(t.Context(), "x", func(p Promise) { states = append(states, p.State) })
		if want := []string{"pending", "pending", "resolved"}; err != nil || !slices.Equal(states, want) {
			t.Errorf("got %v, %v", states, err)
		}
		if got := s.seen[0].Header.Get("Prefer"); got != "wait=1" {
			t.Errorf("Prefer: %q", got)
		}
	})
}

// A server that would rather be polled is asked without a wait.
func TestWaitTerminalPolls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		later := says(Answer{Body: Promise{ID: "x", State: "pending"}, RetryAfter: 5 * time.Second})
		s := &script{answers: []http.HandlerFunc{later, later, resolved}}
		if _, err := NewClient("http://localhost", s).WaitTerminal(t.Context(), "x", nil); err != nil {
			t.Fatal(err)
		}
		for i, want := range []string{"wait=10", "", ""} {
			if got := s.seen[i].Header.Get("Prefer"); got != want {
				t.Errorf("request %d: Prefer: %q", i, got)
			}
		}
		if took := s.at[2].Sub(s.at[0]); took != 10*time.Second {
			t.Errorf("two polls took %s", took)
		}
	})
}

func TestWaitTerminalEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewClient("http://localhost", &script{answers: []http.HandlerFunc{nil}})
		var away *Unreachable
		if _, err := c.WaitTerminal(t.Context(), "x", nil); !errors.As(err, &away) {
			t.Errorf("a server that never was there: %v", err)
		}
		c = NewClient("http://localhost", &script{answers: []http.HandlerFunc{pending, fails(promise.ErrNotFound)}})
		if _, err := c.WaitTerminal(t.Context(), "x", nil); !errors.Is(err, promise.ErrNotFound) {
			t.Errorf("an unknown id: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		c = NewClient("http://localhost", &script{answers: []http.HandlerFunc{pending, nil}})
		if _, err := c.WaitTerminal(ctx, "x", nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the end of ctx: %v", err)
		}
	})
}

func TestClientSubmit(t *testing.T) {
	for code, want := range map[int]Submitted{201: {Created: true}, 200: {Existing: true}, 202: {Accepted: true}} {
		s := &script{answers: []http.HandlerFunc{says(Answer{Status: code, Body: Promise{ID: "x"}})}}
		p, done, err := NewClient("http://localhost", s).Submit(t.Context(), Submit{ID: "x"}, SubmitOptions{Wait: 1500 * time.Millisecond, Async: true})
		if err != nil || p.ID != "x" || done != want {
			t.Errorf("%d: got %+v %+v, %v", code, p, done, err)
		}
		if got := s.seen[0].Header["Prefer"]; !slices.Equal(got, []string{"wait=2", "respond-async"}) {
			t.Errorf("Prefer: %q", got)
		}
	}
}

// A submission without an id gets one before it is sent, so that it can be
// sent twice; at a script's socket, its key does that.
func TestClientSubmitIsIdempotent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct{ parent, key string }{{"", ""}, {"p", ""}, {"", "k"}} {
			s := &script{answers: []http.HandlerFunc{nil, status(503), resolved}}
			_, _, err := NewClient("http://localhost", s).Submit(t.Context(), Submit{Parent: tt.parent}, SubmitOptions{Key: tt.key})
			if err != nil || len(s.bodies) != 3 || s.bodies[0] != s.bodies[1] || s.bodies[1] != s.bodies[2] {
				t.Fatalf("%+v: %v; sent %q", tt, err, s.bodies)
			}
			var sub Submit
			if err := decode([]byte(s.bodies[0]), &sub); err != nil {
				t.Fatal(err)
			}
			switch {
			case tt.key != "":
				if sub.ID != "" || s.seen[0].Header.Get(KeyHeader) != tt.key {
					t.Errorf("with a key: id %q, %v", sub.ID, s.seen[0].Header)
				}
			case tt.parent != "":
				if !promise.ValidChildID(tt.parent, sub.ID) {
					t.Errorf("a child is called %q", sub.ID)
				}
			case !promise.ValidID(sub.ID) || sub.ID != strings.ToLower(sub.ID) || len(sub.ID) != 26:
				t.Errorf("it is called %q", sub.ID)
			}
		}
	})
}

func TestClientQueries(t *testing.T) {
	s := &script{answers: []http.HandlerFunc{says(Answer{Body: List{}})}}
	c := NewClient("http://localhost/base/", s)
	since := time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.FixedZone("", 3600))
	if _, err := c.List(t.Context(), ListQuery{Machine: "gpu", State: "pending", Prefix: "a", Since: since, Limit: 3, Cursor: "c/="}); err != nil {
		t.Fatal(err)
	}
	want := url.Values{"machine": {"gpu"}, "state": {"pending"}, "prefix": {"a"}, "since": {"2026-01-02T02:04:05.006Z"}, "limit": {"3"}, "cursor": {"c/="}}
	if got := s.seen[0].URL; got.Path != "/base/v1/promises" || got.Query().Encode() != want.Encode() {
		t.Errorf("got %s", got)
	}
	if body, err := c.Artifact(t.Context(), "p.x", "a b/c?d/%2e"); err != nil {
		t.Error(err)
	} else {
		body.Close()
	}
	if got := s.seen[1].URL.EscapedPath(); got != "/base/v1/promises/p.x/artifacts/a%20b/c%3Fd/%252e" {
		t.Errorf("got %s", got)
	}
}

func TestClientPutBlob(t *testing.T) {
	const content = "hello"
	sum := promise.Hash(sha256.Sum256([]byte(content)))
	opened := 0
	open := func() (io.ReadCloser, error) {
		opened++
		return io.NopCloser(strings.NewReader(content)), nil
	}
	s := &script{answers: []http.HandlerFunc{says(Answer{Body: BlobUpload{}})}}
	if err := NewClient("http://localhost", s).PutBlob(t.Context(), sum, 5, open); err != nil || opened != 0 || len(s.seen) != 1 {
		t.Errorf("a known blob: %v, %d uploads", err, opened)
	}
	synctest.Test(t, func(t *testing.T) {
		for upload, want := range map[string]string{"/v1/blobs/x": "http://localhost/v1/blobs/x", "https://elsewhere/k?sig=1": "https://elsewhere/k?sig=1"} {
			ask := says(Answer{Status: 201, Body: BlobUpload{URL: upload, Headers: map[string]string{"X-Sum": "s"}}})
			s := &script{answers: []http.HandlerFunc{ask, nil, status(503), status(200)}}
			if err := NewClient("http://localhost", s).PutBlob(t.Context(), sum, 5, open); err != nil {
				t.Fatal(err)
			}
			for i, r := range s.seen[1:] {
				if r.Method != "PUT" || r.URL.String() != want || r.ContentLength != 5 || s.bodies[i+1] != content || r.Header.Get("X-Sum") != "s" {
					t.Errorf("try %d: %s %s, %d bytes: %q, %v", i, r.Method, r.URL, r.ContentLength, s.bodies[i+1], r.Header)
				}
			}
		}
	})
	lost := errors.New("the file is gone")
	s = &script{answers: []http.HandlerFunc{says(Answer{Status: 201, Body: BlobUpload{URL: "/x"}})}}
	err := NewClient("http://localhost", s).PutBlob(t.Context(), sum, 5, func() (io.ReadCloser, error) { return nil, lost })
	if !errors.Is(err, lost) {
		t.Errorf("a file that cannot be opened: %v", err)
	}
}

func TestClientBadAddress(t *testing.T) {
	for _, base := range []string{"http://[", "http://a b"} {
		if _, err := NewClient(base, nil).Get(t.Context(), "x", 0); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", base, err)
		}
	}
}
