// Package sqsqueue is the queue port on Amazon SQS. Each machine of a stage has
// three standard queues, found by their names:
//
//	modulate-<stage>-<machine>       the messages
//	modulate-sdk-<stage>-<machine>   those of tasks of other programs (promise.SDKQueue)
//	modulate-dlq-<stage>-<machine>   the dead letters
//
// They belong to the machine's stack (infra/machine.yaml); nothing here makes,
// changes or removes a queue. A stage holds no "-" and is neither dlq nor sdk,
// so no queue can be taken for one of another stage or purpose.
//
// SQS counts in whole seconds: every time is rounded up.
package sqsqueue

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/smithy-go"

	"modulate/internal/promise"
	"modulate/internal/queue"
)

// answerTime is how long an answer to a receive may take beyond its wait.
const answerTime = 10 * time.Second

// Queue implements [queue.Queue] on the queues of one stage.
type Queue struct {
	client *sqs.Client
	stage  string
	urls   sync.Map // from the name of a queue to its URL, while it is known to exist
}

var _ queue.Queue = (*Queue)(nil)

// New returns the queues of a stage.
func New(client *sqs.Client, stage string) *Queue { return &Queue{client: client, stage: stage} }

// Send implements [queue.Queue].
func (q *Queue) Send(ctx context.Context, machine string, body []byte, delay time.Duration) error {
	if err := queue.CheckSend(delay); err != nil {
		return err
	}
	return q.send(ctx, q.name(machine), body, delay)
}

// Receive implements [queue.Queue]; it hides for a second at least. SQS does
// not notice that a caller who waits is gone: it gives its next message to
// nobody, and nobody sees it until hide is over. So a receive is heard to its
// end, and what comes after that of ctx is made visible again.
//
// A process that ends sooner, up to MaxWait after its last receive, may leave a
// message hidden so. Waiting for that here would make each stop of an idle
// worker longer by as much, and a wait of a second or two would save a tenth:
// the message is a hint, and the sweep sends another, a minute or two later.
func (q *Queue) Receive(ctx context.Context, machine string, limit int, hide, wait time.Duration) ([]queue.Delivery, error) {
	if err := queue.CheckReceive(limit, hide, wait); err != nil {
		return nil, err
	}
	var got []queue.Delivery
	err := q.with(ctx, "receiving from", q.name(machine), func(url *string) (err error) {
		got, err = q.receive(ctx, &sqs.ReceiveMessageInput{
			QueueUrl:            url,
			MaxNumberOfMessages: int32(limit),
			VisibilityTimeout:   max(1, seconds(hide)), // the SDK leaves out a zero, and SQS then takes the queue's own
			WaitTimeSeconds:     seconds(wait),
			MessageSystemAttributeNames: []types.MessageSystemAttributeName{
				types.MessageSystemAttributeNameApproximateReceiveCount,
				types.MessageSystemAttributeNameSentTimestamp,
			},
		})
		return err
	})
	return got, err
}

// Extend implements [queue.Queue]. SQS refuses what would hide a message for
// more than 12 hours from its receive: ErrReceipt.
func (q *Queue) Extend(ctx context.Context, machine, receipt string, hide time.Duration) error {
	if err := queue.CheckHide(hide); err != nil {
		return err
	}
	return q.with(ctx, "extending a message of", q.name(machine), func(url *string) error {
		return q.extend(ctx, url, receipt, hide)
	})
}

// Delete implements [queue.Queue]. SQS does not say whether a message is gone
// or was only received again: nil for both.
func (q *Queue) Delete(ctx context.Context, machine, receipt string) error {
	err := q.with(ctx, "deleting a message of", q.name(machine), func(url *string) error {
		_, err := q.client.DeleteMessage(ctx, &sqs.DeleteMessageInput{QueueUrl: url, ReceiptHandle: &receipt})
		return err
	})
	if errors.Is(err, queue.ErrReceipt) {
		return nil
	}
	return err
}

