package lambdatest

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"modulate/internal/api"
	"modulate/internal/promise"
	"modulate/internal/store"
	"modulate/workerd/runner"
)

// A submission through the real programs, over each kind of gateway: submitted,
// run, waited for, read.
func TestJourney(t *testing.T) {
	for name, change := range map[string]func(*world, *Config, *Config){
		"HTTP API":       nil,
		"a named stage":  func(w *world, _, _ *Config) { w.gateway.Stage = "dev" },
		"REST API":       func(w *world, _, _ *Config) { w.gateway.REST = true },
		"frozen between": func(_ *world, router, status *Config) { router.Freeze, status.Freeze = true, true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := open(t, change)
			w.work(hello)
			p, done, err := w.front.Submit(t.Context(), call("j"), api.SubmitOptions{Wait: 10 * time.Second})
			if err != nil || p.Owner != aliceOwner || p.Call.LeaseMS != 120_000 {
				t.Fatalf("%+v, %v", p, err)
			}
			if !done.Created {
				if p, err = w.front.WaitTerminal(t.Context(), "j", nil); err != nil {
					t.Fatal(err)
				}
			}
			if p.State != "resolved" || p.Outcome.Stdout.Tail != "hello\n" {
				t.Errorf("%+v", p)
			}
			page, err := w.front.Log(t.Context(), "j", api.LogQuery{Stream: "stdout"})
			if err != nil || string(page.Body) != "hello\n" || !page.End {
				t.Errorf("%+v, %v", page, err)
			}
			list, err := w.front.List(t.Context(), api.ListQuery{Machine: "cpu"})
			if err != nil || len(list.Items) != 1 || list.Items[0].ID != "j" {
				t.Errorf("%+v, %v", list, err)
			}
			machines, err := w.front.Machines(t.Context())
			if err != nil || len(machines.Items) != 2 || len(machines.Items[0].Workers) != 1 {
				t.Errorf("%+v, %v", machines, err)
			}
			if _, err := w.front.Cancel(t.Context(), "j"); !errors.Is(err, promise.ErrSettled) {
				t.Errorf("cancelled: %v", err)
			}
		})
	}
}

// A promise that settles during a wait is told of at once: within 1.2 s of the
// settle, and mostly sooner.
func TestSettleDuringAWait(t *testing.T) {
	w := open(t, nil)
	begun, release := make(chan struct{}, 1), make(chan struct{})
	w.work(func(runner.Job) {
		begun <- struct{}{}
		<-release
	})
	var took []time.Duration
	for _, id := range []string{"a", "b", "c"} {
		w.submit(id)
		<-begun
		reads := make(chan struct{}, 1000)
		w.aws.on(func(operation string) {
			if operation == "GetItem" {
				reads <- struct{}{}
			}
		})
		ended := make(chan time.Time, 1)
		go func() {
			p, err := w.front.Get(t.Context(), id, 10*time.Second)
			if err != nil || p.State != "resolved" {
				t.Errorf("%s: %s, %v", id, p.State, err)
			}
			ended <- time.Now()
		}()
		for range 3 { // it waits
			<-reads
		}
		release <- struct{}{}
		settled := w.settled(id)
		took = append(took, (<-ended).Sub(settled))
	}
	// A pause of this machine makes one of three late, a wrong pace all of them;
	// an answer that only the end of its wait has brought is late in any case.
	slices.Sort(took)
	if took[1] > 1200*time.Millisecond || took[2] > 5*time.Second {
		t.Errorf("the answer took %v after the settle", took)
	}
}

// settled returns when a promise was seen to have settled.
func (w *world) settled(id string) time.Time {
	w.t.Helper()
	for {
		rec, err := w.cloud.Engine.Get(w.t.Context(), id)
		if err != nil {
			w.t.Fatal(err)
		}
		if rec.State.Terminal() {
			return time.Now()
		}
	}
}

