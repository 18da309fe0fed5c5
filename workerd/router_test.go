package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"modulate/internal/account"
	"modulate/internal/api"
	"modulate/internal/emulator"
)

// marked marks what goes to the stage as signed; AWS refuses it, if so set.
type marked struct {
	host   string
	refuse error
}

func (m *marked) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Host == m.host {
		if m.refuse != nil {
			return nil, m.refuse
		}
		req = req.Clone(req.Context())
		req.Header.Set("Authorization", "signed")
	}
	return http.DefaultTransport.RoundTrip(req)
}

// toStage returns the address of a router that leads to the stage h, below a
// path, and what the router logs.
func toStage(t *testing.T, h http.HandlerFunc, refuse error) (address string, log *lines) {
	t.Helper()
	stage := httptest.NewServer(http.StripPrefix("/prod", h))
	t.Cleanup(stage.Close)
	base, err := url.Parse(stage.URL + "/prod")
	if err != nil {
		t.Fatal(err)
	}
	log = &lines{}
	srv := httptest.NewServer(newRouter(base, &marked{host: base.Host, refuse: refuse}, slog.New(slog.NewTextHandler(log, nil))))
	t.Cleanup(srv.Close)
	return srv.URL, log
}

// request sends a request as a script's socket does, and returns the answer.
func request(t *testing.T, method, address, body string) (status int, answer string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(api.ParentHeader, "a 1 ff")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestRouterPassesRequestsOnSigned(t *testing.T) {
	address, _ := toStage(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "signed" || r.Header.Get(api.ParentHeader) != "a 1 ff" {
			t.Errorf("headers %v", r.Header)
		}
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusConflict)
		fmt.Fprintf(w, "%s %s", r.Method, r.URL.RequestURI())
	}, nil)
	for _, path := range []string{"/v1/promises/a.b:c%20d?wait=3", "/v1/promises/x/cancel"} {
		status, answer := request(t, "POST", address+path, "{}")
		if want := "POST " + path; status != http.StatusConflict || answer != want {
			t.Errorf("%d %q, want 409 %q", status, answer, want)
		}
	}
}

func TestRouterUploads(t *testing.T) {
	for name, c := range map[string]struct {
		stage, bucket int    // what they answer
		said          string // by the bucket
		status        int
		answer        string
	}{
		"new":           {201, 200, "", 204, ""},
		"known":         {200, 0, "", 204, ""},
		"refused":       {413, 0, "", 413, "too large"},
		"other content": {201, 400, "<Error><Code>BadDigest</Code></Error>", 400, "urn:modulate:content-mismatch"},
		"bucket fails":  {201, 403, "<Error><Code>AccessDenied</Code></Error>", 503, "urn:modulate:unavailable"},
	} {
		t.Run(name, func(t *testing.T) {
			took := ""
			bucket := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				took = string(body)
				if r.Header.Get("Authorization") != "" || r.Header.Get("X-Sum") != "s" || r.ContentLength != 4 {
					t.Errorf("headers %v, length %d", r.Header, r.ContentLength)
				}
				w.WriteHeader(c.bucket)
				io.WriteString(w, c.said)
			}))
			defer bucket.Close()
			address, _ := toStage(t, func(w http.ResponseWriter, r *http.Request) {
				asked, _ := io.ReadAll(r.Body)
				if r.URL.Path != "/v1/blobs" || string(asked) != `{"sha256":"ab","size":4}` || r.Header.Get(api.ParentHeader) != "a 1 ff" {
					t.Errorf("the stage is asked %s %s", r.URL, asked)
				}
				w.WriteHeader(c.stage)
				switch c.stage {
				case http.StatusCreated:
					fmt.Fprintf(w, `{"url":"%s/key?X-Amz-Signature=1","headers":{"X-Sum":"s"}}`, bucket.URL)
				case http.StatusOK:
					io.WriteString(w, "{}")
				default:
					io.WriteString(w, "too large")
				}
			}, nil)
			status, answer := request(t, "POST", address+"/v1/blobs", `{"sha256":"ab","size":4}`)
			if status != c.stage || strings.Contains(answer, bucket.URL) || c.stage == 201 && !strings.Contains(answer, `"/v1/blobs/ab"`) {
				t.Errorf("asked: %d %s", status, answer)
			}
			status, answer = request(t, "PUT", address+"/v1/blobs/ab", "text")
			if status != c.status || !strings.Contains(answer, c.answer) {
				t.Errorf("put: %d %s, want %d %s", status, answer, c.status, c.answer)
			}
			if (took == "text") != (c.stage == http.StatusCreated) {
				t.Errorf("the bucket got %q", took)
			}
		})
	}
}

// What AWS has against the worker's role is for the operator, not the script.
func TestRouterKeepsRefusalsToItself(t *testing.T) {
	refuse := &account.Trouble{Kind: account.ErrDenied, Text: "AWS denies access to role/worker", Err: errors.New("x")}
	address, log := toStage(t, func(http.ResponseWriter, *http.Request) { t.Error("a request arrived") }, refuse)
	for _, c := range []struct{ method, path string }{{"POST", "/v1/promises"}, {"POST", "/v1/blobs"}, {"PUT", "/v1/blobs/ab"}} {
		status, answer := request(t, c.method, address+c.path, "{}")
		if status != http.StatusServiceUnavailable || strings.Contains(answer, "role/worker") || !strings.Contains(answer, "urn:modulate:unavailable") {
			t.Errorf("%s %s: %d %s", c.method, c.path, status, answer)
		}
	}
	if n := strings.Count(log.String(), "role/worker"); n != 3 {
		t.Errorf("logged %d times:\n%s", n, log)
	}
}

// The signer reads what it signs whole: a body over the limit of a script's
// socket is the script's fault, and no outage.
func TestRouterOfABodyThatIsCutOff(t *testing.T) {
	base, err := url.Parse("http://127.0.0.1:1/prod") // nobody is asked
	if err != nil {
		t.Fatal(err)
	}
	cfg := emulator.Config(t, base.String())
	log := &lines{}
	h := newRouter(base, (&account.Account{Config: cfg}).Sign(http.DefaultTransport, account.Gateway(base.Host)), slog.New(slog.NewTextHandler(log, nil)))
	w := httptest.NewRecorder()
	r := httptest.NewRequest("POST", "/v1/promises/x/cancel", strings.NewReader("1234"))
	r.Body = http.MaxBytesReader(w, r.Body, 3)
	h.ServeHTTP(w, r)
	if w.Code != http.StatusRequestEntityTooLarge || !strings.Contains(w.Body.String(), "urn:modulate:too-large") || log.String() != "" {
		t.Errorf("%d %s, logged %q", w.Code, w.Body, log)
	}
}
