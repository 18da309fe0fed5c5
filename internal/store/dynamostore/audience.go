package dynamostore

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"modulate/internal/promise"
)

// Follow is that of [store.Audience].
func (s *Store) Follow(ctx context.Context, id string, until promise.Time) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	it := key("#followed", id)
	it["until"] = number(int64(until))
	it["x"] = seconds(until)
	return s.put(ctx, it)
}

// Followed is that of [store.Audience].
func (s *Store) Followed(ctx context.Context, id string) (promise.Time, error) {
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	out, err := s.db.GetItem(ctx, &dynamodb.GetItemInput{TableName: &s.Table, Key: key("#followed", id)})
	if err != nil {
		return 0, s.ours(ctx, "asking who follows "+id, err)
	}
	return promise.Time(integer(out.Item["until"])), nil
}