// Bury implements [queue.Queue]: a crash in between leaves two messages, never
// none.
func (q *Queue) Bury(ctx context.Context, machine string, d queue.Delivery) error {
	if err := q.send(ctx, q.deadName(machine), d.Body, 0); err != nil {
		return err
	}
	return q.Delete(ctx, machine, d.Receipt)
}

// Depth implements [queue.Queue].
func (q *Queue) Depth(ctx context.Context, machine string) (queue.Depth, error) {
	live, err := q.attributes(ctx, q.name(machine))
	if err != nil {
		return queue.Depth{}, err
	}
	dead, err := q.attributes(ctx, q.deadName(machine))
	if err != nil {
		return queue.Depth{}, err
	}
	count := func(attributes map[string]string, name types.QueueAttributeName) int {
		return int(number(attributes, string(name)))
	}
	return queue.Depth{
		Visible:  count(live, types.QueueAttributeNameApproximateNumberOfMessages),
		InFlight: count(live, types.QueueAttributeNameApproximateNumberOfMessagesNotVisible),
		Delayed:  count(live, types.QueueAttributeNameApproximateNumberOfMessagesDelayed),
		Dead:     count(dead, types.QueueAttributeNameApproximateNumberOfMessages),
	}, nil
}

// Find returns nil where the machine has a queue, and looks no further.
// ErrNoQueue.
func (q *Queue) Find(ctx context.Context, machine string) error {
	return q.with(ctx, "finding", q.name(machine), func(*string) error { return nil })
}

// Machines implements [queue.Queue].
func (q *Queue) Machines(ctx context.Context) ([]string, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	prefix := q.name("")
	pages := sqs.NewListQueuesPaginator(q.client, &sqs.ListQueuesInput{
		QueueNamePrefix: &prefix, MaxResults: aws.Int32(1000), // without a maximum SQS gives one page only
	})
	var machines []string
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, q.explain(ctx, "listing queues", prefix+"*", err)
		}
		for _, url := range page.QueueUrls {
			if machine := strings.TrimPrefix(path.Base(url), prefix); promise.ValidMachine(machine) {
				machines = append(machines, machine)
			}
		}
	}
	slices.Sort(machines)
	return machines, nil
}

// name is the name of the queue of a machine, or of a group of other programs.
func (q *Queue) name(machine string) string {
	if group, ok := strings.CutPrefix(machine, promise.SDKQueue); ok {
		return "modulate-sdk-" + q.stage + "-" + group
	}
	return "modulate-" + q.stage + "-" + machine
}

// deadName is the name of its dead letters; a group shares those of the machine.
func (q *Queue) deadName(machine string) string {
	return "modulate-dlq-" + q.stage + "-" + strings.TrimPrefix(machine, promise.SDKQueue)
}

// with calls f with the URL of a queue and explains what it returns. A queue
// that is gone is forgotten, so that the next call looks for one of that name.
func (q *Queue) with(ctx context.Context, doing, name string, f func(url *string) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	known, ok := q.urls.Load(name)
	if !ok {
		found, err := q.client.GetQueueUrl(ctx, &sqs.GetQueueUrlInput{QueueName: &name})
		if err != nil {
			return q.explain(ctx, "finding queue", name, err)
		}
		known, _ = q.urls.LoadOrStore(name, found.QueueUrl)
	}
	err := q.explain(ctx, doing, name, f(known.(*string)))
	if errors.Is(err, queue.ErrNoQueue) {
		q.urls.Delete(name)
	}
	return err
}

func (q *Queue) send(ctx context.Context, name string, body []byte, delay time.Duration) error {
	return q.with(ctx, "sending to", name, func(url *string) error {
		_, err := q.client.SendMessage(ctx, &sqs.SendMessageInput{
			QueueUrl: url, MessageBody: aws.String(string(body)), DelaySeconds: seconds(delay),
		})
		return err
	})
}

