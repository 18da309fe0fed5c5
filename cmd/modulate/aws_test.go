package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path"
	"strings"
	"sync"
	"testing"

	"modulate/internal/api"
	"modulate/internal/local"
	"modulate/internal/server"
	"modulate/workerd/runner"
)

// A fakeAWS answers as CloudFormation, API Gateway and S3 do, over a server of
// our own that runs what is submitted. Stages are its faults:
//
//	prod      none
//	denied    the gateway lets nobody in
//	expired   the gateway lets only the key NEW read
//	busy      the gateway is throttled once and times out once
//	none      there is no such stack
type fakeAWS struct {
	t       *testing.T
	url     string
	bucket  string
	backend *url.URL

	mu      sync.Mutex
	refused map[int]bool // by status, once each
}

func newFakeAWS(t *testing.T) *fakeAWS {
	f := &fakeAWS{t: t, backend: newBackend(t), refused: map[int]bool{}}
	aws := httptest.NewServer(f)
	t.Cleanup(aws.Close)
	bucket := httptest.NewServer(http.HandlerFunc(f.serveBucket))
	t.Cleanup(bucket.Close)
	f.url, f.bucket = aws.URL, bucket.URL
	return f
}

// newBackend starts a server with a worker and returns where it is.
func newBackend(t *testing.T) *url.URL {
	l, err := local.Open(t.Context(), local.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	jobs, err := runner.OpenWorkplace("")
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		server.Run(ctx, server.Config{
			Local: l, Listener: listener, Machines: []server.Machine{{Name: "cpu", Slots: 2}},
			Runner: func(server.Machine, string) (runner.Runner, func() error, error) {
				return runner.Exec{Dir: jobs.Dir}, func() error { return nil }, nil
			},
			Runtimes: runner.Runtimes(nil),
			Hard:     ctx, Ready: func() error { return nil }, Log: slog.New(slog.DiscardHandler),
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		jobs.Close()
	})
	return &url.URL{Scheme: "http", Host: listener.Addr().String()}
}

// ServeHTTP is CloudFormation at / and the stages' gateways below their names.
func (f *fakeAWS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	stage, _, below := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	auth := r.Header.Get("Authorization")
	switch {
	case !strings.HasPrefix(auth, "AWS4-HMAC-SHA256 Credential="):
		f.t.Errorf("%s %s is not signed", r.Method, r.URL)
	case !below:
		f.describe(w, r)
	case !strings.Contains(auth, "/eu-west-1/execute-api/aws4_request"):
		f.t.Errorf("%s %s is signed for %q", r.Method, r.URL, auth)
	case stage == "denied":
		says(w, http.StatusForbidden, "Forbidden")
	case stage == "expired" && r.Method == http.MethodGet && !strings.Contains(auth, "Credential=NEW/"):
		says(w, http.StatusForbidden, "The security token included in the request is expired")
	case stage == "busy" && f.once(http.StatusTooManyRequests):
		says(w, http.StatusTooManyRequests, "Too Many Requests")
	case stage == "busy" && r.Method == http.MethodGet && f.once(http.StatusGatewayTimeout):
		says(w, http.StatusGatewayTimeout, "Endpoint request timed out")
	case strings.Contains(r.URL.Path, "/artifacts/"):
		http.Redirect(w, r, f.bucket+strings.TrimPrefix(r.URL.Path, "/"+stage), http.StatusTemporaryRedirect)
	default:
		http.StripPrefix("/"+stage, f.proxy()).ServeHTTP(w, r)
	}
}

func says(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"message":%q}`, message)
}

// once reports whether status is answered for the first time.
func (f *fakeAWS) once(status int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	first := !f.refused[status]
	f.refused[status] = true
	return first
}

// describe is DescribeStacks.
func (f *fakeAWS) describe(w http.ResponseWriter, r *http.Request) {
	stack := r.FormValue("StackName")
	stage := strings.TrimPrefix(stack, "modulate-")
	w.Header().Set("Content-Type", "text/xml")
	if stage == "none" {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, "<ErrorResponse><Error><Code>ValidationError</Code><Message>Stack with id %s does not exist</Message></Error></ErrorResponse>", stack)
		return
	}
	fmt.Fprintf(w, "<DescribeStacksResponse><DescribeStacksResult><Stacks><member><StackName>%s</StackName><CreationTime>2026-01-01T00:00:00Z</CreationTime>"+
		"<StackStatus>CREATE_COMPLETE</StackStatus><Outputs><member><OutputKey>Url</OutputKey><OutputValue>%s/%s</OutputValue></member></Outputs>"+
		"</member></Stacks></DescribeStacksResult></DescribeStacksResponse>", stack, f.url, stage)
}

// proxy is the way to our server. Uploads go to the bucket.
func (f *fakeAWS) proxy() http.Handler {
	return &httputil.ReverseProxy{
		Rewrite:      func(p *httputil.ProxyRequest) { p.SetURL(f.backend) },
		ErrorHandler: gone,
		ModifyResponse: func(resp *http.Response) error {
			if resp.Request.URL.Path != "/v1/blobs" || resp.StatusCode != http.StatusCreated {
				return nil
			}
			var up api.BlobUpload
			if err := json.NewDecoder(resp.Body).Decode(&up); err != nil {
				return err
			}
			up.Headers["X-Amz-Checksum-Sha256"] = path.Base(up.URL)
			up.URL = f.bucket + up.URL + "?X-Amz-Signature=1"
			body, err := json.Marshal(up)
			resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
			resp.Header.Set("Content-Length", fmt.Sprint(len(body)))
			return err
		},
	}
}

// serveBucket takes what is presigned, which must not be signed as well.
func (f *fakeAWS) serveBucket(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Header.Get("Authorization") != "" || r.Header.Get("X-Amz-Date") != "":
		f.t.Errorf("%s %s is signed although it is presigned", r.Method, r.URL)
	case r.Method == http.MethodPut && r.Header.Get("X-Amz-Checksum-Sha256") != path.Base(r.URL.Path):
		f.t.Errorf("%s %s comes without the headers that are signed", r.Method, r.URL)
	}
	(&httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) { p.SetURL(f.backend) }, ErrorHandler: gone}).ServeHTTP(w, r)
}

// gone answers who has gone away.
func gone(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
