//go:build linux

package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"modulate/functions/router/dispatch"
	"modulate/internal/api"
	"modulate/internal/cloud"
	"modulate/internal/emulator"
	"modulate/internal/lambdatest"
	"modulate/internal/promise"
	"modulate/internal/store"
)

// A stage is one on emulated AWS and what a test does to it: the real functions
// behind a gateway, and real workers, each with a line of its own.
type stage struct {
	*scene
	name, bucket, endpoint string

	lambdas                 *line // of all functions
	router, status, sweeper *lambdatest.Function
	log                     *lambdatest.Log // theirs
	api                     http.Handler
	client                  *api.Client
	answers                 *feed[answer] // that the client had

	cloud  *cloud.Cloud // the test's own way
	sqs    *sqs.Client
	ledger *ledger
	spools string
	sweeps sync.WaitGroup
}

// newStage makes an empty stage with the machine cpu.
func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{endpoint: emulator.AWS(t), log: &lambdatest.Log{}, ledger: newLedger(), answers: newFeed[answer](), spools: t.TempDir()}
	s.scene = newScene(t)
	s.scene.spools = func() string { return filepath.Join(s.spools, s.bucket) }
	direct := emulator.Config(t, s.endpoint)
	s.name, s.bucket = emulator.Stage(t, direct, "cpu")
	s.sqs = sqs.NewFromConfig(direct)
	own := emulator.Config(t, newLine(t, s.endpoint, s.ledger).url)
	var err error
	if s.cloud, err = cloud.Open(t.Context(), cloud.Config{Stage: s.name, Bucket: s.bucket, AWS: own}); err != nil {
		t.Fatal(err)
	}
	s.lambdas = newLine(t, s.endpoint, s.ledger)
	s.router, s.status, s.sweeper = s.function(t, "router", 8), s.function(t, "status", 4), s.function(t, "sweeper", 2)
	t.Cleanup(s.sweeps.Wait)
	t.Cleanup(s.sweeper.Close)
	s.api = &lambdatest.Gateway{Write: s.router, Read: s.status}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.api.ServeHTTP(w, r) }))
	t.Cleanup(server.Close)
	s.client = api.NewClient(server.URL, heard{&http.Transport{MaxIdleConnsPerHost: 16}, s.answers})
	s.client.Patience = 3 * time.Minute
	t.Cleanup(s.client.Close)
	return s
}

// An answer is what the client had for a request.
type answer struct {
	status int // 0: none
	again  int // Retry-After in seconds; 0: it was not said
}

// heard keeps what was answered.
type heard struct {
	*http.Transport
	answers *feed[answer]
}

// RoundTrip is that of [http.RoundTripper].
func (h heard) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := h.Transport.RoundTrip(r)
	var a answer
	if err == nil {
		a.status = resp.StatusCode
		a.again, _ = strconv.Atoi(resp.Header.Get("Retry-After")) // what is no number was not said
	}
	h.answers.add(a)
	return resp, err
}

// The functions' programs, built once, where the other programs are.
var buildFunctions = sync.OnceValue(func() error {
	for _, name := range []string{"router", "status", "sweeper"} {
		if _, err := lambdatest.Build(context.Background(), os.Getenv(binEnv), "functions/"+name, ""); err != nil {
			return err
		}
	}
	return nil
})

// function is one of the stage, as it is deployed.
func (s *stage) function(t *testing.T, name string, environments int) *lambdatest.Function {
	t.Helper()
	if err := buildFunctions(); err != nil {
		t.Fatal(err)
	}
	f := lambdatest.New(lambdatest.Config{
		Bootstrap:    filepath.Join(os.Getenv(binEnv), name, "bootstrap"),
		Env:          append(awsEnv(s.lambdas), "MODULATE_STAGE="+s.name, "MODULATE_BUCKET="+s.bucket, "MODULATE_OWNER=local"),
		Environments: environments, Timeout: 75 * time.Second, Log: s.log,
	})
	t.Cleanup(func() {
		f.Close()
		if t.Failed() && name == "router" {
			t.Logf("the functions wrote:\n%s", tail(s.log.String()))
		}
	})
	return f
}

