package api

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestHandlerTransportStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		more := make(chan string)
		h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Early", "1")
			w.(http.Flusher).Flush()
			w.Header().Set("X-Late", "1")
			for line := range more {
				io.WriteString(w, line)
			}
		})
		resp, err := roundTrip(t, h, httptest.NewRequest("GET", "http://localhost/", nil))
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != 200 || resp.Header.Get("X-Early") != "1" || resp.Header.Get("X-Late") != "" {
			t.Errorf("got %d, %v", resp.StatusCode, resp.Header)
		}
		lines := bufio.NewReader(resp.Body)
		for _, want := range []string{"one\n", "two\n"} {
			more <- want
			if got, err := lines.ReadString('\n'); got != want || err != nil {
				t.Errorf("got %q, %v", got, err)
			}
		}
		close(more)
		if rest, err := io.ReadAll(lines); len(rest) != 0 || err != nil {
			t.Errorf("at the end: %q, %v", rest, err)
		}
		resp.Body.Close()
	})
}

func TestHandlerTransportRequest(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if r.Host != "localhost:1" || r.URL.Path != "/a b" || r.Header.Get("X") != "y" || string(body) != "hello" || err != nil {
			t.Errorf("got %s %s %v %q %v", r.Host, r.URL, r.Header, body, err)
		}
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusTeapot)
		w.WriteHeader(http.StatusOK)
	})
	req, _ := http.NewRequest("POST", "http://localhost:1/a%20b?q=1", strings.NewReader("hello"))
	req.Header.Set("X", "y")
	resp, err := roundTrip(t, h, req)
	if err != nil || resp.StatusCode != http.StatusTeapot || resp.Status != "418 I'm a teapot" {
		t.Errorf("got %v, %v", resp, err)
	}
	resp.Body.Close()
}

func TestHandlerTransportEmptyAnswer(t *testing.T) {
	resp, err := roundTrip(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), httptest.NewRequest("GET", "/", nil))
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("got %v, %v", resp, err)
	}
	if body, err := io.ReadAll(resp.Body); len(body) != 0 || err != nil {
		t.Errorf("got %q, %v", body, err)
	}
	resp.Body.Close()
}

func TestHandlerTransportAbort(t *testing.T) {
	for _, begun := range []bool{false, true} {
		h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if begun {
				io.WriteString(w, "half of ")
			}
			panic(http.ErrAbortHandler)
		})
		resp, err := roundTrip(t, h, httptest.NewRequest("GET", "/", nil))
		if begun && err == nil {
			_, err = io.ReadAll(resp.Body)
			resp.Body.Close()
		}
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("begun %v: %v, want io.ErrUnexpectedEOF", begun, err)
		}
	}
}

func TestHandlerTransportCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		h := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			ended <- r.Context().Err()
		})
		go func() {
			synctest.Wait()
			cancel()
		}()
		_, err := roundTrip(t, h, httptest.NewRequest("GET", "/", nil).WithContext(ctx))
		if !errors.Is(err, context.Canceled) || !errors.Is(<-ended, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

// Who closes the body stops the handler.
func TestHandlerTransportCloseBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			_, err := io.WriteString(w, "too late")
			ended <- err
		})
		resp, err := roundTrip(t, h, httptest.NewRequest("GET", "/", nil))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if err := <-ended; !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("the handler's write: %v", err)
		}
	})
}

func roundTrip(t *testing.T, h http.Handler, r *http.Request) (*http.Response, error) {
	t.Helper()
	return HandlerTransport(h).RoundTrip(r)
}

func TestUnixTransport(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(endpoint(func(r *Request) (Answer, error) {
		return Answer{Body: Promise{ID: r.PathValue("id") + r.URL.Path, State: "pending"}}, nil
	}))
	s.Listener.Close()
	s.Listener = l
	s.Start()
	c := NewClient("http://modulate", UnixTransport(path))
	c.Patience = -1
	if c.Address() != path {
		t.Errorf("the address is %q", c.Address())
	}
	p, err := c.Get(t.Context(), "x", 0)
	if err != nil || p.ID != "/v1/promises/x" {
		t.Errorf("got %+v, %v", p, err)
	}
	c.Close()
	s.Close()
	var away *Unreachable
	if _, err := c.Get(t.Context(), "x", 0); !errors.As(err, &away) || away.Address != path {
		t.Errorf("without a server: %v", err)
	}
}

func TestJoin(t *testing.T) {
	say := func(name string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("By", name) })
	}
	h := Join(say("dispatch"), say("read"))
	for method, want := range map[string]string{"GET": "read", "HEAD": "read", "POST": "dispatch", "PUT": "dispatch", "DELETE": "dispatch"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, "/v1/promises", nil))
		if got := w.Header().Get("By"); got != want {
			t.Errorf("%s goes to %s", method, got)
		}
	}
}
