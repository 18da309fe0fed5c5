package dynamostore

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"modulate/internal/promise"
	"modulate/internal/store"
)

// searched is the most bytes that a search reads, in pages of 1 MB (DynamoDB's
// limit for one): a hundred cost about 2 cents in us-east-1, and some seconds.
const searched = 100

// Search is that of [store.Searcher]. No index holds all promises in the order
// of their ids, for every write would be billed for it: the table is read. A
// worker's entry and others that are no promises have no rev.
func (s *Store) Search(ctx context.Context, after string, limit int) ([]promise.Record, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	in := &dynamodb.ScanInput{
		TableName: &s.Table, ConsistentRead: new(true),
		FilterExpression:          new("i > :after AND attribute_exists(v)"),
		ExpressionAttributeValues: item{":after": str(after + " ")}, // no id holds a space, and an empty string is no value
	}
	var found []item
	for range searched {
		out, err := s.db.Scan(ctx, in)
		if err != nil {
			return nil, s.ours(ctx, "searching", err)
		}
		found = append(found, out.Items...)
		slices.SortFunc(found, func(a, b item) int { return strings.Compare(text(a["i"]), text(b["i"])) })
		found = found[:min(len(found), max(limit, 0))]
		if out.LastEvaluatedKey == nil {
			return decodeAll(found)
		}
		in.ExclusiveStartKey = out.LastEvaluatedKey
	}
	return nil, fmt.Errorf("%w: table %s holds more than %d MB", store.ErrTooMany, s.Table, searched)
}

func decodeAll(found []item) (recs []promise.Record, err error) {
	for _, it := range found {
		rec, err := decode(it)
		if err != nil {
			return nil, err
		}
		recs = append(recs, rec)
	}
	return recs, nil
}
