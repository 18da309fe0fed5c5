package lambdahttp

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/lambdacontext"

	"modulate/internal/api"
)

func eventFile(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// invoke answers the event of a file by next.
func invoke(t *testing.T, ctx context.Context, name string, next http.HandlerFunc) response {
	t.Helper()
	out, err := New(next, slog.New(slog.DiscardHandler)).Invoke(ctx, eventFile(t, name))
	if err != nil {
		t.Fatal(err)
	}
	var r response
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	return r
}

// What a handler sees of each kind of event.
func TestRequests(t *testing.T) {
	tests := []struct {
		event, line, path, query, host, owner, body string
		header                                      http.Header // among others
	}{
		{
			"http-iam", "POST /v1/promises/p.1:x%20y/cancel?a=1&a=2&b=x%20y", "/v1/promises/p.1:x y/cancel", "map[a:[1 2] b:[x y]]",
			"a1b2c3d4e5.execute-api.eu-central-1.amazonaws.com",
			"arn:aws:iam::123456789012:role/AWSReservedSSO_Submitter_0123456789abcdef", "{}",
			http.Header{"Prefer": {"wait=3,respond-async"}, "Content-Type": {"application/json"}},
		},
		{"http-jwt", "GET /v1/promises", "/v1/promises", "map[]", "a1b2c3d4e5.execute-api.eu-central-1.amazonaws.com", "user-42", "", nil},
		{
			"http-v1", "GET /v1/promises/p.1:x", "/v1/promises/p.1:x", "map[]", "a1b2c3d4e5.execute-api.eu-central-1.amazonaws.com", "user-42", "",
			http.Header{"Prefer": {"wait=3", "respond-async"}},
		},
		{
			"rest-iam", "GET /v1/promises/p.1%3Ax/artifacts/a%20b%2525.bin?a=1&a=2&b=x+y", "/v1/promises/p.1:x/artifacts/a b%25.bin", "map[a:[1 2] b:[x y]]",
			"f6g7h8i9j0.execute-api.us-east-1.amazonaws.com", "arn:aws:iam::123456789012:user/ml/bob", "",
			http.Header{"Prefer": {"wait=3", "respond-async"}},
		},
		{
			"url-iam", "PUT /v1/blobs/%61b%2Fc", "/v1/blobs/ab/c", "map[]", "abcdefgh.lambda-url.us-west-2.on.aws",
			"arn:aws-us-gov:iam::111122223333:role/modulate-worker", "\x00\xff\xfe<script>",
			http.Header{"Cookie": {"a=1; b=2"}, "X-Twice": {"1,2"}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.event, func(t *testing.T) {
			invoke(t, t.Context(), tt.event, func(_ http.ResponseWriter, r *http.Request) {
				owner, err := Owner(r)
				if err != nil || owner != tt.owner {
					t.Errorf("owner %q, %v; want %q", owner, err, tt.owner)
				}
				if line := r.Method + " " + r.RequestURI; line != tt.line || r.URL.Path != tt.path {
					t.Errorf("got %s, path %s\nwant %s, path %s", line, r.URL.Path, tt.line, tt.path)
				}
				if q := fmt.Sprint(map[string][]string(r.URL.Query())); q != tt.query || r.Host != tt.host || r.Header.Get("Host") != "" {
					t.Errorf("query %s, host %q; want %s, %q", q, r.Host, tt.query, tt.host)
				}
				for name, want := range tt.header {
					if got := r.Header[name]; !slices.Equal(got, want) {
						t.Errorf("%s: %q, want %q", name, got, want)
					}
				}
				body, err := io.ReadAll(r.Body)
				if err != nil || string(body) != tt.body || r.ContentLength != int64(len(body)) {
					t.Errorf("a body of %d: %q, %v; want %q", r.ContentLength, body, err, tt.body)
				}
			})
		})
	}
}

// An HTTP API decodes the path: what looks like a query or an escape there is a
// name's.
func TestDecodedPath(t *testing.T) {
	const path = "/v1/promises/p/artifacts/a ?b%20.txt"
	event := bytes.Replace(eventFile(t, "http-jwt"), []byte(`"rawPath": "/v1/promises"`), []byte(`"rawPath": "`+path+`"`), 1)
	h := New(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path != path || r.URL.RawQuery != "" {
			t.Errorf("path %q, query %q", r.URL.Path, r.URL.RawQuery)
		}
	}), slog.New(slog.DiscardHandler))
	if _, err := h.Invoke(t.Context(), event); err != nil {
		t.Error(err)
	}
}

