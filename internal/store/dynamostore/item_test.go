package dynamostore_test

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"modulate/internal/emulator"
	"modulate/internal/promise"
	"modulate/internal/store"
	"modulate/internal/store/dynamostore"
)

// A plain call's three writes and what they cost: the due index is written
// once and removed once, the list index written once, and no item is above the
// 1 KB that one write unit pays for, with 512 bytes of output too.
func TestWriteUnitsOfALife(t *testing.T) {
	t.Parallel()
	meter := meter{t: t}
	s := open(t, emulator.DynamoDB(t), meter.wire)
	create(t, s, record("another")) // with the machine, which is remembered
	meter.take()

	now := promise.TimeOf(time.Date(2026, 11, 23, 15, 0, 0, 0, time.UTC))
	nonce := promise.Nonce([]byte("0123456789abcdef"))
	rec := promise.Record{
		ID: "01kaqk2f5r8w3v9x7y6z5t4s3q", Rev: 1, WriteID: nonce, Owner: "local", Machine: "cpu",
		Call: promise.Call{
			Name: "train_model.py", Script: promise.Hash([]byte("0123456789abcdef0123456789abcdef")), Runtime: "python",
			Input:   promise.Input{Args: []string{"--epochs", "10"}, Env: map[string]string{"SEED": "42"}},
			Timeout: 2 * time.Minute, Lease: 2 * time.Minute,
		},
		CallHash:  promise.Hash([]byte("0123456789abcdef0123456789abcdef")),
		CreatedAt: now, DeadlineAt: now.Add(24 * time.Hour), ResendAt: now.Add(time.Minute), DueAt: now.Add(time.Minute),
		Task: promise.Task{State: promise.TaskPending, Lease: 2 * time.Minute},
	}
	create(t, s, rec)
	wantUnits(t, "create", meter.take(), map[string]float64{"": 1, "due": 1, "list": 1})

	rec.Rev, rec.ResendAt, rec.Attempt = 2, 0, 1
	rec.Task = promise.Task{
		State: promise.TaskAcquired, Version: 1, Worker: "ip-10-0-12-34-4711-1", ClaimID: nonce,
		Lease: 2 * time.Minute, LeaseEnd: now.Add(2 * time.Minute),
	}
	rec.Attempts = []promise.Attempt{{Number: 1, Version: 1, Worker: rec.Task.Worker, StartedAt: now}}
	if err := s.Replace(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	wantUnits(t, "claim", meter.take(), map[string]float64{"": 1})

	rec.Rev, rec.State, rec.DueAt, rec.SettledAt, rec.SettleID = 3, promise.Resolved, 0, now.Add(2*time.Second), nonce
	rec.Task.State, rec.Task.LeaseEnd = promise.TaskFulfilled, 0
	rec.Attempts[0].EndedAt, rec.Attempts[0].Cause = rec.SettledAt, promise.CauseOK
	rec.Outcome = promise.Outcome{
		Cause: promise.CauseOK, Version: 1, Stdout: promise.Stream{Size: 512, Tail: []byte(strings.Repeat("x", 512))},
		Usage: promise.Usage{Wall: 1234 * time.Millisecond, CPU: time.Second, MaxRSS: 12 << 20},
	}
	if err := s.Replace(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	wantUnits(t, "settle", meter.take(), map[string]float64{"": 1, "due": 1})
	n := countedSize(rawItem(t, emulator.DynamoDB(t), s.Table, rec.ID))
	if n > 1024 {
		t.Errorf("the item of a plain call has %d bytes, more than 1024", n)
	}
	t.Logf("%d bytes with 512 of output", n)
}

func wantUnits(t *testing.T, what string, got, want map[string]float64) {
	t.Helper()
	maps.DeleteFunc(got, func(_ string, units float64) bool { return units == 0 })
	if !maps.Equal(got, want) {
		t.Errorf("%s consumed %v write units, want %v", what, got, want)
	}
}

// rawItem returns a record's item as it is in the table.
func rawItem(t *testing.T, endpoint, table, id string) map[string]types.AttributeValue {
	t.Helper()
	graph, _, _ := strings.Cut(id, ".")
	out, err := dynamodb.NewFromConfig(emulator.Config(t, endpoint)).GetItem(t.Context(), &dynamodb.GetItemInput{
		TableName: &table, ConsistentRead: aws.Bool(true), Key: map[string]types.AttributeValue{
			"p": &types.AttributeValueMemberS{Value: graph}, "i": &types.AttributeValueMemberS{Value: id},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.Item
}

// countedSize is the size of an item by the rules of DynamoDB's manual
// ("DynamoDB item sizes and formats").
func countedSize(item map[string]types.AttributeValue) (n int) {
	for name, v := range item {
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

func TestTimeToLive(t *testing.T) {
	overEach(t, func(t *testing.T, endpoint string) {
		s := open(t, endpoint)
		create(t, s, record("a"))
		if _, ok := rawItem(t, endpoint, s.Table, "a")["x"]; ok {
			t.Error("a pending promise has a time to live")
		}
		if err := s.Replace(t.Context(), settled(record("a"))); err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprint(2_000/1_000 + int64(retention/time.Second))
		if got, ok := rawItem(t, endpoint, s.Table, "a")["x"].(*types.AttributeValueMemberN); !ok || got.Value != want {
			t.Errorf("a settled promise lives until %v, want %s", got, want)
		}
		s.Retention = 0
		create(t, s, record("b"))
		if err := s.Replace(t.Context(), settled(record("b"))); err != nil {
			t.Fatal(err)
		}
		if _, ok := rawItem(t, endpoint, s.Table, "b")["x"]; ok {
			t.Error("a promise that is kept for ever has a time to live")
		}
	})
}

// What DynamoDB would not take is refused before it is asked, to the byte.
func TestLargestItem(t *testing.T) {
	t.Parallel()
	s := open(t, emulator.DynamoDB(t))
	big := func(id string, bytes int) promise.Record {
		rec := record(id)
		rec.Call.Input.Args = []string{strings.Repeat("x", bytes)}
		return rec
	}
	const most = 400 << 10
	create(t, s, big("a", most-1_000))
	spare := most - countedSize(rawItem(t, emulator.DynamoDB(t), s.Table, "a"))
	create(t, s, big("b", most-1_000+spare))
	err := s.Create(t.Context(), big("c", most-1_000+spare+1))
	if !errors.Is(err, store.ErrFull) || !strings.Contains(err.Error(), "409600") {
		t.Errorf("one byte more: got %v, want ErrFull with the figure", err)
	}
	if _, err := s.Get(t.Context(), "c"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
}

// Writes that a transaction does not take together are refused before DynamoDB is
// asked, those that only look as well; two of them always fit.
func TestTooLargeTogether(t *testing.T) {
	t.Parallel()
	s := open(t, emulator.DynamoDB(t))
	big := func(n int) promise.Record {
		rec := record(fmt.Sprint("big", n))
		rec.Call.Input.Args = []string{strings.Repeat("x", 390<<10)}
		return rec
	}
	var put, look []store.Write
	for n := range 11 {
		create(t, s, big(n))
		look = append(look, store.Write{Record: big(n), Check: true})
		put = append(put, store.Write{Record: settled(big(n))})
	}
	for name, writes := range map[string][]store.Write{"puts": put, "looks and a put": append(look[:10:10], put[10])} {
		if err := s.ReplaceAll(t.Context(), writes); !errors.Is(err, store.ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := s.ReplaceAll(t.Context(), []store.Write{look[0], put[1]}); err != nil {
		t.Errorf("two: %v", err)
	}
}

// DynamoDB answers 1 MB at a time.
func TestSeveralPages(t *testing.T) {
	t.Parallel()
	s := open(t, emulator.DynamoDB(t))
	for n := range 5 {
		rec := record(fmt.Sprintf("a.%d", n))
		rec.Call.Input.Args = []string{strings.Repeat("x", 300_000)}
		create(t, s, rec)
	}
	recs, err := s.Children(t.Context(), "a", "", 100)
	if err != nil || len(recs) != 5 {
		t.Errorf("%d of 5 children of 300 KB: %v", len(recs), err)
	}
	page, err := s.List(t.Context(), store.Query{Owner: "local", Limit: 100})
	if err != nil || len(page.Records) != 5 {
		t.Errorf("%d of 5 records of 300 KB: %v", len(page.Records), err)
	}
}

func TestMoreThanAQueryReturns(t *testing.T) {
	overEach(t, func(t *testing.T, endpoint string) {
		s := open(t, endpoint)
		const all = 12 * store.MaxWrites // more than MaxPage
		for n := range 12 {
			var writes []store.Write
			for k := range store.MaxWrites {
				rec := record(fmt.Sprintf("a.%d", n*store.MaxWrites+k))
				rec.CreatedAt += promise.Time(n)
				writes = append(writes, store.Write{Record: rec})
			}
			if err := s.ReplaceAll(t.Context(), writes); err != nil {
				t.Fatal(err)
			}
		}
		recs, err := s.Children(t.Context(), "a", "", 2*all)
		if err != nil || len(recs) != all {
			t.Errorf("%d of %d children: %v", len(recs), all, err)
		}
		ids, err := s.Due(t.Context(), 1_000, 2*all)
		if err != nil || len(ids) != all {
			t.Errorf("%d of %d are due: %v", len(ids), all, err)
		}
		listed, cursor := map[string]bool{}, ""
		for {
			page, err := s.List(t.Context(), store.Query{Owner: "local", Prefix: "a.", Limit: 400, Cursor: cursor})
			if err != nil {
				t.Fatal(err)
			}
			for _, rec := range page.Records {
				listed[rec.ID] = true
			}
			if cursor = page.Cursor; cursor == "" {
				break
			}
		}
		if len(listed) != all {
			t.Errorf("%d of %d are listed", len(listed), all)
		}
	})
}

// Ids of 900 bytes are within the 1,024 of a sort key, in the indexes too.
func TestLongestIDs(t *testing.T) {
	overEach(t, func(t *testing.T, endpoint string) {
		s := open(t, endpoint)
		id := "a." + strings.Repeat("x", promise.MaxChildID-2)
		create(t, s, record("a"), record(id))
		recs, err := s.Children(t.Context(), "a", "a."+strings.Repeat("x", promise.MaxChildID-3), 10)
		if err != nil || len(recs) != 1 || recs[0].ID != id {
			t.Errorf("%d children: %v", len(recs), err)
		}
		ids, err := s.Due(t.Context(), 1_000, 10)
		if err != nil || len(ids) != 2 || ids[1] != id {
			t.Errorf("%d are due: %v", len(ids), err)
		}
		page, err := s.List(t.Context(), store.Query{Owner: "local", Limit: 1})
		if err != nil || len(page.Records) != 1 || page.Records[0].ID != id {
			t.Fatalf("the first page has %d records: %v", len(page.Records), err)
		}
		page, err = s.List(t.Context(), store.Query{Owner: "local", Limit: 1, Cursor: page.Cursor})
		if err != nil || len(page.Records) != 1 || page.Records[0].ID != "a" {
			t.Errorf("the second page has %d records: %v", len(page.Records), err)
		}
	})
}

// A list of all machines needs no process that has seen them.
func TestListOfAnotherProcess(t *testing.T) {
	overEach(t, func(t *testing.T, endpoint string) {
		s := open(t, endpoint)
		gpu := record("b")
		gpu.Machine = "gpu"
		create(t, s, record("a"), gpu)
		other := dynamostore.New(dynamodb.NewFromConfig(emulator.Config(t, endpoint)), s.Config)
		page, err := other.List(t.Context(), store.Query{Owner: "local", Limit: 10})
		if err != nil || len(page.Records) != 2 {
			t.Errorf("%d of 2 records: %v", len(page.Records), err)
		}
		if names, err := other.Machines(t.Context()); err != nil || len(names) != 0 {
			t.Errorf("machines %q (%v): none has had a worker", names, err)
		}
	})
}