// awsEnv is what the SDK is to find.
func awsEnv(l *line) []string {
	return []string{
		"AWS_ENDPOINT_URL=" + l.url, "AWS_REGION=us-east-1", "AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test",
		"AWS_EC2_METADATA_DISABLED=true",
	}
}

// takeShortLeases puts a router before the stage that is as the deployed one
// but for the least lease that it takes: that of one machine.
func (s *stage) takeShortLeases() {
	s.api = api.Join(dispatch.New(dispatch.Config{Engine: s.cloud.Engine, Roster: s.cloud.Store}), s.api)
}

// A daemon is a workerd of the stage.
type daemon struct {
	*child
	line   *line
	health string // the URL of its health
}

// worker starts a workerd for cpu and returns when it works.
func (s *stage) worker(ctx context.Context, t *testing.T, name string, slots int) *daemon {
	t.Helper()
	d := &daemon{line: newLine(t, s.endpoint, s.ledger)}
	d.child = start(t, name, append(s.env(), awsEnv(d.line)...), program("workerd"), "--verbose",
		"--stage", s.name, "--bucket", s.bucket, "--machine", "cpu", "--name", name, "--slots", strconv.Itoa(slots),
		"--spool", s.spools, "--health", "127.0.0.1:0")
	const at = ", health at "
	line, err := d.stdout.await(ctx, func(said string) bool { return strings.Contains(said, at) })
	if err != nil {
		t.Fatalf("%s does not work: %v", name, err)
	}
	_, d.health, _ = strings.Cut(line, at)
	return d
}

// says waits until the worker has said that in its log.
func (d *daemon) says(ctx context.Context, t *testing.T, what string) {
	t.Helper()
	if _, err := d.stderr.await(ctx, func(line string) bool { return strings.Contains(line, what) }); err != nil {
		t.Fatalf("%s does not say %q: %v", d.name, what, err)
	}
}

// shows fails the test unless the worker's health is as wanted.
func (d *daemon) shows(t *testing.T, status int, text string) {
	t.Helper()
	resp, err := http.Get(d.health + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != status || !strings.Contains(string(body), text) {
		t.Errorf("the health of %s is %d %q, %v; want %d %q", d.name, resp.StatusCode, body, err, status, text)
	}
}

// script is a submission of a short script, without a lease of its own.
func (s *stage) script(name string) api.Submit {
	source := "say() { echo \"$MODULATE_ID $MODULATE_ATTEMPT $$ $1\" >> \"$WITNESS\"; }\nsay start\nsay end\n"
	call := s.call(name, "")
	call.Script, call.Runtime, call.LeaseMS = api.Script{Name: "script.sh", Source: &source}, "bash", nil
	return call
}

// leased is a submission of a Python script with that lease.
func (s *stage) leased(name, body string, lease time.Duration) api.Submit {
	call := s.call(name, body)
	*call.LeaseMS = lease.Milliseconds()
	return call
}

// submit hands c in.
func (s *stage) submit(ctx context.Context, t *testing.T, c api.Submit) string {
	t.Helper()
	if _, _, err := s.client.Submit(ctx, c, api.SubmitOptions{Async: true}); err != nil {
		t.Fatalf("submitting %s: %v", c.ID, err)
	}
	return c.ID
}

// submitAll hands in n short scripts, by so many callers at once, and returns
// their ids.
func (s *stage) submitAll(ctx context.Context, t *testing.T, n, callers int) (wait func() (ids []string)) {
	t.Helper()
	done := flood(ctx, n, callers, func(ctx context.Context, name string) error {
		_, _, err := s.client.Submit(ctx, s.script(name), api.SubmitOptions{Async: true})
		return err
	})
	return func() (ids []string) {
		t.Helper()
		if err := done(); err != nil {
			t.Fatalf("submitting: %v", err)
		}
		for i := range n {
			ids = append(ids, s.id(fmt.Sprintf("%04d", i)))
		}
		return ids
	}
}

// settled waits until the promise is terminal. What it is told is kept for the
// checker.
func (s *stage) settled(ctx context.Context, t *testing.T, id string) api.Promise {
	t.Helper()
	p, err := s.client.WaitTerminal(ctx, id, nil)
	if err != nil {
		forms := s.ledger.all()[id]
		t.Fatalf("waiting for %s: %v; it stands at %+v", id, err, forms[max(0, len(forms)-1):])
	}
	s.tell(p)
	return p
}

// settledAtOnce waits for the end of all, and fails the test unless each was
// run once.
func (s *stage) settledAtOnce(ctx context.Context, t *testing.T, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if p := s.settled(ctx, t, id); p.State != promise.Resolved.String() || len(p.Attempts) != 1 {
			t.Errorf("%s is %s after %d attempts, want resolved after 1", id, p.State, len(p.Attempts))
		}
	}
}

