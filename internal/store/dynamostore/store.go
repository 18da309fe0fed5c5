package dynamostore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"modulate/internal/promise"
	"modulate/internal/store"
)

// Config says where a stage keeps its promises, and for how long.
type Config struct {
	Table string
	// Retention is how long a settled promise is kept; 0: for ever. The table
	// may keep it for days more.
	Retention time.Duration
}

// Store is a [store.Store], [store.Roster] and [store.Audience] over a table.
type Store struct {
	Config
	db    *dynamodb.Client
	known sync.Map // the keys that remember has written
}

var (
	_ store.Store    = (*Store)(nil)
	_ store.Roster   = (*Store)(nil)
	_ store.Audience = (*Store)(nil)
	_ store.Searcher = (*Store)(nil)
)

// New returns the store in c's table, which must be there.
func New(client *dynamodb.Client, c Config) *Store { return &Store{Config: c, db: client} }

// Create is that of [store.Store].
func (s *Store) Create(ctx context.Context, rec promise.Record) error {
	if rec.Rev != 1 {
		return fmt.Errorf("creating %s: its rev is %d, not 1", rec.ID, rec.Rev)
	}
	return s.ReplaceAll(ctx, []store.Write{{Record: rec}})
}

// Get is that of [store.Store].
func (s *Store) Get(ctx context.Context, id string) (promise.Record, error) {
	if ctx.Err() != nil {
		return promise.Record{}, context.Cause(ctx)
	}
	out, err := s.db.GetItem(ctx, &dynamodb.GetItemInput{
		TableName: &s.Table, Key: key(partition(id), id), ConsistentRead: new(true),
	})
	if err != nil {
		return promise.Record{}, s.ours(ctx, "reading "+id, err)
	}
	if out.Item == nil {
		return promise.Record{}, store.ErrNotFound
	}
	return decode(out.Item)
}

// Replace is that of [store.Store].
func (s *Store) Replace(ctx context.Context, next promise.Record) error {
	if next.Rev < 2 {
		return fmt.Errorf("replacing %s: its rev is %d, below 2", next.ID, next.Rev)
	}
	return s.ReplaceAll(ctx, []store.Write{{Record: next}})
}

// ReplaceAll is that of [store.Store]. One write is a put; several are a
// transaction, which is billed twice.
func (s *Store) ReplaceAll(ctx context.Context, writes []store.Write) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if len(writes) == 0 {
		return nil
	}
	if err := store.CheckWrites(writes); err != nil {
		return err
	}
	actions, bytes := make([]types.TransactWriteItem, len(writes)), 0
	for n, w := range writes {
		action, weight, err := s.action(w)
		if err != nil {
			return err
		}
		actions[n], bytes = action, bytes+weight
	}
	if bytes > maxTogether {
		return fmt.Errorf("%w: they have %d bytes, and a transaction of DynamoDB at most %d", store.ErrTooLarge, bytes, maxTogether)
	}
	for _, w := range writes {
		if !w.Check && w.Record.Rev == 1 {
			if err := s.remember(ctx, "#listed", w.Record.Machine); err != nil {
				return err
			}
		}
	}
	doing := "writing " + writes[0].Record.ID
	if put := actions[0].Put; put != nil && len(actions) == 1 {
		return s.write(ctx, doing, func(option func(*dynamodb.Options)) error {
			_, err := s.db.PutItem(ctx, &dynamodb.PutItemInput{
				TableName: put.TableName, Item: put.Item,
				ConditionExpression: put.ConditionExpression, ExpressionAttributeValues: put.ExpressionAttributeValues,
				ReturnValuesOnConditionCheckFailure: put.ReturnValuesOnConditionCheckFailure,
			}, option)
			return err
		})
	}
	return s.write(ctx, doing, func(option func(*dynamodb.Options)) error {
		// The SDK gives a transaction a token, the same when it sends it again.
		_, err := s.db.TransactWriteItems(ctx, &dynamodb.TransactWriteItemsInput{TransactItems: actions}, option)
		return err
	})
}

