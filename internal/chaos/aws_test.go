//go:build linux

package chaos

import (
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"modulate/internal/promise"
)

// awsLease is that of scripts whose lease is to run out: long enough for what
// is behind a line on a loaded machine.
const awsLease = 10 * time.Second

// A worker killed mid-script, and no sweeper: the visibility of its message
// alone brings the script to a peer within the lease + 15 s.
func TestAWorkerKilledMidScriptIsReplacedByVisibilityAlone(t *testing.T) {
	t.Parallel()
	s, ctx := newStage(t), deadline(t, 3*time.Minute)
	s.takeShortLeases()
	a := s.worker(ctx, t, "a", 1)
	id := s.submit(ctx, t, s.leased("only", hangsOnce, awsLease))
	s.loseMachine(ctx, t, a.child, id)
	killed := time.Now()
	b := s.worker(ctx, t, "b", 1)
	s.witness.saw(ctx, t, id, 2, "start")
	within(t, killed, awsLease+slack)
	if p := s.settled(ctx, t, id); p.Outcome.Stdout.Tail != "the end of attempt 2\n" {
		t.Errorf("%s, stdout %q", p.State, p.Outcome.Stdout.Tail)
	}
	b.stop(ctx, t)
	s.check(ctx, t)
}

// The queue purged while submissions wait in it: the sweep alone sends again.
func TestAPurgedQueueIsFilledAgainByTheSweep(t *testing.T) {
	t.Parallel()
	s, ctx := newStage(t), deadline(t, 3*time.Minute)
	ids := s.submitAll(ctx, t, 20, 4)()
	if _, err := s.sqs.PurgeQueue(ctx, &sqs.PurgeQueueInput{QueueUrl: s.queueURL(ctx, t)}); err != nil {
		t.Fatal(err)
	}
	if depth, err := s.cloud.Queue.Depth(ctx, "cpu"); err != nil || depth.Visible != 0 {
		t.Fatalf("%+v, %v; want a queue without messages", depth, err)
	}
	a := s.worker(ctx, t, "a", 2)
	s.aMinuteLater(ctx, t)
	s.settledAtOnce(ctx, t, ids...)
	a.stop(ctx, t)
	s.check(ctx, t)
}

// The queue deleted and made again while a worker polls it: the worker's health
// is red meanwhile, submissions are accepted all the same, and work goes on.
func TestAQueueDeletedAndMadeAgainWhileWorkersPoll(t *testing.T) {
	t.Parallel()
	s, ctx := newStage(t), deadline(t, 3*time.Minute)
	a := s.worker(ctx, t, "a", 2)
	before := s.submit(ctx, t, s.script("before"))
	s.settledAtOnce(ctx, t, before)
	a.shows(t, http.StatusOK, "ok")

	if _, err := s.sqs.DeleteQueue(ctx, &sqs.DeleteQueueInput{QueueUrl: s.queueURL(ctx, t)}); err != nil {
		t.Fatal(err)
	}
	a.line.hangUp() // what waits at the queue would be told only at its end
	a.says(ctx, t, "the queue does not answer")
	a.shows(t, http.StatusServiceUnavailable, "deploy the machine's stack")
	meanwhile := s.submit(ctx, t, s.script("meanwhile"))

	name := "modulate-" + s.name + "-cpu"
	if _, err := s.sqs.CreateQueue(ctx, &sqs.CreateQueueInput{QueueName: &name}); err != nil {
		t.Fatal(err)
	}
	after := s.submit(ctx, t, s.script("after"))
	s.settledAtOnce(ctx, t, after)
	a.says(ctx, t, "the queue answers again")
	a.shows(t, http.StatusOK, "ok")
	s.aMinuteLater(ctx, t)
	s.settledAtOnce(ctx, t, meanwhile)
	a.stop(ctx, t)
	s.check(ctx, t)
}

