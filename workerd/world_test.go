package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"modulate/functions/router/dispatch"
	"modulate/functions/status/read"
	"modulate/internal/api"
	"modulate/internal/cloud"
	"modulate/internal/emulator"
	"modulate/internal/queue"
	"modulate/workerd/runner"
)

func TestMain(m *testing.M) {
	if code, was := runner.BeKeeper(os.Args); was {
		syscall.Exit(code) // not os.Exit, where the race detector waits a second
	}
	emulator.Main(m)
}

// A line is the way to AWS, with faults.
type line struct {
	url       string
	down      atomic.Bool  // nothing arrives
	throttled atomic.Bool  // DynamoDB has no capacity
	denied    atomic.Bool  // SQS refuses
	ahead     atomic.Int64 // AWS's clock
	hidden    sync.Map     // receipts of the messages that were hidden for another time
}

// newLine leads to endpoint.
func newLine(t *testing.T, endpoint string) *line {
	t.Helper()
	target, err := url.Parse(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	l := &line{}
	transport := &http.Transport{MaxIdleConnsPerHost: 16}
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(p *httputil.ProxyRequest) { p.SetURL(target); p.Out.Host = p.In.Host },
		Transport: transport,
		ModifyResponse: func(resp *http.Response) error {
			resp.Header.Set("Date", time.Now().Add(time.Duration(l.ahead.Load())).UTC().Format(http.TimeFormat))
			return nil
		},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		service := r.Header.Get("X-Amz-Target")
		switch {
		case l.down.Load():
			panic(http.ErrAbortHandler)
		case l.throttled.Load() && strings.HasPrefix(service, "DynamoDB"):
			refuse(w, "com.amazonaws.dynamodb.v20120810#ThrottlingException")
		case l.denied.Load() && strings.HasPrefix(service, "AmazonSQS"):
			refuse(w, "com.amazon.coral.service#AccessDeniedException")
		case service == "AmazonSQS.ChangeMessageVisibility":
			l.hide(w, r, proxy)
		default:
			proxy.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(func() {
		srv.CloseClientConnections() // a receive that waits is heard to its end otherwise
		srv.Close()
		transport.CloseIdleConnections()
	})
	l.url = srv.URL
	return l
}

// hide passes a request on, and remembers its message.
func (l *line) hide(w http.ResponseWriter, r *http.Request, next http.Handler) {
	var asked struct{ ReceiptHandle string }
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(body, &asked)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	next.ServeHTTP(w, r)
	l.hidden.Store(asked.ReceiptHandle, true)
}

// hides reports whether so many messages were hidden, or more.
func (l *line) hides(n int) bool {
	l.hidden.Range(func(any, any) bool {
		n--
		return true
	})
	return n <= 0
}

func refuse(w http.ResponseWriter, code string) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.0")
	w.WriteHeader(http.StatusBadRequest)
	io.WriteString(w, `{"__type":"`+code+`","message":"not now"}`)
}

// onAWS gives the SDK a configuration of its own, whatever the machine has.
func onAWS(t *testing.T, endpoint string, env ...string) {
	t.Helper()
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "AWS_") {
			t.Setenv(name, "")
			os.Unsetenv(name)
		}
	}
	home := t.TempDir()
	for _, v := range append([]string{
		"HOME=" + home, "AWS_CONFIG_FILE=" + filepath.Join(home, "config"), "AWS_SHARED_CREDENTIALS_FILE=" + filepath.Join(home, "credentials"),
		"AWS_EC2_METADATA_DISABLED=true", "AWS_MAX_ATTEMPTS=2", "AWS_REGION=us-east-1",
		"AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test", "AWS_ENDPOINT_URL=" + endpoint,
	}, env...) {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value)
	}
}

// A service is a stage's API in this process, as the functions would serve it.
type service struct {
	*api.Client
	url   string
	queue queue.Queue
	auth  atomic.Pointer[string] // the last Authorization that came
}

func newService(t *testing.T, endpoint, stage, bucket string) *service {
	t.Helper()
	c, err := cloud.Open(t.Context(), cloud.Config{Stage: stage, Bucket: bucket, AWS: emulator.Config(t, endpoint)})
	if err != nil {
		t.Fatal(err)
	}
	s := &service{queue: c.Queue}
	h := api.Join(dispatch.New(dispatch.Config{Engine: c.Engine, Roster: c.Store}), read.New(read.Config{Engine: c.Engine, Roster: c.Store}))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if auth := r.Header.Get("Authorization"); auth != "" {
			s.auth.Store(&auth)
		}
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	s.url = srv.URL
	s.Client = api.NewClient(srv.URL, nil)
	t.Cleanup(s.Close)
	return s
}