// A router that is killed between the write and the message leaves a promise
// that the client finds, once, and the sweep sends for (rows 1, 2).
func TestKilledInTheMiddle(t *testing.T) {
	w := open(t, nil)
	var once sync.Once
	w.aws.on(func(operation string) {
		if operation == "SendMessage" {
			once.Do(w.router.Kill)
		}
	})
	p, done, err := w.front.Submit(t.Context(), call("k"), api.SubmitOptions{})
	if err != nil || !done.Existing || p.State != "pending" || w.router.Starts() != 2 {
		t.Fatalf("%+v %+v, %v after %d starts", p, done, err, w.router.Starts())
	}
	list, err := w.front.List(t.Context(), api.ListQuery{})
	if err != nil || len(list.Items) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
	w.aws.on(nil)
	w.age("k", 2*time.Minute)
	w.work(hello)
	w.sweep()
	if p, err := w.front.WaitTerminal(t.Context(), "k", nil); err != nil || p.State != "resolved" || len(p.Attempts) != 1 {
		t.Errorf("%+v, %v", p, err)
	}
}

// age makes a promise older than it is.
func (w *world) age(id string, by time.Duration) {
	w.t.Helper()
	rec, err := w.cloud.Store.Get(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	rec.Rev++
	rec.ResendAt, rec.DueAt = rec.ResendAt.Add(-by), rec.DueAt.Add(-by)
	if err := w.cloud.Store.Replace(w.t.Context(), rec); err != nil {
		w.t.Fatal(err)
	}
}

// sweep invokes the sweeper as the schedule does.
func (w *world) sweep() {
	w.t.Helper()
	cfg := w.config("sweeper")
	cfg.Timeout = 75 * time.Second
	event, err := os.ReadFile("../lambdahttp/testdata/scheduled.json")
	if err != nil {
		w.t.Fatal(err)
	}
	if out, err := w.function(cfg).Invoke(event); err != nil {
		w.t.Fatalf("sweeping: %s, %v", out, err)
	}
}

// A read that blocks ends a second before its function's time is over, and
// asks for a poll.
func TestBlockingReadEndsInTime(t *testing.T) {
	w := open(t, func(_ *world, _, status *Config) { status.Timeout = 3 * time.Second })
	w.submit("b")
	resp, body := w.send("GET", "/v1/promises/b", "", "Prefer", "wait=25")
	if resp.StatusCode != 200 || !strings.Contains(body, `"state":"pending"`) || resp.Header.Get("Retry-After") != "5" || w.status.Starts() != 1 {
		t.Errorf("%d %v %s after %d starts", resp.StatusCode, resp.Header, body, w.status.Starts())
	}
}

// A function that hangs is killed when its time is over, a gateway that waits
// no longer says so, and the client goes on all the same.
func TestTimeouts(t *testing.T) {
	for name, change := range map[string]func(*world, *Config, *Config){
		"function":     func(_ *world, _, status *Config) { status.Timeout = 2 * time.Second },
		"HTTP gateway": func(w *world, _, _ *Config) { w.gateway.Limit = 500 * time.Millisecond },
		"REST gateway": func(w *world, _, _ *Config) { w.gateway.Limit, w.gateway.REST = 500*time.Millisecond, true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := open(t, change)
			w.submit("h")
			stalled := make(chan struct{})
			resume := sync.OnceFunc(func() {
				w.aws.on(nil)
				close(stalled)
			})
			t.Cleanup(resume)
			w.aws.on(func(operation string) {
				if operation == "GetItem" {
					<-stalled
				}
			})
			repeated := make(chan struct{})
			once := sync.OnceFunc(func() { close(repeated) })
			w.front.OnRetry = func(err error, _ time.Duration) {
				if !errors.Is(err, api.ErrUnavailable) {
					t.Errorf("repeated for %v", err)
				}
				once()
			}
			go func() {
				select {
				case <-repeated:
					resume()
				case <-t.Context().Done():
				}
			}()
			w.work(hello)
			p, err := w.front.WaitTerminal(t.Context(), "h", nil)
			if err != nil || p.State != "resolved" {
				t.Errorf("%+v, %v", p, err)
			}
			select {
			case <-repeated:
			default:
				t.Error("nothing was repeated")
			}
		})
	}
}