// A storm in which AWS refuses every other request, while 8 clients submit:
// they are told 429 and when to come again, or that it is done, and nothing
// else. All that they submit is run, once.
func TestAThrottleStorm(t *testing.T) {
	t.Parallel()
	s, ctx := newStage(t), deadline(t, 4*time.Minute)
	a, b := s.worker(ctx, t, "a", 4), s.worker(ctx, t, "b", 4)
	for i, l := range []*line{s.lambdas, a.line, b.line} {
		l.set(throttled(uint64(i)))
	}
	submitted := s.submitAll(ctx, t, 200, 8)
	refused := func(a answer) bool { return a.status/100 != 2 }
	if err := s.answers.awaitCount(ctx, 8, refused); err != nil {
		t.Fatalf("waiting for refusals: %v", err)
	}
	for _, l := range []*line{s.lambdas, a.line, b.line} {
		l.set(nil)
	}
	ids := submitted()
	answers, _ := s.answers.all()
	for _, a := range answers {
		if refused(a) && (a.status != http.StatusTooManyRequests || a.again == 0) {
			t.Errorf("a client was told %+v", a)
		}
	}
	s.aMinuteLater(ctx, t) // for messages that SQS did not take
	s.settledAtOnce(ctx, t, ids...)
	a.stop(ctx, t)
	b.stop(ctx, t)
	s.check(ctx, t)
}

// throttled is AWS that refuses half of what it is asked, as DynamoDB and SQS
// do it. It is called under the line's lock.
func throttled(seed uint64) fault {
	dice := rand.New(rand.NewPCG(28, seed))
	return func(a ask, _ http.Handler) http.Handler {
		if a.operation == "" || dice.IntN(2) == 0 { // S3 has none of it
			return nil
		}
		status, code := http.StatusBadRequest, "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException"
		if slices.Contains(ofSQS, a.operation) {
			status, code = http.StatusTooManyRequests, "com.amazonaws.sqs#RequestThrottled"
			if dice.IntN(2) == 0 {
				status, code = http.StatusServiceUnavailable, "ServiceUnavailable"
			}
		}
		body := `{"__type":"` + code + `","message":"not now"}`
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/x-amz-json-1.0")
			w.Header().Set("X-Amz-Crc32", strconv.FormatUint(uint64(crc32.ChecksumIEEE([]byte(body))), 10)) // the SDK looks
			w.WriteHeader(status)
			io.WriteString(w, body)
		})
	}
}

// ofSQS are the operations of SQS that Modulate asks for.
var ofSQS = []string{
	"SendMessage", "ReceiveMessage", "DeleteMessage", "ChangeMessageVisibility", "GetQueueUrl", "GetQueueAttributes", "ListQueues",
}

// The router's environments killed eight times while 100 submissions come in,
// before and after what they ask of AWS: every submission is there, once, and
// is run once.
func TestRouterEnvironmentsKilledInTheMiddle(t *testing.T) {
	t.Parallel()
	s, ctx := newStage(t), deadline(t, 4*time.Minute)
	r := reaper{kill: s.router.Kill, blows: []blow{
		{"PutItem", false}, {"PutItem", true}, {"SendMessage", false}, {"SendMessage", true},
		{"PutItem", false}, {"PutItem", true}, {"SendMessage", false}, {"SendMessage", true},
	}}
	s.lambdas.set(r.fault)
	ids := s.submitAll(ctx, t, 100, 4)()
	s.lambdas.set(nil)
	if len(r.blows) > 0 {
		t.Errorf("%d blows did not fall", len(r.blows))
	}
	if listed := s.list(ctx, t); !slices.Equal(listed, ids) {
		t.Errorf("%d are listed: %v; want the %d that were submitted", len(listed), listed, len(ids))
	}
	a := s.worker(ctx, t, "a", 4)
	s.aMinuteLater(ctx, t) // for messages that went down with a router
	s.settledAtOnce(ctx, t, ids...)
	a.stop(ctx, t)
	s.check(ctx, t)
}

// A reaper kills at a request, before or after AWS has done what it asks for:
// at each eighth that is like the next of its blows. Nobody hears the answer.
type reaper struct {
	kill  func()
	blows []blow
	seen  int // requests like the next, since the last
}

type blow struct {
	operation string // PutItem is that of a promise
	after     bool
}

// fault is called under the line's lock.
func (r *reaper) fault(a ask, aws http.Handler) http.Handler {
	if len(r.blows) == 0 || a.operation != r.blows[0].operation || a.operation == "PutItem" && a.record == nil {
		return nil
	}
	if r.seen++; r.seen < 8 {
		return nil
	}
	next := r.blows[0]
	r.blows, r.seen = r.blows[1:], 0
	return http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		if next.after {
			aws.ServeHTTP(httptest.NewRecorder(), req)
		}
		r.kill()
		panic(http.ErrAbortHandler)
	})
}

