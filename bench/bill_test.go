package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"modulate/functions/router/dispatch"
	"modulate/functions/status/read"
	"modulate/functions/sweeper/sweep"
	"modulate/internal/api"
	"modulate/internal/cloud"
	"modulate/internal/emulator"
	"modulate/internal/engine"
	"modulate/internal/store"
	"modulate/workerd/runner"
	"modulate/workerd/worker"
)

func TestMain(m *testing.M) { emulator.Main(m) }

// A stage is what runs on AWS, over emulators and one meter: DynamoDB Local,
// which tells what it consumes, ElasticMQ, and the S3 of MiniStack.
type stage struct {
	*testing.T
	meter  *meter
	router http.Handler
	status http.Handler
	engine *engine.Engine // the sweeper's
	roster store.Roster
	n      int // promises submitted
}

// printed is how many lines lines.py prints, one a second.
const printed = 30

// script is a runner whose scripts do what their names say.
type script struct{}

// Run ends as the script's name says.
func (script) Run(ctx context.Context, job runner.Job) runner.Result {
	src, err := job.Script()
	if err != nil {
		return runner.Result{End: runner.Failed, Err: err}
	}
	defer src.Close()
	if _, err := io.ReadAll(src); err != nil {
		return runner.Result{End: runner.Failed, Err: err}
	}
	switch {
	case job.Name == "1k.py":
		io.WriteString(job.Stdout, strings.Repeat("x", 1024))
	case job.Name == "60s.py":
		select {
		case <-time.After(time.Minute):
		case <-ctx.Done():
			return runner.Result{End: runner.Killed}
		}
	case job.Name == "lines.py":
		for n := range printed {
			fmt.Fprintf(job.Stdout, "line %d\n", n)
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
				return runner.Result{End: runner.Killed}
			}
		}
	case job.Name == "twice.py" && slices.Contains(job.Env, "MODULATE_ATTEMPT=1"):
		return runner.Result{Code: 1}
	}
	return runner.Result{}
}

