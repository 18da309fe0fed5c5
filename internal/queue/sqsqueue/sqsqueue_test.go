package sqsqueue_test

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

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
