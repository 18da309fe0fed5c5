package sqsqueue_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"modulate/internal/emulator"
	"modulate/internal/queue"
	"modulate/internal/queue/sqsqueue"
)

// counted counts the requests that were granted, by what they ask for.
type counted struct {
	aws.HTTPClient
	mu    sync.Mutex
	calls map[string]int
}

func (c *counted) Do(req *http.Request) (*http.Response, error) {
	_, call, _ := strings.Cut(req.Header.Get("X-Amz-Target"), ".")
	res, err := c.HTTPClient.Do(req)
	if err == nil && res.StatusCode == http.StatusOK {
		c.mu.Lock()
		c.calls[call]++
		c.mu.Unlock()
	}
	return res, err
}

func TestAQueueDeletedAndMadeAgain(t *testing.T) {
	for name, endpoint := range emulators {
		t.Run(name, func(t *testing.T) {
			cfg := emulator.Config(t, endpoint(t))
			client := sqs.NewFromConfig(cfg)
			stage := deploy(t, client, "cpu")
			wire := &counted{HTTPClient: cfg.HTTPClient, calls: map[string]int{}}
			cfg.HTTPClient = wire
			q := sqsqueue.New(sqs.NewFromConfig(cfg), stage)
			for range 3 {
				send(t, q, "lost")
			}
			if n := wire.calls["GetQueueUrl"]; n != 1 {
				t.Errorf("the queue was looked for %d times in 3 calls, want once", n)
			}
			lost := receive(t, q)

			url := create(t, client, "modulate-"+stage+"-cpu") // it is there: its URL
			if _, err := client.DeleteQueue(t.Context(), &sqs.DeleteQueueInput{QueueUrl: url}); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				_, err := q.Receive(t.Context(), "cpu", 1, queue.MaxVisibility, 0)
				if !errors.Is(err, queue.ErrNoQueue) {
					t.Errorf("receiving from a deleted queue: %v, want ErrNoQueue", err)
				}
				if err := q.Send(t.Context(), "cpu", []byte("x"), 0); !errors.Is(err, queue.ErrNoQueue) {
					t.Errorf("sending to a deleted queue: %v, want ErrNoQueue", err)
				}
			}
			create(t, client, "modulate-"+stage+"-cpu")
			if err := q.Delete(t.Context(), "cpu", lost.Receipt); err != nil {
				t.Errorf("deleting a message of the queue before: %v", err)
			}
			send(t, q, "new")
			if d := receive(t, q); string(d.Body) != "new" {
				t.Errorf("received %q from the new queue", d.Body)
			}
		})
	}
}

func TestAPurgedQueueGoesOn(t *testing.T) {
	each(t, func(t *testing.T, client *sqs.Client) {
		stage := deploy(t, client, "cpu")
		q := sqsqueue.New(client, stage)
		send(t, q, "received")
		d := receive(t, q)
		send(t, q, "waiting")
		url := create(t, client, "modulate-"+stage+"-cpu")
		if _, err := client.PurgeQueue(t.Context(), &sqs.PurgeQueueInput{QueueUrl: url}); err != nil {
			t.Fatal(err)
		}
		if got, err := q.Receive(t.Context(), "cpu", 1, 0, 0); len(got) != 0 || err != nil {
			t.Errorf("received %d messages of a purged queue, %v", len(got), err)
		}
		if err := q.Extend(t.Context(), "cpu", d.Receipt, 0); err != nil && !errors.Is(err, queue.ErrReceipt) {
			t.Errorf("extending what was purged: %v", err)
		}
		if err := q.Delete(t.Context(), "cpu", d.Receipt); err != nil {
			t.Errorf("deleting what was purged: %v", err)
		}
		send(t, q, "new")
		if d := receive(t, q); string(d.Body) != "new" {
			t.Errorf("received %q", d.Body)
		}
	})
}

// said answers every request with the next of answers, the last one for ever,
// and keeps what it was asked: the call and its JSON.
type said struct {
	answers []answer
	asked   []string
}

type answer struct {
	status      int
	query, body string // x-amzn-query-error, as SQS sends it beside its JSON
}

func (s *said) Do(req *http.Request) (*http.Response, error) {
	asked, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	_, call, _ := strings.Cut(req.Header.Get("X-Amz-Target"), ".")
	s.asked = append(s.asked, call+" "+string(asked))
	a := s.answers[0]
	if len(s.answers) > 1 {
		s.answers = s.answers[1:]
	}
	header := http.Header{"Content-Type": {"application/x-amz-json-1.0"}}
	if a.query != "" {
		header.Set("X-Amzn-Query-Error", a.query)
	}
	return &http.Response{
		StatusCode: a.status, Header: header, Request: req,
		Body: io.NopCloser(bytes.NewReader([]byte(a.body))),
	}, nil
}

// stub returns the queues of stage dev, about which SQS says that.
func stub(t *testing.T, answers ...answer) (*sqsqueue.Queue, *said) {
	cfg := emulator.Config(t, "http://127.0.0.1:1")
	wire := &said{answers: answers}
	cfg.HTTPClient = wire
	cfg.Retryer = func() aws.Retryer { return aws.NopRetryer{} }
	return sqsqueue.New(sqs.NewFromConfig(cfg), "dev"), wire
}