// action is a write as a part of a transaction, and how many bytes its item has.
// What is only looked at may count too: the limits do not say that it does not.
func (s *Store) action(w store.Write) (_ types.TransactWriteItem, bytes int, err error) {
	const old = types.ReturnValuesOnConditionCheckFailureAllOld
	if w.Check {
		b, err := store.Encode(&w.Record)
		return types.TransactWriteItem{ConditionCheck: &types.ConditionCheck{
			TableName: &s.Table, Key: key(partition(w.Record.ID), w.Record.ID),
			ConditionExpression: new("v = :v"), ExpressionAttributeValues: item{":v": number(int64(w.Record.Rev))},
			ReturnValuesOnConditionCheckFailure: old,
		}}, len(b), err
	}
	it, err := s.encode(w.Record)
	if err != nil {
		return types.TransactWriteItem{}, 0, err
	}
	put := &types.Put{TableName: &s.Table, Item: it, ReturnValuesOnConditionCheckFailure: old}
	if w.Record.Rev == 1 {
		put.ConditionExpression = new("attribute_not_exists(p)")
	} else {
		put.ConditionExpression = new("v = :v")
		put.ExpressionAttributeValues = item{":v": number(int64(w.Record.Rev - 1))}
	}
	return types.TransactWriteItem{Put: put}, size(it), nil
}

// Due is that of [store.Store].
func (s *Store) Due(ctx context.Context, now promise.Time, limit int) ([]string, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	var spans []span
	for n := range uint32(dueShards) {
		spans = append(spans, span{index: "due", partition: shardName(n), low: stamp(1), high: stamp(now) + last})
	}
	parts, err := s.readAll(ctx, spans, limit)
	if err != nil {
		return nil, err
	}
	found := slices.Concat(parts...)
	slices.SortFunc(found, func(a, b item) int { return strings.Compare(text(a["t"]), text(b["t"])) })
	var ids []string
	for _, it := range found[:min(len(found), max(limit, 0))] {
		ids = append(ids, text(it["i"]))
	}
	return ids, nil
}

// Children is that of [store.Store]: one range of ids for each separator. They
// do not overlap, and the first comes before the second.
func (s *Store) Children(ctx context.Context, id, after string, limit int) ([]promise.Record, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	var recs []promise.Record
	for _, separator := range []byte{'.', ':'} {
		first, end := id+string(separator), id+string(separator+1)
		found, err := s.read(ctx, span{
			partition: partition(first), low: max(first, after+"\x00"), high: end,
		}, limit-len(recs))
		if err != nil {
			return nil, err
		}
		for _, it := range found {
			rec, err := decode(it)
			if err != nil {
				return nil, err
			}
			recs = append(recs, rec)
		}
	}
	return recs, nil
}

// A span is a range of one partition, of the table or of an index: the items
// whose sort key is neither below low nor above high.
type span struct {
	index     string // "" is the table, which is read consistently
	partition string
	low, high string
	backward  bool
}

// keys are the names of the keys of the table and of its indexes.
var keys = map[string][2]string{"": {"p", "i"}, "due": {"d", "t"}, "list": {"l", "c"}}

// read returns the first items of a span, at most limit.
func (s *Store) read(ctx context.Context, r span, limit int) ([]item, error) {
	var found []item
	if limit <= 0 || r.low > r.high { // which DynamoDB refuses
		return nil, nil
	}
	names := keys[r.index]
	in := &dynamodb.QueryInput{
		TableName:                &s.Table,
		KeyConditionExpression:   new("#p = :p AND #s BETWEEN :low AND :high"),
		ExpressionAttributeNames: map[string]string{"#p": names[0], "#s": names[1]},
		ExpressionAttributeValues: item{
			":p": str(r.partition), ":low": str(r.low), ":high": str(r.high),
		},
		ScanIndexForward: new(!r.backward),
	}
	if r.index == "" {
		in.ConsistentRead = new(true)
	} else {
		in.IndexName = &r.index
	}
	for {
		in.Limit = new(int32(min(limit-len(found), store.MaxPage)))
		out, err := s.db.Query(ctx, in)
		if err != nil {
			return nil, s.ours(ctx, "querying "+r.partition, err)
		}
		found = append(found, out.Items...)
		if len(found) >= limit || out.LastEvaluatedKey == nil {
			return found, nil
		}
		in.ExclusiveStartKey = out.LastEvaluatedKey
	}
}

// readAll reads spans at once, at most limit items of each.
func (s *Store) readAll(ctx context.Context, spans []span, limit int) ([][]item, error) {
	found, errs := make([][]item, len(spans)), make([]error, len(spans))
	var all sync.WaitGroup
	for n, r := range spans {
		all.Go(func() { found[n], errs[n] = s.read(ctx, r, limit) })
	}
	all.Wait()
	return found, errors.Join(errs...)
}
