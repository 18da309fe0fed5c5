// Package dynamoblob is the port of blobs on the stage's DynamoDB table, where
// they lie beside the promises: it is for small ones, which cost less to write
// there ($0.625 a million for each KB) than to S3 ($5 a million). An item holds
// 400 KB at most (a limit of DynamoDB).
//
// # Keys
//
// Package dynamostore has the schema of the table; these items are of no index
// of its.
//
//	p                the kind and the id that the blob's key begins with, as
//	                 "log/<id>/": a prefix of keys is one Query, and no promise
//	                 has a partition with a "/"
//	i                the blob's key
//	b  binary        the content
//	n  number        its size in bytes: a listing does not read the content
//	w  number        when it was put or touched, in milliseconds since 1970
//	x  number        time to live, in seconds since 1970: w and the retention
package dynamoblob

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go"

	"modulate/internal/blob"
	"modulate/internal/promise"
)

// item is the attributes of an item, or some of them.
type item = map[string]types.AttributeValue

// Blobs implements [blob.Blobs] on a table.
type Blobs struct {
	client    *dynamodb.Client
	table     string
	retention time.Duration
}

var _ blob.Blobs = (*Blobs)(nil)

// New returns the blobs in a table, which keeps each for the retention after
// it was last put or touched.
func New(client *dynamodb.Client, table string, retention time.Duration) *Blobs {
	return &Blobs{client: client, table: table, retention: retention}
}

// Put implements [blob.Blobs].
func (b *Blobs) Put(ctx context.Context, key string, src io.Reader, size int64, sum promise.Hash) error {
	body, err := io.ReadAll(blob.Prove(src, size, sum))
	if err != nil {
		return fmt.Errorf("keeping %s: %w", key, err)
	}
	it := keyOf(key)
	it["b"] = &types.AttributeValueMemberB{Value: body}
	it["n"] = number(size)
	it["w"], it["x"] = b.age()
	_, err = b.client.PutItem(ctx, &dynamodb.PutItemInput{TableName: &b.table, Item: it})
	return b.explain("keeping", key, err)
}

// Get implements [blob.Blobs].
func (b *Blobs) Get(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	it, err := b.get(ctx, key, "b")
	if err != nil {
		return nil, err
	}
	body, _ := it["b"].(*types.AttributeValueMemberB) // every item has it
	return io.NopCloser(bytes.NewReader(body.Value[min(offset, int64(len(body.Value))):])), nil
}

// Stat implements [blob.Blobs].
func (b *Blobs) Stat(ctx context.Context, key string) (blob.Info, error) {
	it, err := b.get(ctx, key, "i, n, w")
	if err != nil {
		return blob.Info{}, err
	}
	return describe(it), nil
}

// List implements [blob.Blobs].
func (b *Blobs) List(ctx context.Context, prefix string) ([]blob.Info, error) {
	partition := partitionOf(prefix)
	if !strings.HasPrefix(prefix, partition) {
		return nil, fmt.Errorf("listing %q: a prefix holds a kind and an id, as log/<id>/ does", prefix)
	}
	pages := dynamodb.NewQueryPaginator(b.client, &dynamodb.QueryInput{
		TableName: &b.table, ConsistentRead: aws.Bool(true),
		KeyConditionExpression:    aws.String("p = :p AND begins_with(i, :i)"),
		ExpressionAttributeValues: item{":p": text(partition), ":i": text(prefix)},
		ProjectionExpression:      aws.String("i, n, w"),
	})
	var found []blob.Info
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, b.explain("listing", prefix, err)
		}
		for _, it := range page.Items {
			found = append(found, describe(it))
		}
	}
	return found, nil
}

