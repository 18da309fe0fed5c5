package sqsqueue_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"modulate/internal/emulator"
	"modulate/internal/queue"
	"modulate/internal/queue/queuetest"
	"modulate/internal/queue/sqsqueue"
)

func TestMain(m *testing.M) { emulator.Main(m) }

// emulators are those that speak SQS.
var emulators = map[string]func(testing.TB) string{"MiniStack": emulator.AWS, "ElasticMQ": emulator.SQS}

// each runs test against each emulator.
func each(t *testing.T, test func(t *testing.T, client *sqs.Client)) {
	for name, endpoint := range emulators {
		t.Run(name, func(t *testing.T) {
			test(t, sqs.NewFromConfig(emulator.Config(t, endpoint(t))))
		})
	}
}

var stages atomic.Int64

// deploy makes the queues of machines in a stage of its own.
func deploy(t *testing.T, client *sqs.Client, machines ...string) (stage string) {
	t.Helper()
	stage = fmt.Sprintf("s%d", stages.Add(1))
	for _, machine := range machines {
		create(t, client, "modulate-"+stage+"-"+machine)
		create(t, client, "modulate-dlq-"+stage+"-"+machine)
	}
	return stage
}

func create(t *testing.T, client *sqs.Client, name string) (url *string) {
	t.Helper()
	out, err := client.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: &name})
	if err != nil {
		t.Fatal(err)
	}
	return out.QueueUrl
}

func TestQueue(t *testing.T) {
	each(t, func(t *testing.T, client *sqs.Client) {
		queuetest.RunSeconds(t, func(t *testing.T) queue.Queue {
			return sqsqueue.New(client, deploy(t, client, "cpu", "gpu"))
		})
	})
}

// receive receives the one message there is.
func receive(t *testing.T, q *sqsqueue.Queue) queue.Delivery {
	t.Helper()
	got, err := q.Receive(t.Context(), "cpu", 1, queue.MaxVisibility, queue.MaxWait)
	if err != nil || len(got) != 1 {
		t.Fatalf("received %d messages, %v", len(got), err)
	}
	return got[0]
}

func send(t *testing.T, q *sqsqueue.Queue, body string) {
	t.Helper()
	if err := q.Send(t.Context(), "cpu", []byte(body), 0); err != nil {
		t.Fatal(err)
	}
}

// Emulators, and documents of SQS, disagree about what a stale receipt still
// does. Whichever it is: the answer is advice, and the last receiver can end
// the message.
func TestAStaleReceiptIsHarmless(t *testing.T) {
	each(t, func(t *testing.T, client *sqs.Client) {
		q := sqsqueue.New(client, deploy(t, client, "cpu"))
		for name, call := range map[string]func(receipt string) error{
			"extended": func(receipt string) error { return q.Extend(t.Context(), "cpu", receipt, queue.MaxVisibility/2) },
			"shown":    func(receipt string) error { return q.Extend(t.Context(), "cpu", receipt, 0) },
			"deleted":  func(receipt string) error { return q.Delete(t.Context(), "cpu", receipt) },
		} {
			send(t, q, name)
			stale := receive(t, q)
			if err := q.Extend(t.Context(), "cpu", stale.Receipt, 0); err != nil {
				t.Fatal(err)
			}
			last := receive(t, q)
			err := call(stale.Receipt)
			t.Logf("%s under a stale receipt: %v", name, err)
			if err != nil && !errors.Is(err, queue.ErrReceipt) {
				t.Errorf("%s: got %v, want nil or ErrReceipt", name, err)
			}
			if err := q.Delete(t.Context(), "cpu", last.Receipt); err != nil && !errors.Is(err, queue.ErrReceipt) {
				t.Errorf("%s, then deleted by the last receiver: %v", name, err)
			}
			depth, err := q.Depth(t.Context(), "cpu")
			if err != nil || depth != (queue.Depth{}) {
				t.Errorf("%s, then deleted by the last receiver, and left are %+v, %v", name, depth, err)
			}
		}
	})
}

// A receive that is given up while SQS holds it takes the next message all the
// same; it must not stay hidden.
func TestAReceiveGivenUpKeepsNothing(t *testing.T) {
	for name, endpoint := range emulators {
		t.Run(name, func(t *testing.T) {
			cfg := emulator.Config(t, endpoint(t))
			stage := deploy(t, sqs.NewFromConfig(cfg), "cpu")
			q := sqsqueue.New(sqs.NewFromConfig(cfg), stage)

			wire := &wire{HTTPClient: cfg.HTTPClient, written: make(chan struct{}, 1)}
			cfg.HTTPClient = wire
			leaving := sqsqueue.New(sqs.NewFromConfig(cfg), stage)
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error)
			go func() {
				_, err := leaving.Receive(ctx, "cpu", 1, queue.MaxVisibility, queue.MaxWait)
				ended <- err
			}()
			<-wire.written
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("the receive ended with %v", err)
			}
			send(t, q, "a")
			if d := receive(t, q); string(d.Body) != "a" {
				t.Errorf("received %q", d.Body)
			}
		})
	}
}

// wire tells of a receive that was written to SQS.
type wire struct {
	aws.HTTPClient
	written chan struct{}
}

func (w *wire) Do(req *http.Request) (*http.Response, error) {
	if req.Header.Get("X-Amz-Target") == "AmazonSQS.ReceiveMessage" {
		req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
			WroteRequest: func(httptrace.WroteRequestInfo) { w.written <- struct{}{} },
		}))
	}
	return w.HTTPClient.Do(req)
}
