package dynamoblob_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"modulate/internal/blob"
	"modulate/internal/blob/blobtest"
	"modulate/internal/blob/dynamoblob"
	"modulate/internal/blob/s3blob"
	"modulate/internal/emulator"
	"modulate/internal/promise"
)

func TestMain(m *testing.M) { emulator.Main(m) }

// emulators are those that speak DynamoDB.
var emulators = map[string]func(testing.TB) string{"MiniStack": emulator.AWS, "DynamoDB Local": emulator.DynamoDB}

const retention = 24 * time.Hour

var tables atomic.Int64

// table makes an empty table of its own, with the keys of the stage's.
func table(t *testing.T, client *dynamodb.Client) string {
	t.Helper()
	name := fmt.Sprintf("modulate-t%d", tables.Add(1))
	text := types.ScalarAttributeTypeS
	_, err := client.CreateTable(t.Context(), &dynamodb.CreateTableInput{
		TableName: &name, BillingMode: types.BillingModePayPerRequest,
		AttributeDefinitions: []types.AttributeDefinition{
			{AttributeName: aws.String("p"), AttributeType: text}, {AttributeName: aws.String("i"), AttributeType: text},
		},
		KeySchema: []types.KeySchemaElement{
			{AttributeName: aws.String("p"), KeyType: types.KeyTypeHash}, {AttributeName: aws.String("i"), KeyType: types.KeyTypeRange},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func TestBlobs(t *testing.T) {
	for name, endpoint := range emulators {
		t.Run(name, func(t *testing.T) {
			client := dynamodb.NewFromConfig(emulator.Config(t, endpoint(t)))
			blobtest.RunOn(t, blobtest.Medium{Expires: true}, func(t *testing.T) blob.Blobs {
				return dynamoblob.New(client, table(t, client), retention)
			})
		})
	}
}

// On AWS the small blobs are here and the large ones in S3.
func TestBlobsBySize(t *testing.T) {
	cfg := emulator.Config(t, emulator.AWS(t))
	items, objects := dynamodb.NewFromConfig(cfg), s3.NewFromConfig(cfg)
	blobtest.RunOn(t, blobtest.Medium{Seconds: true, Expires: true}, func(t *testing.T) blob.Blobs {
		name := table(t, items)
		if _, err := objects.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &name}); err != nil {
			t.Fatal(err)
		}
		return blob.BySize{Small: dynamoblob.New(items, name, retention), Large: s3blob.New(objects, name), Uploads: true}
	})
}

// The table's time to live is the retention after the last put or touch.
func TestTimeToLive(t *testing.T) {
	client := dynamodb.NewFromConfig(emulator.Config(t, emulator.AWS(t)))
	name := table(t, client)
	b := dynamoblob.New(client, name, retention)
	key := blob.LogKey("p", 1, "stdout", 0)
	if err := b.Put(t.Context(), key, strings.NewReader("x"), 1, promise.Hash{}); err != nil {
		t.Fatal(err)
	}
	later := dynamoblob.New(client, name, 2*retention)
	for _, want := range []time.Duration{retention, 2 * retention} {
		out, err := client.GetItem(t.Context(), &dynamodb.GetItemInput{TableName: &name, Key: map[string]types.AttributeValue{
			"p": &types.AttributeValueMemberS{Value: "log/p/"}, "i": &types.AttributeValueMemberS{Value: key},
		}})
		if err != nil {
			t.Fatal(err)
		}
		x, ok := out.Item["x"].(*types.AttributeValueMemberN)
		info, err := b.Stat(t.Context(), key)
		if !ok || err != nil || x.Value != fmt.Sprint(info.Written.Std().Add(want).Unix()) {
			t.Errorf("x is %v, %v after %v", out.Item["x"], want, info.Written.Std())
		}
		if err := later.Touch(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
}