// receive makes one receive and hears it to its end.
func (q *Queue) receive(ctx context.Context, in *sqs.ReceiveMessageInput) ([]queue.Delivery, error) {
	type answer struct {
		got []queue.Delivery
		err error
	}
	answers := make(chan answer)
	go func() {
		within := time.Duration(in.WaitTimeSeconds)*time.Second + answerTime
		whole, cancel := context.WithTimeout(context.WithoutCancel(ctx), within)
		defer cancel()
		out, err := q.client.ReceiveMessage(whole, in)
		got := deliveries(out)
		select {
		case answers <- answer{got, err}:
		case <-ctx.Done():
			for _, d := range got {
				q.extend(whole, in.QueueUrl, d.Receipt, 0) // else it waits until hide is over
			}
		}
	}()
	select {
	case a := <-answers:
		return a.got, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (q *Queue) extend(ctx context.Context, url *string, receipt string, hide time.Duration) error {
	_, err := q.client.ChangeMessageVisibility(ctx, &sqs.ChangeMessageVisibilityInput{
		QueueUrl: url, ReceiptHandle: &receipt, VisibilityTimeout: seconds(hide),
	})
	return err
}

func (q *Queue) attributes(ctx context.Context, name string) (found map[string]string, err error) {
	err = q.with(ctx, "counting the messages of", name, func(url *string) error {
		out, err := q.client.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{
			QueueUrl: url,
			AttributeNames: []types.QueueAttributeName{
				types.QueueAttributeNameApproximateNumberOfMessages,
				types.QueueAttributeNameApproximateNumberOfMessagesNotVisible,
				types.QueueAttributeNameApproximateNumberOfMessagesDelayed,
			},
		})
		if err == nil {
			found = out.Attributes
		}
		return err
	})
	return found, err
}

// explain turns what SQS says about a queue into the port's errors, and what
// an operator can mend into words.
func (q *Queue) explain(ctx context.Context, doing, name string, err error) error {
	var api smithy.APIError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case !errors.As(err, &api):
		return fmt.Errorf("%s %s: %w", doing, name, err)
	}
	code := api.ErrorCode() // AWS.SimpleQueueService.NonExistentQueue, com.amazonaws.sqs#QueueDoesNotExist, InvalidSecurity
	switch code[strings.LastIndexAny(code, ".#")+1:] {
	case "QueueDoesNotExist", "NonExistentQueue":
		return fmt.Errorf("%w: SQS in %s has no %s; deploy the machine's stack (infra/machine.yaml)",
			queue.ErrNoQueue, q.client.Options().Region, name)
	case "ReceiptHandleIsInvalid", "MessageNotInflight", "InvalidParameterValue", "MissingParameter": // all that is left to be wrong is the receipt
		return fmt.Errorf("%s %s: %w: %s", doing, name, queue.ErrReceipt, api.ErrorMessage())
	case "RequestThrottled", "ThrottlingException", "Throttling":
		return fmt.Errorf("%s %s: %w: %w", doing, name, queue.ErrThrottled, err)
	case "AccessDenied", "AccessDeniedException":
		return fmt.Errorf("%s %s: %w: access denied; the role of this program must allow it on that queue: %w",
			doing, name, queue.ErrDeployment, err)
	}
	return fmt.Errorf("%s %s: %w", doing, name, err)
}

func deliveries(out *sqs.ReceiveMessageOutput) []queue.Delivery {
	if out == nil {
		return nil
	}
	var got []queue.Delivery
	for _, m := range out.Messages {
		got = append(got, queue.Delivery{
			Body:     []byte(aws.ToString(m.Body)),
			Receipt:  aws.ToString(m.ReceiptHandle),
			Receives: int(number(m.Attributes, string(types.MessageSystemAttributeNameApproximateReceiveCount))),
			SentAt:   promise.Time(number(m.Attributes, string(types.MessageSystemAttributeNameSentTimestamp))),
		})
	}
	return got
}

// number reads an attribute; 0 where SQS leaves it out.
func number(attributes map[string]string, name string) int64 {
	n, _ := strconv.ParseInt(attributes[name], 10, 64)
	return n
}

// seconds rounds up.
func seconds(d time.Duration) int32 { return int32((d + time.Second - 1) / time.Second) }
