package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"modulate/internal/promise"
)

func TestAnswers(t *testing.T) {
	tests := []struct {
		name   string
		answer Answer
		status int
		header map[string]string
		body   string
	}{
		{"JSON", Answer{Body: Artifacts{Items: []Artifact{}}}, 200,
			map[string]string{"Content-Type": "application/json", "X-Content-Type-Options": "nosniff", "Content-Length": "13"}, `{"items":[]}` + "\n"},
		{"202", Answer{Status: 202, Location: "/v1/promises/x", RetryAfter: 1500 * time.Millisecond, Applied: "wait=3", Body: struct{}{}}, 202,
			map[string]string{"Location": "/v1/promises/x", "Retry-After": "2", "Preference-Applied": "wait=3"}, "{}\n"},
		{"nothing", Answer{Status: 204}, 204, map[string]string{"Content-Type": "", "Retry-After": ""}, ""},
		{"raw", Answer{Header: http.Header{"X": {"y"}}, Raw: io.NopCloser(strings.NewReader("<script>"))}, 200,
			map[string]string{"Content-Type": "application/octet-stream", "X-Content-Type-Options": "nosniff", "X": "y"}, "<script>"},
		{"no HTML escapes, no bad UTF-8", Answer{Body: []string{"<&>", "\xff"}}, 200, nil, `["<&>","\ufffd"]` + "\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			says(tt.answer)(w, httptest.NewRequest("GET", "/", nil))
			if w.Code != tt.status || w.Body.String() != tt.body {
				t.Errorf("got %d %q", w.Code, w.Body)
			}
			for name, want := range tt.header {
				if got := w.Header().Get(name); got != want {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
		})
	}
}

// A source that fails breaks the connection, lest a part pass for the whole.
func TestRawBreaksOff(t *testing.T) {
	c := client(t, says(Answer{Raw: io.NopCloser(io.MultiReader(strings.NewReader("half"), failing{}))}))
	body, err := c.Artifact(t.Context(), "x", "a")
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if got, err := io.ReadAll(body); string(got) != "half" || err == nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestProblemDetails(t *testing.T) {
	w := httptest.NewRecorder()
	fails(Invalid("script.name", "%q is no name", "<a>"))(w, httptest.NewRequest("GET", "/", nil))
	want := `{"type":"urn:modulate:invalid","title":"the request is not valid","status":400,"detail":"\"<a>\" is no name","where":"script.name"}` + "\n"
	if got := w.Body.String(); got != want || w.Header().Get("Content-Type") != "application/problem+json" {
		t.Errorf("got %s as %s", got, w.Header().Get("Content-Type"))
	}
}

// The log has what the caller is not told.
func TestFailuresAreLogged(t *testing.T) {
	var log bytes.Buffer
	s := &Service{Log: slog.New(slog.NewJSONHandler(&log, nil))}
	for _, tt := range []struct {
		err  error
		says string
	}{{errors.New("the disk hums"), "the disk hums"}, {promise.ErrNotFound, ""}} {
		log.Reset()
		s.Handle(func(*Request) (Answer, error) { return Answer{}, tt.err }).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/v1/x", nil))
		var line struct{ Error, Path string }
		if tt.says == "" {
			if log.Len() != 0 {
				t.Errorf("%v is logged: %s", tt.err, &log)
			}
			continue
		}
		if err := json.Unmarshal(log.Bytes(), &line); err != nil || line.Error != tt.says || line.Path != "/v1/x" {
			t.Errorf("the log says %s", &log)
		}
	}
}

func TestBadPreferIsRefused(t *testing.T) {
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Prefer", "wait=soon")
	w := httptest.NewRecorder()
	resolved(w, r)
	if w.Code != http.StatusBadRequest {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

func TestNotServed(t *testing.T) {
	tests := map[string]string{ // path: Allow
		"/v1/promises":               "GET, HEAD, POST",
		"/v1/promises/x":             "GET, HEAD",
		"/v1/promises/x/cancel":      "POST",
		"/v1/promises/x/logs":        "GET, HEAD",
		"/v1/promises/x/artifacts":   "GET, HEAD",
		"/v1/promises/x/artifacts/a": "GET, HEAD",
		"/v1/machines":               "GET, HEAD",
		"/v1/blobs":                  "POST",
		"/v1/blobs/abc":              "PUT",
		"/":                          "",
		"/v1":                        "",
		"/v2/promises":               "",
		"/v1/machines/x":             "",
		"/v1/promises/x/cancel/y":    "",
		"/v1/promises/x/logs/y":      "",
		"/v1/promises/x/y":           "",
		"/v1/blobs/abc/d":            "",
		"/v1/elsewhere":              "",
	}
	for path, allow := range tests {
		w := httptest.NewRecorder()
		new(Service).NotServed().ServeHTTP(w, httptest.NewRequest("DELETE", path, nil))
		want := http.StatusMethodNotAllowed
		if allow == "" {
			want = http.StatusNotFound
		}
		if w.Code != want || w.Header().Get("Allow") != allow || w.Header().Get("Content-Type") != mediaProblem {
			t.Errorf("%s: got %d, Allow %q, %s", path, w.Code, w.Header().Get("Allow"), w.Body)
		}
	}
}

func TestLoopback(t *testing.T) {
	tests := []struct {
		host, origin string
		want         int
	}{
		{"127.0.0.1:8700", "", 200},
		{"localhost:8700", "", 200},
		{"LOCALHOST", "", 200},
		{"[::1]:8700", "", 200},
		{"127.0.0.1:9999", "", 200}, // a forwarded port
		{"localhost:8700", "http://localhost:8700", 200},
		{"localhost:8700", "http://localhost:3000", 403},
		{"localhost:8700", "https://localhost:8700", 403},
		{"localhost:8700", "http://evil.example", 403},
		{"localhost:8700", "null", 403},
		{"evil.example", "", 421},
		{"evil.example:8700", "http://evil.example:8700", 421},
		{"localhost.evil.example:8700", "", 421},
		{"127.0.0.1.evil.example", "", 421},
		{"192.168.0.7:8700", "", 421},
		{"[::2]:8700", "", 421},
		{"", "", 421},
	}
	for _, tt := range tests {
		r := httptest.NewRequest("POST", "/v1/promises", nil)
		r.Host = tt.host
		if tt.origin != "" {
			r.Header.Set("Origin", tt.origin)
		}
		w := httptest.NewRecorder()
		Loopback(status(200)).ServeHTTP(w, r)
		if w.Code != tt.want {
			t.Errorf("Host %q, Origin %q: got %d %s", tt.host, tt.origin, w.Code, w.Body)
		}
	}
	for site, want := range map[string]int{"none": 200, "same-origin": 200, "same-site": 403, "cross-site": 403} {
		r := httptest.NewRequest("GET", "/poll/gpu/w", nil) // as an <img> of a page asks, without an Origin
		r.Host = "localhost:8700"
		r.Header.Set("Sec-Fetch-Site", site)
		w := httptest.NewRecorder()
		if Loopback(status(200)).ServeHTTP(w, r); w.Code != want {
			t.Errorf("Sec-Fetch-Site %q: got %d %s", site, w.Code, w.Body)
		}
	}
}