// A worker from whom AWS is away for longer than a lease kills its script
// before the lease can be over. It runs again on a peer, or on the same worker
// when AWS is back, and no retry is spent.
func TestAWSAwayForLongerThanALease(t *testing.T) {
	t.Parallel()
	for name, forAll := range map[string]bool{"from a worker": false, "from all": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, ctx := newStage(t), deadline(t, 3*time.Minute)
			s.takeShortLeases()
			a := s.worker(ctx, t, "a", 1)
			call := s.leased("only", livesOnce, awsLease)
			call.Retry = once()
			id := s.submit(ctx, t, call)
			script := s.held(t, s.witness.saw(ctx, t, id, 1, "start").pid)
			a.line.set(away)
			if forAll {
				s.lambdas.set(away)
			}
			gone(t, script, 2*awsLease)
			lived, end := s.lived(t, id), s.record(ctx, t, id).Task.LeaseEnd
			if lived > end {
				t.Errorf("the script lived %s after the end of its lease", lived.Sub(end))
			}
			next := a
			if forAll {
				pass(ctx, t, a.child, time.Until(end.Add(promise.Skew).Std()))
				a.line.set(nil)
				s.lambdas.set(nil)
			} else {
				next = s.worker(ctx, t, "b", 1)
			}
			p := s.settled(ctx, t, id)
			if p.State != promise.Resolved.String() || len(p.Attempts) != 2 || p.Attempts[1].Worker != next.name {
				t.Errorf("it is %s after %+v, want resolved after 2, the second by %s", p.State, p.Attempts, next.name)
			}
			if rec := s.record(ctx, t, id); rec.Retries != 0 {
				t.Errorf("%d retries were spent, want none", rec.Retries)
			}
			a.line.set(nil)
			a.stop(ctx, t)
			if next != a {
				next.stop(ctx, t)
			}
			s.check(ctx, t)
		})
	}
}

// livesOnce is a script whose first attempt never ends by itself, and says when
// it was alive: when its test hears of its death is another matter on a busy
// machine.
const livesOnce = `
while ATTEMPT == 1:
    note("alive %d" % (time.time() * 1000))
    time.sleep(0.02)
note("end")
print("the end of attempt", ATTEMPT)
`

// lived returns when the first attempt of id, which is gone, was last alive.
func (s *scene) lived(t *testing.T, id string) (at promise.Time) {
	t.Helper()
	text, err := os.ReadFile(s.witness.path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		e, err := parseEntry(strings.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		if ms, is := strings.CutPrefix(e.what, "alive "); is && e.id == id && e.attempt == 1 {
			n, err := strconv.ParseInt(ms, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			at = promise.Time(n)
		}
	}
	if at == 0 {
		t.Fatalf("the script of %s never said that it was alive", id)
	}
	return at
}

// Scripts that end while AWS is away for less than a lease are settled late,
// once.
func TestAWSAwayForLessThanALease(t *testing.T) {
	t.Parallel()
	s, ctx := newStage(t), deadline(t, 3*time.Minute)
	a := s.worker(ctx, t, "a", 4)
	g := newGate(t)
	var ids []string
	for _, name := range []string{"1", "2", "3", "4"} {
		call := s.call(name, "gate(\""+g.path+"\")\nnote(\"end\")\n")
		call.LeaseMS = nil
		ids = append(ids, s.submit(ctx, t, call))
	}
	for _, id := range ids {
		s.witness.saw(ctx, t, id, 1, "start")
	}
	a.line.set(away)
	g.open(t)
	for _, id := range ids {
		s.witness.saw(ctx, t, id, 1, "end")
	}
	a.says(ctx, t, "the store does not answer")
	pass(ctx, t, a.child, 2*time.Second)
	a.shows(t, http.StatusServiceUnavailable, "the store has not answered for ")
	a.line.set(nil)
	s.settledAtOnce(ctx, t, ids...)
	a.stop(ctx, t)
	s.check(ctx, t)
}