// serve serves h on loopback until the test ends, and returns where.
func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL
}

// submit submits a Python script under id, with a lease.
func (s *service) submit(t *testing.T, id, source string, lease time.Duration) {
	t.Helper()
	ms := lease.Milliseconds()
	_, _, err := s.Submit(t.Context(), api.Submit{
		ID: id, Machine: "cpu", Script: api.Script{Name: "x.py", Source: &source}, LeaseMS: &ms,
	}, api.SubmitOptions{Async: true})
	if err != nil {
		t.Fatal(err)
	}
}

// settled waits for the end of a promise.
func (s *service) settled(t *testing.T, id string) api.Promise {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	p, err := s.WaitTerminal(ctx, id, nil)
	if err != nil {
		t.Fatalf("waiting for the end of %s: %v", id, err)
	}
	return p
}

// A running is a workerd in this process.
type running struct {
	said   string // its line on stdout
	health string // its address
	stop   context.CancelFunc
	errs   *lines
	ended  chan struct{} // closed once it has
	code   int           // then
}

// start starts a workerd and returns when it works.
func start(t *testing.T, args ...string) *running {
	t.Helper()
	own := []string{"--health", "127.0.0.1:0", "--drain", "0s"} // unless args say otherwise
	if slices.Contains(args, "--stage") {
		own = append(own, "--spool", t.TempDir())
	}
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{stop: cancel, errs: &lines{}, ended: make(chan struct{})}
	out, in := io.Pipe()
	go func() {
		r.code = run(ctx, append(own, args...), os.Getenv, in, r.errs)
		in.Close()
		close(r.ended)
	}()
	t.Cleanup(func() {
		cancel()
		r.wait(t)
		if t.Failed() {
			t.Logf("workerd said:\n%s", r.errs)
		}
	})
	late := time.AfterFunc(limit, func() { in.CloseWithError(fmt.Errorf("it says nothing for %v", limit)) })
	defer late.Stop()
	said, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		cancel()
		r.wait(t)
		t.Fatalf("workerd ended with %d: %v", r.code, err)
	}
	r.said = said
	_, r.health, _ = strings.Cut(strings.TrimSpace(said), "health at ")
	return r
}

// limit is how long anything may take that happens at all. A test that waits
// longer says for what, before the whole package is out of time.
const limit = 2 * time.Minute

// wait waits for its end.
func (r *running) wait(t *testing.T) {
	t.Helper()
	select {
	case <-r.ended:
	case <-time.After(limit):
		var stacks bytes.Buffer
		pprof.Lookup("goroutine").WriteTo(&stacks, 1) // a buffer takes all
		t.Fatalf("workerd does not end within %v; it said:\n%s\nits goroutines:\n%s", limit, r.errs, &stacks)
	}
}

// get returns the status and the text of a page of its health.
func (r *running) get(t *testing.T, page string) (int, string) {
	t.Helper()
	resp, err := (&http.Client{Timeout: limit}).Get(r.health + page)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// away is how often it said that a port does not answer: once, and perhaps once
// more for a call of before, whose failure it heard of late.
func (r *running) away(what string) int {
	return strings.Count(r.errs.String(), what+" does not answer")
}

// shows waits until /readyz answers with that status and says that.
func (r *running) shows(t *testing.T, status int, text string) {
	t.Helper()
	eventually(t, func() bool {
		got, said := r.get(t, "/readyz")
		return got == status && strings.Contains(said, text)
	})
}

// eventually waits until ok reports true.
func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	late := time.After(limit)
	for !ok() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("what this line waits for has not come within %v", limit)
		}
	}
}

// lines is what was written to it.
type lines struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}

// openMachine is a machine.toml without a sandbox: for scripts that leave marks in
// files of the host, and for GPUs whose device files are not there.
func openMachine(t *testing.T) string {
	t.Helper()
	config := filepath.Join(t.TempDir(), "machine.toml")
	if err := os.WriteFile(config, []byte("[sandbox]\nlevel = 'none'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return config
}