// Touch implements [blob.Blobs].
func (b *Blobs) Touch(ctx context.Context, key string) error {
	written, expires := b.age()
	_, err := b.client.UpdateItem(ctx, &dynamodb.UpdateItemInput{
		TableName: &b.table, Key: keyOf(key),
		UpdateExpression:          aws.String("SET w = :w, x = :x"),
		ConditionExpression:       aws.String("attribute_exists(p)"),
		ExpressionAttributeValues: item{":w": written, ":x": expires},
	})
	return b.explain("refreshing", key, err)
}

// Sign implements [blob.Blobs]: items have no address.
func (b *Blobs) Sign(context.Context, string, blob.Info) (*http.Request, error) {
	return nil, blob.ErrNoURL
}

// Collect implements [blob.Blobs]. It removes nothing: the table's time to live
// does, for nothing.
func (b *Blobs) Collect(ctx context.Context, before promise.Time) (int, error) { return 0, ctx.Err() }

// get reads some attributes of the item of a key.
func (b *Blobs) get(ctx context.Context, key, attributes string) (item, error) {
	out, err := b.client.GetItem(ctx, &dynamodb.GetItemInput{
		TableName: &b.table, Key: keyOf(key), ConsistentRead: aws.Bool(true), ProjectionExpression: &attributes,
	})
	if err != nil {
		return nil, b.explain("reading", key, err)
	}
	if len(out.Item) == 0 {
		return nil, fmt.Errorf("%s: %w", key, blob.ErrNotFound)
	}
	return out.Item, nil
}

// age is w and x of what is put or touched now.
func (b *Blobs) age() (written, expires types.AttributeValue) {
	now := time.Now()
	return number(int64(promise.TimeOf(now))), number(now.Add(b.retention).Unix())
}

// explain turns what DynamoDB says about a key into the port's errors, and what
// an operator can mend into words.
func (b *Blobs) explain(doing, key string, err error) error {
	var api smithy.APIError
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &api):
		return fmt.Errorf("%s %s in the table %s: %w", doing, key, b.table, err)
	}
	switch api.ErrorCode() {
	case "ConditionalCheckFailedException": // the item is not there
		return fmt.Errorf("%s: %w", key, blob.ErrNotFound)
	case "ThrottlingException", "ProvisionedThroughputExceededException", "RequestLimitExceeded":
		return fmt.Errorf("%s %s in the table %s: %w: %w", doing, key, b.table, blob.ErrThrottled, err)
	case "ResourceNotFoundException":
		return fmt.Errorf("%s %s: %w: there is no table %s in %s; deploy the stage (template.yaml): %w",
			doing, key, blob.ErrDeployment, b.table, b.client.Options().Region, err)
	case "AccessDeniedException":
		return fmt.Errorf("%s %s: %w: access to the table %s is denied; the role of this program must allow it there: %w",
			doing, key, blob.ErrDeployment, b.table, err)
	}
	return fmt.Errorf("%s %s in the table %s: %w", doing, key, b.table, err)
}

// keyOf is the key of the item that holds the blob of a key.
func keyOf(key string) item { return item{"p": text(partitionOf(key)), "i": text(key)} }

// partitionOf is what a key holds up to its second "/", which it gets where it
// has none.
func partitionOf(key string) string {
	kind, rest, _ := strings.Cut(key, "/")
	id, _, _ := strings.Cut(rest, "/")
	return kind + "/" + id + "/"
}

func describe(it item) blob.Info {
	key, _ := it["i"].(*types.AttributeValueMemberS) // every item has it
	return blob.Info{
		Key: key.Value, Size: integer(it["n"]), SHA256: blob.ContentSum(key.Value), Written: promise.Time(integer(it["w"])),
	}
}

func text(s string) types.AttributeValue { return &types.AttributeValueMemberS{Value: s} }

func number(n int64) types.AttributeValue {
	return &types.AttributeValueMemberN{Value: strconv.FormatInt(n, 10)}
}

// integer reads what number wrote.
func integer(v types.AttributeValue) int64 {
	n, _ := v.(*types.AttributeValueMemberN)
	i, _ := strconv.ParseInt(n.Value, 10, 64)
	return i
}
