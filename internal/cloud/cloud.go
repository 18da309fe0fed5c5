// Package cloud opens a stage of an AWS account as a deployment of Modulate, as
// package local opens a directory: what the Lambda functions and `workerd
// --stage` stand on. The stage's stacks (template.yaml, infra/machine.yaml) have
// made everything; nothing is made or removed here.
//
//	modulate-STAGE                    the table: promises, roster, small blobs
//	modulate-STAGE-ACCOUNT-REGION     the bucket: scripts, inputs, large outputs
//	modulate-STAGE-MACHINE            a queue for each machine, one for its dead letters
package cloud

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"modulate/internal/account"
	"modulate/internal/api"
	"modulate/internal/blob"
	"modulate/internal/blob/dynamoblob"
	"modulate/internal/blob/s3blob"
	"modulate/internal/engine"
	"modulate/internal/queue/sqsqueue"
	"modulate/internal/store/dynamostore"
)

// What holds for every stage. The sweep comes once a minute and looks as far
// ahead: what is to happen sooner after a write than MinLease must not hang on
// it, so no lease is shorter, and a nearer deadline has a message of its own.
const (
	Lease     = 120 * time.Second // of a call that names none
	MinLease  = 90 * time.Second
	Retention = 30 * 24 * time.Hour // of a settled promise
	// LogGap is how long output that nobody follows is held back: a put to S3
	// costs as much as 80 questions whether somebody does
	// (aws.amazon.com/s3/pricing, aws.amazon.com/dynamodb/pricing).
	LogGap = 15 * time.Second
)

// blobRetention is how long blobs are kept, in the table as by the bucket's
// lifecycle (template.yaml): twice the longest life of a promise and the
// retention after it, so that they outlive whatever names them.
const blobRetention = 2 * (api.MaxDeadline + Retention)

// blobCache is how many bytes of scripts and inputs a process remembers.
const blobCache = 16 << 20

// Config says which stage to open.
type Config struct {
	Stage  string
	Table  string       // "": modulate-STAGE
	Bucket string       // "": modulate-STAGE-ACCOUNT-REGION; AWS is asked for the account
	AWS    aws.Config   // region, credentials and, for an emulator, its BaseEndpoint
	Log    *slog.Logger // nil: discarded
}

// Cloud is an open stage. Its fields are not changed.
type Cloud struct {
	Stage, Table, Bucket string

	Store  *dynamostore.Store
	Queue  *sqsqueue.Queue
	Blobs  blob.Blobs
	Engine *engine.Engine

	region string
	s3     *s3.Client
}

// Open opens a stage. It asks AWS for nothing but the account, where that is
// not known: what is not there is found by who needs it, or by Check.
func Open(ctx context.Context, cfg Config) (*Cloud, error) {
	if !account.ValidStage(cfg.Stage) {
		return nil, fmt.Errorf("stage %q: want a lower-case letter, then at most 15 of a-z and 0-9, and neither dlq nor sdk", cfg.Stage)
	}
	if cfg.AWS.Region == "" {
		return nil, errors.New("no AWS region is set: set AWS_REGION, such as AWS_REGION=us-east-1")
	}
	c := &Cloud{Stage: cfg.Stage, Table: cmp.Or(cfg.Table, "modulate-"+cfg.Stage), Bucket: cfg.Bucket, region: cfg.AWS.Region}
	if c.Bucket == "" {
		who, err := sts.NewFromConfig(cfg.AWS).GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
		if err != nil {
			return nil, fmt.Errorf("asking which account it is: %w", err)
		}
		c.Bucket = fmt.Sprintf("modulate-%s-%s-%s", cfg.Stage, aws.ToString(who.Account), cfg.AWS.Region)
	}
	table := dynamodb.NewFromConfig(cfg.AWS)
	c.s3 = s3.NewFromConfig(cfg.AWS, func(o *s3.Options) {
		o.UsePathStyle = cfg.AWS.BaseEndpoint != nil // an emulator has no name for each bucket
	})
	c.Store = dynamostore.New(table, dynamostore.Config{Table: c.Table, Retention: Retention})
	c.Queue = sqsqueue.New(sqs.NewFromConfig(cfg.AWS), c.Stage)
	c.Blobs = blob.NewCache(blob.BySize{
		Small: dynamoblob.New(table, c.Table, blobRetention), Large: s3blob.New(c.s3, c.Bucket), Uploads: true,
	}, blobCache)
	c.Engine = &engine.Engine{Store: c.Store, Queue: c.Queue, Blobs: c.Blobs, Log: cfg.Log, Alarm: MinLease}
	return c, nil
}