// Who is not the owner learns nothing, and who is nobody may do nothing.
func TestOwners(t *testing.T) {
	w := open(t, nil)
	w.submit("o")
	if _, err := w.as(bob).Get(t.Context(), "o", 0); !errors.Is(err, promise.ErrNotFound) {
		t.Errorf("bob reads: %v", err)
	}
	if _, err := w.as(bob).Cancel(t.Context(), "o"); !errors.Is(err, promise.ErrNotFound) {
		t.Errorf("bob cancels: %v", err)
	}
	if _, _, err := w.as(bob).Submit(t.Context(), call("o"), api.SubmitOptions{}); !errors.Is(err, api.ErrConflict) {
		t.Errorf("bob submits: %v", err)
	}
	if _, err := w.as("").Get(t.Context(), "o", 0); !errors.Is(err, api.ErrForbidden) || !strings.Contains(err.Error(), "who calls") {
		t.Errorf("nobody reads: %v", err)
	}
	if _, _, err := w.as("").Submit(t.Context(), call("n"), api.SubmitOptions{}); !errors.Is(err, api.ErrForbidden) {
		t.Errorf("nobody submits: %v", err)
	}
	if _, err := w.cloud.Store.Get(t.Context(), "n"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("nobody's promise: %v", err)
	}
	another := w.as("arn:aws:sts::000000000000:assumed-role/submitters/carol")
	if _, err := another.Get(t.Context(), "o", 0); err != nil {
		t.Errorf("another session of the role: %v", err)
	}
}