// newStage deploys a stage, with a worker of cpu at work unless it is idle.
func newStage(t *testing.T, idle bool) *stage {
	t.Helper()
	cfg := emulator.Config(t, emulator.DynamoDB(t))
	s := &stage{T: t, meter: &meter{
		wire: cfg.HTTPClient, dynamodb: emulator.DynamoDB(t), sqs: emulator.SQS(t), s3: emulator.AWS(t),
		counts: counts{}, heard: make(chan struct{}, 1),
	}}
	cfg.HTTPClient = s.meter
	in := cloud.Config{
		AWS: cfg, Table: emulator.Table(t, dynamodb.NewFromConfig(cfg)), Stage: emulator.Queues(t, sqs.NewFromConfig(cfg), "cpu"),
		Bucket: emulator.Bucket(t, s3.NewFromConfig(cfg, func(o *s3.Options) { o.UsePathStyle = true })),
	}
	process := func() *cloud.Cloud { // each has caches of its own
		c, err := cloud.Open(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	router, status := process(), process()
	s.router = dispatch.New(dispatch.Config{Engine: router.Engine, Roster: router.Store, Lease: cloud.Lease, MinLease: cloud.MinLease})
	s.status = read.New(read.Config{Engine: status.Engine, Roster: status.Store, Audience: status.Store, LogPoll: time.Second})
	s.engine, s.roster = process().Engine, status.Store
	if idle {
		return s
	}
	works := process()
	w, err := worker.New(worker.Config{
		Engine: works.Engine, Roster: works.Store, Audience: works.Store, LogGap: cloud.LogGap, Machine: "cpu", Slots: 1, Name: "w", Lease: cloud.Lease,
		Runner: script{}, Runtimes: map[string][]string{"python": {"python3"}},
		AnnounceGap: time.Hour, // presence is billed to an idle worker
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

// alarmMetrics is how many metrics the alarms of template.yaml and of
// infra/machine.yaml look at, 10 cents a month each.
const alarmMetrics = 14

// ask sends a request to a handler as API Gateway would.
func (s *stage) ask(h http.Handler, r *http.Request) api.Promise {
	s.Helper()
	s.meter.count(apiRequests, 1)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	var p api.Promise
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code >= 300 {
		s.Fatalf("%s %s: %d %s", r.Method, r.URL, w.Code, w.Body)
	}
	return p
}

// submit submits the script of that name and returns the id.
func (s *stage) submit(name string) string {
	s.Helper()
	s.n++
	source := "pass\n"
	sub := api.Submit{ID: fmt.Sprintf("%s-%d", s.Name()[4:], s.n), Machine: "cpu", Script: api.Script{Name: name, Source: &source}}
	sub.ID = strings.ReplaceAll(sub.ID, "/", "-")
	if name == "twice.py" {
		sub.Retry = &api.Retry{Policy: "constant", MaxAttempts: 2, DelayMS: 1000}
	}
	body, err := json.Marshal(sub)
	if err != nil {
		s.Fatal(err)
	}
	r := httptest.NewRequestWithContext(s.Context(), "POST", "/v1/promises", bytes.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	s.ask(s.router, r)
	return sub.ID
}

// until waits for n more deletes of messages: the end of as many lives.
func (s *stage) until(before counts, n int) {
	s.Helper()
	for s.meter.read()["DeleteMessage"]-before["DeleteMessage"] < float64(n) {
		select {
		case <-s.meter.heard:
		case <-time.After(3 * time.Minute):
			s.Fatalf("after three minutes: %s", s.meter.read().since(before, 1))
		}
	}
}

// lives measures n lives of one kind, each of so many messages, after a first
// life which teaches each process what it then knows.
func (s *stage) lives(n int, name string, messages int) counts {
	s.Helper()
	life := func(name string, messages int) {
		before := s.meter.read()
		s.submit(name)
		s.until(before, messages)
	}
	life("noop.py", 1)
	if n > 1 {
		life(name, messages)
	}
	before := s.meter.read()
	for range n {
		life(name, messages)
	}
	return s.meter.read().since(before, float64(n))
}

// report prints a line of the bill and checks it against its ceiling.
func (s *stage) report(what string, c counts, dollars, ceiling float64) {
	s.Helper()
	s.Logf("%s\t%.2f\t$ per million\tat most %.2f\t(%s)", what, dollars, ceiling, c)
	if dollars > ceiling {
		s.Errorf("%s costs $%.3f per million, above $%.2f", what, dollars, ceiling)
	}
}

// TestBill counts what each kind of life sends to AWS, and what that costs.
func TestBill(t *testing.T) {
	t.Run("accepted", func(t *testing.T) {
		s := newStage(t, true)
		s.submit("noop.py")
		before := s.meter.read()
		for range 20 {
			s.submit("noop.py")
		}
		c := s.meter.read().since(before, 20)
		s.report("accepted", c, c.dollars(), 4.15)
	})
	t.Run("success", func(t *testing.T) {
		s := newStage(t, false)
		c := s.lives(20, "noop.py", 1)
		s.report("whole life", c, c.dollars(), 6.60)
		for what, most := range map[string]float64{"PutItem": 3, "GetItem": 1, "SendMessage": 1, "ReceiveMessage": 1, "DeleteMessage": 1} {
			if c[what] > most {
				t.Errorf("%.2f of %s a life, want at most %.0f", c[what], what, most)
			}
		}
		before := s.meter.read()
		s.ask(s.status, httptest.NewRequestWithContext(t.Context(), "GET", "/v1/promises/"+s.submitted(), nil))
		once := s.meter.read().since(before, 1)
		s.report("whole life with one read", once, c.dollars()+once.dollars(), 8.00)
	})
	t.Run("wait", func(t *testing.T) {
		t.Parallel()
		s := newStage(t, true)
		id := s.submit("noop.py")
		before := s.meter.read()
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/v1/promises/"+id, nil)
		r.Header.Set("Prefer", "wait=10")
		s.ask(s.status, r)
		c := s.meter.read().since(before, 1)
		s.report("a wait of 10 s", c, c.dollars()+10*priceCompute, 21.00)
	})
	t.Run("retry", func(t *testing.T) {
		t.Parallel()
		s := newStage(t, false)
		c := s.lives(2, "twice.py", 2)
		s.report("one retry", c, c.dollars(), 12.00)
	})
	t.Run("60s", func(t *testing.T) {
		t.Parallel()
		s := newStage(t, false)
		c := s.lives(1, "60s.py", 1)
		s.report("a script of 60 s", c, c.dollars(), 7.60)
	})
	t.Run("output", func(t *testing.T) {
		s := newStage(t, false)
		c := s.lives(10, "1k.py", 1)
		s.report("1 KB of output", c, c.dollars(), 9.00)
	})
	t.Run("printing", func(t *testing.T) {
		t.Parallel()
		s := newStage(t, false)
		c := s.lives(1, "lines.py", 1)
		s.report("30 s of printing, unfollowed", c, c.dollars(), 10.00)
		if most := 30/15 + 1.0; c["PutItem"] > 3+1+most { // a life's, a lease's, the chunks
			t.Errorf("%.0f of PutItem: output that nobody follows is to be shipped each 15 s", c["PutItem"])
		}
	})
	t.Run("following", func(t *testing.T) {
		t.Parallel()
		s := newStage(t, false)
		s.lives(1, "noop.py", 1)
		id, before := s.submit("lines.py"), s.meter.read()
		requests := s.follow(id)
		c := s.meter.read().since(before, 1)
		s.report("30 s of printing, followed", c, c.dollars()+requests*(priceAPI+priceLambda)+printed*priceCompute, 160.00)
		if c[s3Writes] > 2 { // the first look, and one at the end
			t.Errorf("%.0f lists: what comes is to be asked for by its name", c[s3Writes])
		}
	})
	t.Run("cancel", func(t *testing.T) {
		s := newStage(t, true)
		s.submit("noop.py")
		before := s.meter.read()
		for range 10 {
			id := s.submit("noop.py")
			r := httptest.NewRequestWithContext(t.Context(), "POST", "/v1/promises/"+id+"/cancel", nil)
			s.ask(s.router, r)
		}
		c := s.meter.read().since(before, 10)
		s.report("cancelled in the queue", c, c.dollars(), 8.50)
	})
	t.Run("idle", func(t *testing.T) {
		s := newStage(t, true)
		sweeper := sweep.New(sweep.Config{Engine: s.engine})
		if err := sweeper.Pass(t.Context()); err != nil {
			t.Fatal(err)
		}
		before := s.meter.read()
		for range 10 {
			if err := sweeper.Pass(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		sweeps := s.meter.read().since(before, 10)
		before = s.meter.read()
		for range 10 {
			if err := s.roster.Announce(t.Context(), store.Presence{Worker: "w", Machine: "cpu", Slots: 2}); err != nil {
				t.Fatal(err)
			}
		}
		presence := s.meter.read().since(before, 10)
		// Cents a month of what happens each minute. A worker polls for 20 s.
		const minutes = 30 * 24 * 60 * 100 / 1e6
		sweep := minutes * (sweeps.dollars() + priceLambda + 10*lambdaTime*priceCompute)
		worker := minutes * (presence.dollars() + 3*priceSQS)
		s.Logf("an idle month with one worker\t%.1f\tcents\tat most 15\t(sweeps %.1f: %s; polls and presence %.1f: %s)",
			sweep+worker, sweep, sweeps, worker, presence)
		s.Logf("the alarms of a stage and one machine\t%d\tcents a month", alarmMetrics*10)
		if sweep+worker > 15 {
			t.Errorf("an idle month costs %.1f cents", sweep+worker)
		}
	})
}

// follow reads the output of a promise to its end, as the CLI does, and returns
// how many requests that took.
func (s *stage) follow(id string) (requests float64) {
	s.Helper()
	var all strings.Builder
	for next, end := "0", false; !end; requests++ {
		r := httptest.NewRequestWithContext(s.Context(), "GET", "/v1/promises/"+id+"/logs?attempt=1&offset="+next, nil)
		r.Header.Set("Prefer", "wait=10")
		w := httptest.NewRecorder()
		s.status.ServeHTTP(w, r)
		if w.Code != http.StatusOK {
			s.Fatalf("the output of %s: %d %s", id, w.Code, w.Body)
		}
		all.Write(w.Body.Bytes())
		next, end = w.Header().Get(api.LogNextHeader), w.Header().Get(api.LogEndHeader) == "true"
	}
	if n := strings.Count(all.String(), "\n"); n != printed {
		s.Errorf("%d lines came of %d", n, printed)
	}
	return requests
}

// submitted is the id of the last promise.
func (s *stage) submitted() string { return "Bill-success-" + fmt.Sprint(s.n) }