// aMinuteLater makes what waits for a worker as old as if its message had been
// lost two minutes ago, and has the sweeper called as the schedule does.
func (s *stage) aMinuteLater(ctx context.Context, t *testing.T) {
	t.Helper()
	for id := range s.ledger.all() {
		if err := s.age(ctx, id); err != nil {
			t.Fatalf("ageing %s: %v", id, err)
		}
	}
	event, err := os.ReadFile("../lambdahttp/testdata/scheduled.json")
	if err != nil {
		t.Fatal(err)
	}
	s.sweeps.Go(func() { // it stays for as long as anything will be due
		if answer, err := s.sweeper.Invoke(event); err != nil && !errors.Is(err, lambdatest.ErrDied) {
			t.Errorf("the sweep: %v, %s", err, answer)
		}
	})
}

// age is done when the promise does not wait for a worker any more.
func (s *stage) age(ctx context.Context, id string) error {
	const by = 2 * promise.FirstResend
	for {
		rec, err := s.cloud.Store.Get(ctx, id)
		if err != nil || rec.Task.State != promise.TaskPending {
			return err
		}
		rec.Rev++
		rec.WriteID = s.cloud.Engine.NewNonce()
		rec.ResendAt, rec.DueAt = rec.ResendAt.Add(-by), rec.DueAt.Add(-by)
		if err := s.cloud.Store.Replace(ctx, rec); !errors.Is(err, store.ErrRefused) {
			return err
		}
	}
}

// list returns the ids of all submissions, sorted.
func (s *stage) list(ctx context.Context, t *testing.T) (ids []string) {
	t.Helper()
	for cursor := ""; ; {
		page, err := s.client.List(ctx, api.ListQuery{Limit: 30, Cursor: cursor})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range page.Items {
			ids = append(ids, p.ID)
		}
		if cursor = page.Cursor; cursor == "" {
			slices.Sort(ids)
			return ids
		}
	}
}

// queueURL is that of the machine's queue.
func (s *stage) queueURL(ctx context.Context, t *testing.T) *string {
	t.Helper()
	name := "modulate-" + s.name + "-cpu"
	out, err := s.sqs.GetQueueUrl(ctx, &sqs.GetQueueUrlInput{QueueName: &name})
	if err != nil {
		t.Fatal(err)
	}
	return out.QueueUrl
}

// record returns a promise as it is stored.
func (s *stage) record(ctx context.Context, t *testing.T, id string) promise.Record {
	t.Helper()
	rec, err := s.cloud.Store.Get(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

// check is the checker: see that of a world.
func (s *stage) check(ctx context.Context, t *testing.T) {
	t.Helper()
	past := s.ledger.all()
	for id, forms := range past {
		if stored := s.record(ctx, t, id); stored.Rev != uint64(len(forms)) {
			t.Errorf("%s is stored at rev %d, and %d writes were accepted", id, stored.Rev, len(forms))
		}
	}
	s.checkRecords(ctx, t, s.cloud.Engine, past)
	s.checkLeftovers(t, filepath.Join(s.spools, s.bucket))
}
