package lambdatest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"modulate/internal/api"
	"modulate/internal/cloud"
	"modulate/internal/emulator"
	"modulate/workerd/runner"
	"modulate/workerd/worker"
)

func TestMain(m *testing.M) {
	emulator.Main(m)
	os.RemoveAll(programs.dir)
}

// programs are the bootstraps, built once.
var programs struct {
	sync.Once
	dir  string
	path map[string]string
	err  error
}

func bootstrap(t *testing.T, name string) string {
	t.Helper()
	programs.Do(func() {
		programs.dir, programs.err = os.MkdirTemp("", "lambdatest-")
		programs.path = map[string]string{}
		for _, name := range []string{"router", "status", "sweeper"} {
			if programs.err == nil {
				programs.path[name], programs.err = Build(context.Background(), programs.dir, "functions/"+name, "")
			}
		}
	})
	if programs.err != nil {
		t.Fatal(programs.err)
	}
	return programs.path[name]
}

// The callers of a test, as IAM names them, and the owners that they are.
const (
	alice      = "arn:aws:sts::000000000000:assumed-role/submitters/alice"
	aliceOwner = "arn:aws:iam::000000000000:role/submitters"
	bob        = "arn:aws:iam::000000000000:user/bob"
)

// world is a stage on emulated AWS: functions behind a gateway, and what they
// stand on.
type world struct {
	t       *testing.T
	cloud   *cloud.Cloud
	front   *api.Client
	url     string
	gateway *Gateway
	router  *Function
	status  *Function
	log     *Log
	aws     *wire
	env     []string
}

// open makes a world. change may change how it is run.
func open(t *testing.T, change func(w *world, router, status *Config)) *world {
	t.Helper()
	if testing.Short() {
		t.Skip("short: it builds the functions and starts an emulator")
	}
	cfg := emulator.Config(t, emulator.AWS(t))
	w := &world{t: t, log: &Log{}, aws: newWire(t, *cfg.BaseEndpoint)}
	table, stage, bucket := emulator.Table(t, dynamodb.NewFromConfig(cfg)), emulator.Queues(t, sqs.NewFromConfig(cfg), "cpu", "gpu"),
		emulator.Bucket(t, s3.NewFromConfig(cfg, func(o *s3.Options) { o.UsePathStyle = true }))
	var err error
	if w.cloud, err = cloud.Open(t.Context(), cloud.Config{Stage: stage, Table: table, Bucket: bucket, AWS: cfg}); err != nil {
		t.Fatal(err)
	}
	w.env = []string{
		"AWS_ENDPOINT_URL=" + w.aws.url, "AWS_REGION=us-east-1", "AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test",
		"MODULATE_STAGE=" + stage, "MODULATE_TABLE=" + table, "MODULATE_BUCKET=" + bucket,
	}
	w.gateway = &Gateway{Who: func(r *http.Request) string { return r.Header.Get("Test-Caller") }}
	router, status := w.config("router"), w.config("status")
	if change != nil {
		change(w, &router, &status)
	}
	w.router, w.status = w.function(router), w.function(status)
	w.gateway.Write, w.gateway.Read = w.router, w.status
	server := httptest.NewServer(w.gateway)
	t.Cleanup(server.Close)
	w.url = server.URL
	w.front = w.as(alice)
	return w
}

func (w *world) config(name string) Config {
	return Config{Bootstrap: bootstrap(w.t, name), Env: w.env, Log: w.log, Environments: 2}
}

// function is one that ends with the test, which tells what it wrote if it
// fails.
func (w *world) function(cfg Config) *Function {
	f := New(cfg)
	w.t.Cleanup(func() {
		f.Close()
		if w.t.Failed() {
			w.t.Logf("the functions have written:\n%s", w.log)
		}
	})
	return f
}

// as is a client of somebody.
func (w *world) as(arn string) *api.Client {
	c := api.NewClient(w.url, caller{arn})
	c.Patience = time.Minute
	w.t.Cleanup(c.Close)
	return c
}

// caller sends requests in somebody's name.
type caller struct{ arn string }

// RoundTrip sends a request.
func (c caller) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Test-Caller", c.arn)
	return http.DefaultTransport.RoundTrip(r)
}

// send sends a request as alice and returns the answer, its body read.
func (w *world) send(method, path, body string, headers ...string) (resp *http.Response, text string) {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), method, w.url+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	r.Header.Set("Test-Caller", alice)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err = http.DefaultTransport.RoundTrip(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp, string(b)
}

func call(id string) api.Submit {
	source := "print(1)\n"
	return api.Submit{ID: id, Machine: "cpu", Script: api.Script{Name: "a.py", Source: &source}}
}

func (w *world) submit(id string) {
	w.t.Helper()
	if _, _, err := w.front.Submit(w.t.Context(), call(id), api.SubmitOptions{}); err != nil {
		w.t.Fatalf("submitting %s: %v", id, err)
	}
}

// work runs a worker until the test ends. It calls script for each job.
func (w *world) work(script func(job runner.Job)) {
	w.t.Helper()
	wk, err := worker.New(worker.Config{
		Engine: w.cloud.Engine, Roster: w.cloud.Store, Machine: "cpu", Slots: 4, Name: "w-" + w.cloud.Stage,
		Runner: scripts(script), Runtimes: map[string][]string{"python": {"python3"}}, Lease: cloud.Lease,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := wk.Run(ctx); err != nil {
			w.t.Error(err)
		}
	}()
	w.t.Cleanup(func() {
		cancel(runner.ErrNow)
		<-done
	})
}

type scripts func(job runner.Job)

// Run runs nothing: the script is a function of the test.
func (s scripts) Run(_ context.Context, job runner.Job) runner.Result {
	s(job)
	return runner.Result{End: runner.Exited}
}

// hello is a script that says so.
func hello(job runner.Job) { fmt.Fprintln(job.Stdout, "hello") }

// wire is what stands between the functions and AWS, and sees every request.
type wire struct {
	url string
	mu  sync.Mutex
	tap func(operation string)  // called before a request is passed on
	own map[string]http.Handler // answers an operation itself
}

func newWire(t *testing.T, endpoint string) *wire {
	t.Helper()
	target, err := url.Parse(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	wr := &wire{own: map[string]http.Handler{}}
	transport := &http.Transport{MaxIdleConnsPerHost: 16}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // it is signed
		},
		Transport:    transport,
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }, // who asked is gone
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		wr.mu.Lock()
		_, operation, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
		tap, own := wr.tap, wr.own[operation]
		wr.mu.Unlock()
		if body, err := io.ReadAll(r.Body); err == nil {
			r.Body = io.NopCloser(bytes.NewReader(body))
		}
		if tap != nil {
			tap(operation)
		}
		if own != nil {
			own.ServeHTTP(w, r)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		server.Close()
		transport.CloseIdleConnections()
	})
	wr.url = server.URL
	return wr
}

// on calls fn before each request from now on.
func (wr *wire) on(fn func(operation string)) {
	wr.mu.Lock()
	defer wr.mu.Unlock()
	wr.tap = fn
}

// instead lets h answer an operation; nil: AWS again.
func (wr *wire) instead(operation string, h http.Handler) {
	wr.mu.Lock()
	defer wr.mu.Unlock()
	wr.own[operation] = h
}