// With MODULATE_OWNER=local nobody is told apart.
func TestLocalOwner(t *testing.T) {
	w := open(t, func(_ *world, router, status *Config) {
		router.Env, status.Env = append(router.Env, "MODULATE_OWNER=local"), append(status.Env, "MODULATE_OWNER=local")
	})
	if p, _, err := w.as("").Submit(t.Context(), call("l"), api.SubmitOptions{}); err != nil || p.Owner != api.LocalOwner {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := w.as(bob).Get(t.Context(), "l", 0); err != nil {
		t.Error(err)
	}
}

// What is wrong with a request is said through a gateway as everywhere.
func TestBadRequests(t *testing.T) {
	w := open(t, nil)
	const json, problem = "application/json", "application/problem+json"
	for _, tt := range []struct {
		method, path, media, body string
		status                    int
		says                      string
	}{
		{"POST", "/v1/nothing", json, "{}", 404, "there is no /v1/nothing here"},
		{"DELETE", "/v1/promises/x", json, "", 405, "knows GET, HEAD, not DELETE"},
		{"GET", "/", "", "", 404, "there is no / here"},
		{"GET", "/v1/promises/a%20b", "", "", 404, `there is no promise \"a b\"`},
		{"GET", "/v1/promises/p.1:x", "", "", 404, `there is no promise \"p.1:x\"`},
		{"GET", "/v1/promises?limit=0", "", "", 400, "want 1 to 1000"},
		{"GET", "/v1/promises?limit=1&limit=2", "", "", 400, "limit is given 2 times"},
		{"GET", "/v1/promises?cursor=%ff", "", "", 400, "cursor"},
		{"POST", "/v1/promises", json, "", 400, "the body is empty"},
		{"POST", "/v1/promises", "text/plain", "{}", 415, "send JSON"},
		{"POST", "/v1/promises", json, "\xff", 400, "not JSON"},
		{"POST", "/v1/promises", json, `{"machine":"cpu","machine":"gpu"}`, 400, "give it once"},
		{"POST", "/v1/promises", json, `{"machine":"tpu","script":{"name":"a","source":"x"}}`, 400, "known are: cpu, gpu"},
		{"POST", "/v1/promises", json, `{"machine":"cpu","lease_ms":30000,"script":{"name":"a","source":"x"}}`, 400, "lease_ms 30000: want 90000 to 900000"},
		{"POST", "/v1/promises", json, `{"id":"` + strings.Repeat("x", 1<<20) + `"}`, 413, "a JSON body has at most 1048576"},
		{"POST", "/v1/promises", json, strings.Repeat("x", maxRequest+1), 413, "Request Too Long"},
	} {
		resp, body := w.send(tt.method, tt.path, tt.body, "Content-Type", tt.media)
		if resp.StatusCode != tt.status || !strings.Contains(body, tt.says) {
			t.Errorf("%s %s: %d %.300s\nwant %d %s", tt.method, tt.path, resp.StatusCode, body, tt.status, tt.says)
		}
		if got := resp.Header.Get("Content-Type"); got != problem && len(tt.body) <= maxRequest {
			t.Errorf("%s %s: %s", tt.method, tt.path, got)
		}
	}
}

// Each request has a line of JSON in the log, with the promise's id and
// Lambda's.
func TestLogLines(t *testing.T) {
	w := open(t, nil)
	w.submit("logged")
	if _, err := w.front.Get(t.Context(), "logged", 0); err != nil {
		t.Fatal(err)
	}
	lines := 0
	for line := range strings.Lines(w.log.String()) {
		var l struct {
			Level, Msg, ID, Method string
			Request                string `json:"request_id"`
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Errorf("%s: %v", line, err)
		}
		if l.Msg == "answered" && l.ID == "logged" && len(l.Request) == 36 {
			lines++
		}
	}
	if lines != 2 {
		t.Errorf("%d lines, want one of each function:\n%s", lines, w.log)
	}
}

// A function without its settings says what is missing and does not start.
func TestMissingSettings(t *testing.T) {
	w := open(t, nil)
	for _, tt := range []struct {
		env  []string
		says string
	}{
		{[]string{"AWS_REGION=us-east-1"}, "MODULATE_STAGE is not set"},
		{[]string{"MODULATE_STAGE=x"}, "no AWS region is set"},
		{[]string{"MODULATE_STAGE=dlq", "AWS_REGION=us-east-1"}, `stage "dlq"`},
		{append(slices.Clone(w.env), "MODULATE_OWNER=bob"), `owner "bob"`},
	} {
		var log Log
		cfg := w.config("router")
		cfg.Env, cfg.Log = tt.env, &log
		if _, err := w.function(cfg).Invoke([]byte("{}")); !errors.Is(err, ErrDied) || !strings.Contains(log.String(), "error: "+tt.says) {
			t.Errorf("%v: %v, %s", tt.env, err, &log)
		}
	}
}

// What is throttled is refused before anything has happened, and told when to
// come again.
func TestThrottled(t *testing.T) {
	w := open(t, nil)
	w.submit("before") // its script is kept now
	throttle := http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "application/x-amz-json-1.0")
		rw.WriteHeader(400)
		rw.Write([]byte(`{"__type":"com.amazonaws.dynamodb.v20120810#ThrottlingException","message":"slow down"}`))
	})
	var mu sync.Mutex
	sent := 0
	w.aws.on(func(operation string) {
		mu.Lock()
		defer mu.Unlock()
		if operation == "SendMessage" {
			sent++
		}
	})
	w.aws.instead("PutItem", throttle)
	sub, err := json.Marshal(call("t"))
	if err != nil {
		t.Fatal(err)
	}
	resp, body := w.send("POST", "/v1/promises", string(sub), "Content-Type", "application/json")
	if resp.StatusCode != 429 || resp.Header.Get("Retry-After") == "" || sent != 0 {
		t.Errorf("%d %v %s, %d messages", resp.StatusCode, resp.Header, body, sent)
	}
	// So is what cannot keep its script.
	resp, body = w.send("POST", "/v1/promises", `{"id":"u","machine":"cpu","script":{"name":"a","source":"another"}}`, "Content-Type", "application/json")
	if resp.StatusCode != 429 || resp.Header.Get("Retry-After") == "" || sent != 0 {
		t.Errorf("its script: %d %v %s, %d messages", resp.StatusCode, resp.Header, body, sent)
	}
	w.aws.instead("PutItem", nil)
	w.submit("t")
}

// What is sent to Lambda stays small: the larger it is, the slower it starts.
func TestZips(t *testing.T) {
	if testing.Short() {
		t.Skip("short: it builds the functions")
	}
	for _, name := range []string{"router", "status", "sweeper"} {
		if size, err := ZipSize(bootstrap(t, name)); err != nil || size > 8_000_000 {
			t.Errorf("the zip of %s: %d bytes, %v; want 8 MB at most", name, size, err)
		}
	}
}