// Whoever is not known may do nothing.
func TestNobody(t *testing.T) {
	r := invoke(t, t.Context(), "http-open", (&api.Service{Owner: Owner}).Handle(func(*api.Request) (api.Answer, error) {
		t.Error("it was called")
		return api.Answer{}, nil
	}).ServeHTTP)
	if r.Status != 403 || !strings.Contains(r.Body, "does not say who calls") {
		t.Errorf("got %+v", r)
	}
}

// An answer comes out whole under both payloads.
func TestAnswers(t *testing.T) {
	next := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", "3")
		w.Header().Add("Set-Cookie", "a=1")
		w.Header().Add("Set-Cookie", "b=2; Expires=Wed, 21 Oct 2026 07:28:00 GMT")
		w.Header().Add("Vary", "Accept")
		w.Header().Add("Vary", "Origin")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusCreated)
		w.WriteHeader(http.StatusTeapot)
		w.Header().Set("Late", "x")
		w.Write([]byte("\x00\xff"))
		w.Write([]byte("\n"))
	}
	cookies := []string{"a=1", "b=2; Expires=Wed, 21 Oct 2026 07:28:00 GMT"}
	v2 := invoke(t, t.Context(), "http-iam", next)
	if v2.Status != 201 || !v2.IsBase64Encoded || v2.Body != "AP8K" || !slices.Equal(v2.Cookies, cookies) ||
		fmt.Sprint(v2.Headers) != "map[Content-Type:application/octet-stream Vary:Accept, Origin]" || v2.MultiValueHeaders != nil {
		t.Errorf("payload 2.0: %+v", v2)
	}
	v1 := invoke(t, t.Context(), "rest-iam", next)
	if v1.Status != 201 || v1.Body != "AP8K" || v1.Headers != nil || v1.Cookies != nil ||
		!slices.Equal(v1.MultiValueHeaders["Set-Cookie"], cookies) || !slices.Equal(v1.MultiValueHeaders["Vary"], []string{"Accept", "Origin"}) {
		t.Errorf("payload 1.0: %+v", v1)
	}
}

// JSON stays readable, and whatever is not text comes out byte by byte.
func TestBodies(t *testing.T) {
	for _, tt := range []struct {
		media, body string
		encoded     bool
	}{
		{"application/json", `{"a":"<&>\u2028é"}` + "\n", false},
		{"application/problem+json; charset=utf-8", `{}`, false},
		{"text/plain", "a\x00b", false},
		{"text/plain", "\xff", true},
		{"application/octet-stream", "plain", true},
		{"", "", false},
	} {
		r := invoke(t, t.Context(), "http-iam", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", tt.media)
			io.WriteString(w, tt.body)
		})
		body := r.Body
		if r.IsBase64Encoded {
			b, _ := base64.StdEncoding.DecodeString(body)
			body = string(b)
		}
		if r.Status != 200 || body != tt.body || r.IsBase64Encoded != tt.encoded {
			t.Errorf("%s %q: %+v", tt.media, tt.body, r)
		}
	}
}

// A HEAD has no body, whatever the handler wrote.
func TestHead(t *testing.T) {
	h := New(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "body") }), slog.New(slog.DiscardHandler))
	out, err := h.Invoke(t.Context(), bytes.ReplaceAll(eventFile(t, "http-jwt"), []byte(`"GET"`), []byte(`"HEAD"`)))
	if err != nil || !strings.Contains(string(out), `"statusCode":200`) || strings.Contains(string(out), "body\":\"b") {
		t.Errorf("%s, %v", out, err)
	}
}

// A handler that panics is an answer and a line in the log; one that breaks
// off is to be asked again.
func TestPanics(t *testing.T) {
	var log bytes.Buffer
	var err error
	h := New(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("boom") }), NewLog(&log))
	ctx := lambdacontext.NewContext(t.Context(), &lambdacontext.LambdaContext{AwsRequestID: "req-1"})
	out, err := h.Invoke(ctx, eventFile(t, "http-iam"))
	if err != nil || !strings.Contains(string(out), `"statusCode":500`) || strings.Contains(string(out), "boom") {
		t.Errorf("%s, %v", out, err)
	}
	line, _, _ := strings.Cut(log.String(), "\n")
	var logged map[string]any
	if err := json.Unmarshal([]byte(line), &logged); err != nil || logged["panic"] != "boom" || logged["request_id"] != "req-1" {
		t.Errorf("logged %s, %v", line, err)
	}
	r := invoke(t, t.Context(), "http-iam", func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "half")
		panic(http.ErrAbortHandler)
	})
	if r.Status != 503 || r.Headers["Retry-After"] != "1" || strings.Contains(r.Body, "half") {
		t.Errorf("broken off: %+v", r)
	}
}