func TestErrorsSayWhatToDo(t *testing.T) {
	denied := answer{403, "AccessDenied;Sender", `{"__type":"com.amazon.coral.service#AccessDeniedException",` +
		`"message":"User: arn:aws:sts::123456789012:assumed-role/w/i is not authorized to perform: sqs:receivemessage"}`}
	gone := answer{400, "AWS.SimpleQueueService.NonExistentQueue;Sender",
		`{"__type":"com.amazonaws.sqs#QueueDoesNotExist","message":"The specified queue does not exist."}`}
	expired := answer{403, "", `{"__type":"com.amazon.coral.service#ExpiredTokenException",` +
		`"message":"The security token included in the request is expired"}`}
	throttled := answer{403, "RequestThrottled;Sender", `{"__type":"com.amazonaws.sqs#RequestThrottled","message":"slow down"}`}
	for name, c := range map[string]struct {
		answers []answer
		is      error
		want    []string
	}{
		"no queue":           {[]answer{gone}, queue.ErrNoQueue, []string{"SQS in us-east-1", "modulate-dev-gpu", "infra/machine.yaml"}},
		"queue just deleted": {[]answer{found, gone}, queue.ErrNoQueue, []string{"modulate-dev-gpu"}},
		"access denied":      {[]answer{found, denied}, queue.ErrDeployment, []string{"receiving from modulate-dev-gpu", "access denied", "role", "sqs:receivemessage"}},
		"no right to look":   {[]answer{denied}, queue.ErrDeployment, []string{"finding queue modulate-dev-gpu", "access denied"}},
		"throttled":          {[]answer{found, throttled}, queue.ErrThrottled, []string{"receiving from modulate-dev-gpu", "slow down"}},
		"expired":            {[]answer{expired}, nil, []string{"modulate-dev-gpu", "expired"}},
	} {
		t.Run(name, func(t *testing.T) {
			q, _ := stub(t, c.answers...)
			_, err := q.Receive(t.Context(), "gpu", 1, 0, 0)
			if err == nil || c.is != nil && !errors.Is(err, c.is) {
				t.Fatalf("got %v, want %v", err, c.is)
			}
			for _, part := range c.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %q", err, part)
				}
			}
		})
	}
}

var found = answer{200, "", `{"QueueUrl":"https://sqs.us-east-1.amazonaws.com/123456789012/modulate-dev-cpu"}`}

// A queue is looked for once, and again when it is gone.
func TestAQueueIsLookedForAgain(t *testing.T) {
	gone := answer{400, "AWS.SimpleQueueService.NonExistentQueue;Sender", `{"__type":"com.amazonaws.sqs#QueueDoesNotExist"}`}
	sent := answer{200, "", `{"MessageId":"1","MD5OfMessageBody":"9dd4e461268c8034f5c8564e155c67a6"}`} // of "x"
	q, wire := stub(t, found, sent, sent, gone, found, sent)
	for i, want := range []error{nil, nil, queue.ErrNoQueue, nil} {
		if err := q.Send(t.Context(), "cpu", []byte("x"), 0); !errors.Is(err, want) {
			t.Errorf("send %d: got %v, want %v", i+1, err, want)
		}
	}
	var calls []string
	for _, asked := range wire.asked {
		call, _, _ := strings.Cut(asked, " ")
		calls = append(calls, call)
	}
	if want := []string{"GetQueueUrl", "SendMessage", "SendMessage", "SendMessage", "GetQueueUrl", "SendMessage"}; !slices.Equal(calls, want) {
		t.Errorf("asked for %q, want %q", calls, want)
	}
}

// No message is visible before its time.
func TestTimesAreRoundedUp(t *testing.T) {
	const bit = 1001 * time.Millisecond
	for want, call := range map[string]func(*sqsqueue.Queue) error{
		`"DelaySeconds":2`:      func(q *sqsqueue.Queue) error { return q.Send(t.Context(), "cpu", []byte("x"), bit) },
		`"VisibilityTimeout":2`: func(q *sqsqueue.Queue) error { return q.Extend(t.Context(), "cpu", "r", bit) },
		`"VisibilityTimeout":2,"WaitTimeSeconds":3`: func(q *sqsqueue.Queue) error {
			_, err := q.Receive(t.Context(), "cpu", 1, bit, 2*bit)
			return err
		},
	} {
		q, wire := stub(t, found, answer{200, "", "{}"})
		if err := call(q); err != nil || !strings.Contains(wire.asked[1], want) {
			t.Errorf("asked %q, want %s (%v)", wire.asked, want, err)
		}
	}
}

// SQS lists queues by pages, of all that begin like ours.
func TestMachinesReadsEveryPage(t *testing.T) {
	q, _ := stub(t,
		answer{200, "", `{"QueueUrls":["https://sqs/1/modulate-dev-gpu-a100","https://sqs/1/modulate-dev-x.fifo"],"NextToken":"more"}`},
		answer{200, "", `{"NextToken":"still more"}`},
		answer{200, "", `{"QueueUrls":["https://sqs/1/modulate-dev-cpu"]}`},
	)
	got, err := q.Machines(t.Context())
	if err != nil || !slices.Equal(got, []string{"cpu", "gpu-a100"}) {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestUnreachableNamesTheQueue(t *testing.T) {
	cfg := emulator.Config(t, "http://127.0.0.1:1") // nobody listens there
	cfg.Retryer = func() aws.Retryer { return aws.NopRetryer{} }
	q := sqsqueue.New(sqs.NewFromConfig(cfg), "dev")
	err := q.Send(t.Context(), "cpu", []byte("x"), 0)
	if err == nil || errors.Is(err, queue.ErrNoQueue) || !strings.Contains(err.Error(), "modulate-dev-cpu") {
		t.Errorf("got %v", err)
	}
}
