package dynamostore

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"modulate/internal/promise"
	"modulate/internal/store"
)

const (
	// looked is the least that one call looks at in each shard of the index,
	// and prefixed what it does when the id must have a prefix.
	looked   = 100
	prefixed = 1000
	// batch is the most records read at once (DynamoDB's limit).
	batch = 100
	// batchAtLeast are read at once however few are missing on a page.
	batchAtLeast = 25
)

// List is that of [store.Store]. It goes through the index of each machine,
// newest first, and reads the records of what it finds.
func (s *Store) List(ctx context.Context, q store.Query) (store.Page, error) {
	if ctx.Err() != nil {
		return store.Page{}, context.Cause(ctx)
	}
	after, err := q.Check()
	if err != nil {
		return store.Page{}, err
	}
	found, until, err := s.candidates(ctx, q, stamp(after.CreatedAt)+after.ID)
	if err != nil {
		return store.Page{}, err
	}
	var page store.Page
	for len(found) > 0 {
		n := min(max(q.Limit-len(page.Records), batchAtLeast), batch, len(found))
		recs, err := s.getAll(ctx, found[:n])
		if err != nil {
			return store.Page{}, err
		}
		for k, it := range found[:n] {
			if rec, ok := recs[text(it["i"])]; ok && q.Matches(rec) { // still there, and still so
				page.Records = append(page.Records, rec)
			}
			if len(page.Records) == q.Limit && (until != "" || k < len(found)-1) {
				page.Cursor = cursor(text(it["c"]))
				return page, nil
			}
		}
		found = found[n:]
	}
	page.Cursor = cursor(until)
	return page, nil
}

// candidates returns what the index holds for q below a place in it, newest
// first, and how far that reaches; "" is the end of the list.
func (s *Store) candidates(ctx context.Context, q store.Query, below string) (found []item, until string, err error) {
	names := []string{q.Machine}
	if q.Machine == "" {
		if names, err = s.remembered(ctx, "#listed"); err != nil {
			return nil, "", err
		}
	}
	var spans []span
	for _, name := range names {
		for n := range uint32(listShards) {
			spans = append(spans, span{
				index: "list", partition: listPartition(name, n), low: stamp(q.Since), high: below, backward: true,
			})
		}
	}
	reach := max(q.Limit, looked)
	if q.Prefix != "" {
		reach = prefixed
	}
	parts, err := s.readAll(ctx, spans, reach)
	if err != nil {
		return nil, "", err
	}
	for _, part := range parts {
		if len(part) == reach { // there may be more
			until = max(until, text(part[reach-1]["c"]))
		}
	}
	found = slices.DeleteFunc(slices.Concat(parts...), func(it item) bool {
		c := text(it["c"])
		return c < until || c == below || !strings.HasPrefix(text(it["i"]), q.Prefix)
	})
	slices.SortFunc(found, func(a, b item) int { return strings.Compare(text(b["c"]), text(a["c"])) })
	return found, until, nil
}

// cursor returns the cursor of a page that ends at a place in the index; ""
// is the end of the list.
func cursor(c string) string {
	if c == "" {
		return ""
	}
	at, _ := strconv.ParseInt(c[:stampLen], 10, 64) // it is a stamp's
	return store.Position{CreatedAt: promise.Time(at), ID: c[stampLen:]}.Cursor()
}

// getAll reads the records of items of an index; those that are gone are not
// among what it returns.
func (s *Store) getAll(ctx context.Context, found []item) (map[string]promise.Record, error) {
	ask := types.KeysAndAttributes{ConsistentRead: new(true)}
	for _, it := range found {
		ask.Keys = append(ask.Keys, item{"p": it["p"], "i": it["i"]})
	}
	recs := make(map[string]promise.Record, len(found))
	for try := 1; ; try++ {
		out, err := s.db.BatchGetItem(ctx, &dynamodb.BatchGetItemInput{
			RequestItems: map[string]types.KeysAndAttributes{s.Table: ask},
		})
		if err != nil {
			return nil, s.ours(ctx, "reading a list", err)
		}
		for _, it := range out.Responses[s.Table] {
			rec, err := decode(it)
			if err != nil {
				return nil, err
			}
			recs[rec.ID] = rec
		}
		var more bool
		if ask, more = out.UnprocessedKeys[s.Table]; !more {
			return recs, nil
		}
		if !again(ctx, try) {
			return nil, fmt.Errorf("reading a list: %d records are left after %d tries: %w",
				len(ask.Keys), try, cmp.Or(context.Cause(ctx), store.ErrThrottled))
		}
	}
}
