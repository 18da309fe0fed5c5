package dynamostore

import (
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"modulate/internal/promise"
	"modulate/internal/store"
)

// item is what DynamoDB stores, or a part of it: attributes by their names.
type item = map[string]types.AttributeValue

// maxItem is the most bytes of an item, names of attributes too (DynamoDB's
// limit).
const maxItem = 400 << 10

// maxTogether is the most bytes of the items of a transaction (DynamoDB's limit: 4 MB).
const maxTogether = 4_000_000

// reserve is what a pending promise of the protocol leaves of that: for its
// task, and for what resumes it, so that none of these is ever refused.
const reserve = 32 << 10

const (
	dueShards  = 8
	listShards = 4
)

// last comes after everything that an id may hold.
const last = "\x7f"

// encode returns rec as the schema says.
func (s *Store) encode(rec promise.Record) (item, error) {
	it := key(partition(rec.ID), rec.ID)
	it["v"] = number(int64(rec.Rev))
	it["l"] = str(listPartition(rec.Machine, shard(rec.ID, listShards)))
	it["c"] = str(stamp(rec.CreatedAt) + rec.ID)
	if rec.DueAt > 0 {
		it["d"] = str(shardName(shard(rec.ID, dueShards)))
		it["t"] = str(stamp(rec.DueAt) + rec.ID)
	}
	if rec.State.Terminal() && s.Retention > 0 {
		it["x"] = seconds(rec.SettledAt.Add(s.Retention))
	}
	id := rec.ID
	rec.ID = ""
	b, err := store.Encode(&rec)
	if err != nil {
		return nil, err
	}
	it["r"] = &types.AttributeValueMemberB{Value: b}
	n, most := size(it), maxItem
	if n > maxItem-reserve && rec.Protocol != nil && !rec.State.Terminal() {
		most -= reserve
		p := *rec.Protocol
		p.Resumes, rec.Protocol, rec.Task.Worker = nil, &p, ""
		if b, err = store.Encode(&rec); err != nil {
			return nil, err
		}
		n -= len(it["r"].(*types.AttributeValueMemberB).Value) - len(b)
	}
	if n > most {
		return nil, fmt.Errorf("%w: the record of %s has %d bytes, and an item of DynamoDB at most %d", store.ErrFull, id, n, most)
	}
	return it, nil
}

// decode reads what encode made.
func decode(it item) (promise.Record, error) {
	b, ok := it["r"].(*types.AttributeValueMemberB)
	if !ok {
		return promise.Record{}, fmt.Errorf("item %s: it holds no record", text(it["i"]))
	}
	rec, err := store.Decode(b.Value)
	rec.ID = text(it["i"])
	return rec, err
}

// partition returns the partition of the call graph that id belongs to.
func partition(id string) string {
	if graph, _, ok := strings.Cut(id, ":"); ok {
		return graph
	}
	graph, _, _ := strings.Cut(id, ".")
	return graph
}

// shard returns one of so many shards for an id, always the same.
func shard(id string, shards uint32) uint32 {
	h := fnv.New32a()
	h.Write([]byte(id))
	return h.Sum32() % shards
}

func shardName(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

func listPartition(machine string, shard uint32) string { return machine + "/" + shardName(shard) }

// stampLen is how long a stamp is.
const stampLen = 13

// stamp returns t in digits, which sort as times do: until the year 2286.
func stamp(t promise.Time) string {
	return fmt.Sprintf("%0*d", stampLen, min(max(t, 0), 9_999_999_999_999))
}

func key(p, i string) item { return item{"p": str(p), "i": str(i)} }

func str(s string) types.AttributeValue { return &types.AttributeValueMemberS{Value: s} }

func number(n int64) types.AttributeValue {
	return &types.AttributeValueMemberN{Value: strconv.FormatInt(n, 10)}
}

// seconds returns t as a time-to-live.
func seconds(t promise.Time) types.AttributeValue { return number(int64(t / 1000)) }

// text returns a string, or "" for what is none.
func text(v types.AttributeValue) string {
	s, _ := v.(*types.AttributeValueMemberS)
	if s == nil {
		return ""
	}
	return s.Value
}

// integer returns a number, or 0 for what is none.
func integer(v types.AttributeValue) int64 {
	n, _ := v.(*types.AttributeValueMemberN)
	if n == nil {
		return 0
	}
	i, _ := strconv.ParseInt(n.Value, 10, 64)
	return i
}

// size returns how many bytes DynamoDB counts for it ("item sizes and formats"
// in its manual).
func size(it item) (n int) {
	for name, v := range it {
		n += len(name)
		switch v := v.(type) {
		case *types.AttributeValueMemberS:
			n += len(v.Value)
		case *types.AttributeValueMemberB:
			n += len(v.Value)
		case *types.AttributeValueMemberN:
			n += (len(v.Value)+1)/2 + 1
		}
	}
	return n
}
