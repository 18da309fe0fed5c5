package cloud

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"modulate/internal/account"
	"modulate/internal/store"
)

// Check looks whether the stage is there: its table, its bucket, and the queue
// of machine unless that is "". What is missing is an [account.Trouble] that
// says what to deploy; other errors are those of the SDK.
func (c *Cloud) Check(ctx context.Context, machine string) error {
	return errors.Join(c.checkTable(ctx), c.checkBucket(ctx), c.checkQueue(ctx, machine))
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

// checkBucket takes a bucket for there that it may not look at.
func (c *Cloud) checkBucket(ctx context.Context) error {
	_, err := c.s3.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &c.Bucket})
	var missing *s3types.NotFound
	if errors.As(err, &missing) {
		return c.missing("bucket "+c.Bucket, c.deploy(), err)
	}
	return nil
}

func (c *Cloud) checkQueue(ctx context.Context, machine string) error {
	if machine == "" {
		return nil
	}
	name := "modulate-" + c.Stage + "-" + machine
	_, err := c.sqs.GetQueueUrl(ctx, &sqs.GetQueueUrlInput{QueueName: &name})
	var missing *sqstypes.QueueDoesNotExist
	switch {
	case err == nil:
		return nil
	case errors.As(err, &missing):
		return c.missing("queue "+name, fmt.Sprintf("deploy the machine's stack (infra/machine.yaml) as modulate-%s-%s, or name a machine that has one", c.Stage, machine), err)
	}
	return fmt.Errorf("looking for queue %s: %w", name, err)
}

func (c *Cloud) missing(what, hint string, err error) *account.Trouble {
	return &account.Trouble{Kind: account.ErrMissing, Text: fmt.Sprintf("there is no %s in %s", what, c.region), Hint: hint, Err: err}
}

func (c *Cloud) deploy() string {
	return fmt.Sprintf("deploy the stage with `sam build && sam deploy --config-env %s`, or set AWS_REGION and AWS_PROFILE to where it is", c.Stage)
}