// Two environments answer two requests at a time.
func TestTwoEnvironments(t *testing.T) {
	w := open(t, nil)
	w.submit("e")
	inside, leave := make(chan struct{}, 10), make(chan struct{})
	w.aws.on(func(operation string) {
		if operation == "GetItem" {
			inside <- struct{}{}
			<-leave
		}
	})
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() {
			if _, err := w.front.Get(t.Context(), "e", 0); err != nil {
				t.Error(err)
			}
		})
	}
	<-inside
	<-inside // both are at work at once
	close(leave)
	both.Wait()
	if w.status.Starts() != 2 {
		t.Errorf("%d environments, want 2", w.status.Starts())
	}
}

// A deadline that is nearer than the next sweep is kept all the same: a message
// comes when it has passed.
func TestNearDeadline(t *testing.T) {
	w := open(t, nil)
	soon := int64(2000)
	sub := call("d")
	sub.DeadlineMS = &soon
	if _, _, err := w.front.Submit(t.Context(), sub, api.SubmitOptions{}); err != nil {
		t.Fatal(err)
	}
	// One message is hidden for long: the one that asks for a worker, unless this
	// machine is so busy that both are there by now. The other is left.
	got, err := w.cloud.Queue.Receive(t.Context(), "cpu", 1, time.Hour, 20*time.Second)
	if err != nil || len(got) != 1 {
		t.Fatalf("%d messages, %v; want one of two", len(got), err)
	}
	w.work(hello)
	for {
		rec, err := w.cloud.Store.Get(t.Context(), "d") // a read by the engine would settle it
		if err != nil {
			t.Fatal(err)
		}
		if rec.State == promise.TimedOut {
			break
		}
		if late := w.cloud.Engine.Time().Sub(rec.DeadlineAt); late > 30*time.Second {
			t.Fatalf("%s %v after its deadline", rec.State, late)
		}
	}
}

// While the store is away nothing is known and nothing is lost: 503, come again.
func TestStoreAway(t *testing.T) {
	w := open(t, nil)
	w.submit("before")
	away := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	for _, operation := range []string{"GetItem", "PutItem", "Query"} {
		w.aws.instead(operation, away)
	}
	sub, err := json.Marshal(call("s"))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range [][2]string{{"GET", "/v1/promises/before"}, {"POST", "/v1/promises"}, {"GET", "/v1/promises"}} {
		resp, body := w.send(r[0], r[1], string(sub), "Content-Type", "application/json")
		if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || !strings.Contains(body, "repeat it") {
			t.Errorf("%s %s: %d %v %s", r[0], r[1], resp.StatusCode, resp.Header, body)
		}
	}
	for _, operation := range []string{"GetItem", "PutItem", "Query"} {
		w.aws.instead(operation, nil)
	}
	w.submit("s")
	if _, err := w.front.Get(t.Context(), "before", 0); err != nil {
		t.Error(err)
	}
}

// What somebody has to allow is said, and not to be repeated.
func TestStoreDenied(t *testing.T) {
	w := open(t, nil)
	denied := http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "application/x-amz-json-1.0")
		rw.WriteHeader(http.StatusBadRequest)
		io.WriteString(rw, `{"__type":"com.amazon.coral.service#AccessDeniedException","message":"no"}`)
	})
	for _, operation := range []string{"GetItem", "PutItem", "Query"} {
		w.aws.instead(operation, denied)
	}
	sub, err := json.Marshal(call("s"))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range [][2]string{{"GET", "/v1/promises/x"}, {"POST", "/v1/promises"}, {"GET", "/v1/promises"}} {
		resp, body := w.send(r[0], r[1], string(sub), "Content-Type", "application/json")
		if resp.StatusCode != 500 || resp.Header.Get("Retry-After") != "" || !strings.Contains(body, api.TypePrefix+"store-deployment") || !strings.Contains(body, "the role of this program must allow it") {
			t.Errorf("%s %s: %d %v %s", r[0], r[1], resp.StatusCode, resp.Header, body)
		}
	}
}
