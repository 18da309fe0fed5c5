package emulator

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	dynamotypes "github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
)

var named atomic.Int64

// name is like no other's: a stage, and what a stage's resources start with.
func name() string { return fmt.Sprintf("t%dx%d", os.Getpid(), named.Add(1)) }

// Table makes a table by the schema that package dynamostore documents, as the
// template does, and returns its name.
func Table(t testing.TB, client *dynamodb.Client) string {
	t.Helper()
	table := "modulate-" + name()
	makeTable(t, client, table)
	return table
}

func makeTable(t testing.TB, client *dynamodb.Client, table string) {
	t.Helper()
	keys := func(partition, sort string) []dynamotypes.KeySchemaElement {
		return []dynamotypes.KeySchemaElement{
			{AttributeName: &partition, KeyType: dynamotypes.KeyTypeHash},
			{AttributeName: &sort, KeyType: dynamotypes.KeyTypeRange},
		}
	}
	in := &dynamodb.CreateTableInput{
		TableName: &table, BillingMode: dynamotypes.BillingModePayPerRequest, KeySchema: keys("p", "i"),
	}
	for attribute := range strings.SplitSeq("pidtlc", "") {
		in.AttributeDefinitions = append(in.AttributeDefinitions, dynamotypes.AttributeDefinition{
			AttributeName: &attribute, AttributeType: dynamotypes.ScalarAttributeTypeS,
		})
	}
	for index, schema := range map[string][]dynamotypes.KeySchemaElement{"due": keys("d", "t"), "list": keys("l", "c")} {
		in.GlobalSecondaryIndexes = append(in.GlobalSecondaryIndexes, dynamotypes.GlobalSecondaryIndex{
			IndexName: aws.String(index), KeySchema: schema,
			Projection: &dynamotypes.Projection{ProjectionType: dynamotypes.ProjectionTypeKeysOnly},
		})
	}
	if _, err := client.CreateTable(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := client.DeleteTable(context.Background(), &dynamodb.DeleteTableInput{TableName: &table}); err != nil {
			t.Error(err)
		}
	})
}

// Stage makes a table, queues and a bucket under the names that a stage gives
// them, and returns the stage and the bucket.
func Stage(t testing.TB, cfg aws.Config, machines ...string) (stage, bucket string) {
	t.Helper()
	stage = Queues(t, sqs.NewFromConfig(cfg), machines...)
	makeTable(t, dynamodb.NewFromConfig(cfg), "modulate-"+stage)
	bucket = Bucket(t, s3.NewFromConfig(cfg, func(o *s3.Options) { o.UsePathStyle = true }))
	return stage, bucket
}

// Queues makes the queues of machines, those of other programs there, and those
// of their dead letters, in a stage of their own, and returns the stage.
func Queues(t testing.TB, client *sqs.Client, machines ...string) (stage string) {
	t.Helper()
	stage = name()
	for _, machine := range machines {
		for _, prefix := range []string{"modulate-", "modulate-sdk-", "modulate-dlq-"} {
			in := &sqs.CreateQueueInput{QueueName: aws.String(prefix + stage + "-" + machine)}
			if _, err := client.CreateQueue(t.Context(), in); err != nil {
				t.Fatal(err)
			}
		}
	}
	return stage
}

// Bucket makes a bucket and returns its name.
func Bucket(t testing.TB, client *s3.Client) string {
	t.Helper()
	bucket := "modulate-" + name()
	if _, err := client.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &bucket}); err != nil {
		t.Fatal(err)
	}
	return bucket
}