// Each request has a line, with the promise and the request that it is of.
func TestLog(t *testing.T) {
	var log bytes.Buffer
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/promises/{id}/cancel", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(409) })
	mux.HandleFunc("GET /v1/promises", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "/v1/promises/new")
		w.WriteHeader(201)
	})
	ctx := lambdacontext.NewContext(t.Context(), &lambdacontext.LambdaContext{AwsRequestID: "req-1"})
	for _, name := range []string{"http-iam", "http-jwt"} {
		if _, err := New(mux, NewLog(&log).With("function", "router")).Invoke(ctx, eventFile(t, name)); err != nil {
			t.Fatal(err)
		}
	}
	dec := json.NewDecoder(&log)
	for _, want := range []string{"POST /v1/promises/p.1:x y/cancel 409 p.1:x y req-1 router", "GET /v1/promises 201 new req-1 router"} {
		var l struct {
			Method, Path, ID, Function string
			Status                     int
			Request                    string `json:"request_id"`
		}
		if err := dec.Decode(&l); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(l.Method, " ", l.Path, " ", l.Status, " ", l.ID, " ", l.Request, " ", l.Function); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

// The deadline of the invocation is the request's.
func TestDeadline(t *testing.T) {
	end := time.Now().Add(time.Hour)
	ctx, cancel := context.WithDeadline(t.Context(), end)
	defer cancel()
	invoke(t, ctx, "http-iam", func(_ http.ResponseWriter, r *http.Request) {
		if got, ok := r.Context().Deadline(); !ok || !got.Equal(end) {
			t.Errorf("the request ends at %v, want %v", got, end)
		}
	})
}

// An answer that Lambda would not take is said to be too large, with figures.
func TestTooLarge(t *testing.T) {
	const base = 6_291_556
	for _, tt := range []struct {
		size, status int
		says         string
	}{
		{base - 1000, 200, ""},
		{base, 413, "6291"},
		{3 * base, 413, fmt.Sprintf("the answer is %d bytes: a Lambda function answers with at most %d", 3*base, base)},
	} {
		r := invoke(t, t.Context(), "http-iam", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			chunk := bytes.Repeat([]byte("x"), 1000)
			for left := tt.size; left > 0; left -= len(chunk) {
				w.Write(chunk[:min(left, len(chunk))])
			}
		})
		if r.Status != tt.status || !strings.Contains(r.Body[:min(500, len(r.Body))], tt.says) {
			t.Errorf("%d bytes: %d %.300s", tt.size, r.Status, r.Body)
		}
	}
}

// What no request can be made of.
func TestBadEvents(t *testing.T) {
	never := func(http.ResponseWriter, *http.Request) { t.Error("it was called") }
	h := New(http.HandlerFunc(never), slog.New(slog.DiscardHandler))
	for _, tt := range []struct{ event, says string }{
		{string(eventFile(t, "scheduled")), "no event of API Gateway"},
		{"{}", "no event of API Gateway"},
		{"[1]", "reading an event of 3 bytes"},
		{"", "reading an event of 0 bytes"},
	} {
		if out, err := h.Invoke(t.Context(), []byte(tt.event)); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%.40s: %s, %v", tt.event, out, err)
		}
	}
	for _, tt := range []struct{ event, old, new, where string }{
		{"url-iam", "AP/+", "AP*+", "body"},
		{"url-iam", "%2F", "%zz", "path"},
		{"rest-iam", "%2525", "%zz", "path"},
	} {
		out, err := h.Invoke(t.Context(), bytes.ReplaceAll(eventFile(t, tt.event), []byte(tt.old), []byte(tt.new)))
		if err != nil || !strings.Contains(string(out), `"statusCode":400`) || !strings.Contains(string(out), `\"where\":\"`+tt.where+`\"`) {
			t.Errorf("%s: %s, %v", tt.event, out, err)
		}
	}
}

func TestWithoutSession(t *testing.T) {
	for arn, want := range map[string]string{
		"arn:aws:sts::1:assumed-role/r/s":     "arn:aws:iam::1:role/r",
		"arn:aws-cn:sts::1:assumed-role/r/s":  "arn:aws-cn:iam::1:role/r",
		"arn:aws:sts::1:federated-user/bob":   "arn:aws:sts::1:federated-user/bob",
		"arn:aws:iam::1:user/a/b":             "arn:aws:iam::1:user/a/b",
		"arn:aws:iam::1:root":                 "arn:aws:iam::1:root",
		"theUserArn":                          "theUserArn",
		"arn:aws:iam::1:assumed-role/r/s":     "arn:aws:iam::1:assumed-role/r/s",
		"arn:aws:sts::1:assumed-role/r/s/t":   "arn:aws:sts::1:assumed-role/r/s/t",
		"arn:aws:sts::1:assumed-role/r/a:b@c": "arn:aws:iam::1:role/r",
	} {
		if got := withoutSession(arn); got != want {
			t.Errorf("%s: %s, want %s", arn, got, want)
		}
	}
}
