package cloud

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"

	"modulate/internal/account"
	"modulate/internal/blob"
	"modulate/internal/queue"
	"modulate/internal/store"
)

// Check looks whether the stage is there: its table, its bucket, and the queue
// of machine unless that is "". What is missing is an [account.Trouble] that
// says what to deploy; other errors are those of the SDK. That AWS has no
// capacity for now is the error, [Throttled], only where it is all that is wrong.
func (c *Cloud) Check(ctx context.Context, machine string) error {
	var busy error
	for _, check := range []func(context.Context) error{
		c.checkTable, c.checkBucket, func(ctx context.Context) error { return c.checkQueue(ctx, machine) },
	} {
		switch err := check(ctx); {
		case Throttled(err):
			busy = err
		case err != nil:
			return err
		}
	}
	return busy
}

// Throttled reports whether err says that AWS has no capacity for now.
func Throttled(err error) bool {
	return errors.Is(err, store.ErrThrottled) || errors.Is(err, blob.ErrThrottled) || errors.Is(err, queue.ErrThrottled)
}

func (c *Cloud) checkTable(ctx context.Context) error {
	_, err := c.Store.Get(ctx, "check")
	var missing *types.ResourceNotFoundException
	switch {
	case err == nil, errors.Is(err, store.ErrNotFound):
		return nil
	case errors.As(err, &missing):
		return c.missing("table "+c.Table, c.deploy(), err)
	}
	return fmt.Errorf("looking at table %s: %w", c.Table, err)
}

// checkBucket looks by HEAD, whose answers have no body: their code is the name
// of their status.
func (c *Cloud) checkBucket(ctx context.Context) error {
	_, err := c.s3.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &c.Bucket})
	if err == nil {
		return nil
	}
	var answer smithy.APIError
	if errors.As(err, &answer) {
		switch answer.ErrorCode() {
		case "NotFound":
			return c.missing("bucket "+c.Bucket, c.deploy(), err)
		case "Forbidden":
			return &account.Trouble{
				Kind: account.ErrDenied, Text: "AWS denies access to the bucket " + c.Bucket, Err: err,
				Hint: "allow s3:ListBucket on it, as the worker's role in infra/machine.yaml does, or name the stage's own bucket",
			}
		case "MovedPermanently":
			return &account.Trouble{
				Kind: account.ErrRegion, Text: fmt.Sprintf("the bucket %s is not in %s", c.Bucket, c.region), Err: err,
				Hint: "set AWS_REGION to the region that the stage is in",
			}
		case "SlowDown", "ServiceUnavailable":
			return fmt.Errorf("looking at bucket %s: %w: %w", c.Bucket, blob.ErrThrottled, err)
		}
	}
	return fmt.Errorf("looking at bucket %s: %w", c.Bucket, err)
}

func (c *Cloud) checkQueue(ctx context.Context, machine string) error {
	if machine == "" {
		return nil
	}
	err := c.Queue.Find(ctx, machine)
	if errors.Is(err, queue.ErrNoQueue) {
		return c.missing("queue for machine "+machine+" of stage "+c.Stage, fmt.Sprintf("deploy the machine's stack (infra/machine.yaml) as modulate-%s-%s, or name a machine that has one", c.Stage, machine), err)
	}
	return err
}

func (c *Cloud) missing(what, hint string, err error) *account.Trouble {
	return &account.Trouble{Kind: account.ErrMissing, Text: fmt.Sprintf("there is no %s in %s", what, c.region), Hint: hint, Err: err}
}

func (c *Cloud) deploy() string {
	return fmt.Sprintf("deploy the stage with `sam build && sam deploy --config-env %s`, or set AWS_REGION and AWS_PROFILE to where it is", c.Stage)
}
