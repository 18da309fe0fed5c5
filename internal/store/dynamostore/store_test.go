package dynamostore_test

import (
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"modulate/internal/emulator"
	"modulate/internal/promise"
	"modulate/internal/store"
	"modulate/internal/store/dynamostore"
	"modulate/internal/store/storetest"
)

func TestMain(m *testing.M) { emulator.Main(m) }

// emulators are what the tests run over.
var emulators = map[string]func(testing.TB) string{
	"MiniStack": emulator.AWS, "DynamoDBLocal": emulator.DynamoDB,
}

// overEach runs a test over each emulator, at once.
func overEach(t *testing.T, test func(t *testing.T, endpoint string)) {
	t.Parallel()
	for name, endpoint := range emulators {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, endpoint(t))
		})
	}
}

const retention = 30 * 24 * time.Hour

// open makes a table and returns the store in it, whose requests go through
// the wire, if one is given.
func open(t *testing.T, endpoint string, wires ...wire) *dynamostore.Store {
	t.Helper()
	cfg := emulator.Config(t, endpoint)
	table := emulator.Table(t, dynamodb.NewFromConfig(cfg))
	client := dynamodb.NewFromConfig(cfg, func(o *dynamodb.Options) {
		for _, w := range wires {
			w.into(o)
		}
	})
	return dynamostore.New(client, dynamostore.Config{Table: table, Retention: retention})
}

func TestStore(t *testing.T) {
	overEach(t, func(t *testing.T, endpoint string) {
		storetest.Run(t, func(t *testing.T) store.Store { return open(t, endpoint) })
	})
}

// With the test of that name of package sqlitestore: memory, SQLite and both
// emulators give the same answers. The 20,000 operations are those of ten
// small stores: MiniStack looks at a whole table to answer a query.
func TestSameAsMemory(t *testing.T) {
	overEach(t, func(t *testing.T, endpoint string) {
		for seed := range uint64(10) {
			storetest.Compare(t, storetest.Random{Seed: seed, Operations: 2_000}, store.NewMemory(), open(t, endpoint))
		}
	})
}

func TestLinearizable(t *testing.T) {
	overEach(t, func(t *testing.T, endpoint string) {
		storetest.Linearizable(t, storetest.Load{Histories: 10, Clients: 8, Operations: 200, Seed: 7}, open(t, endpoint))
	})
}

// record returns a new promise.
func record(id string) promise.Record {
	return promise.Record{
		ID: id, Rev: 1, WriteID: promise.Nonce{1}, Owner: "local", Machine: "cpu",
		Call:      promise.Call{Name: "hello.py", Script: promise.Hash{1}, Timeout: time.Minute, Lease: time.Minute},
		CreatedAt: 1_000, DeadlineAt: 1_000_000, DueAt: 500,
		Task: promise.Task{State: promise.TaskPending},
	}
}

// settled returns what follows rec and ends it.
func settled(rec promise.Record) promise.Record {
	rec.Rev++
	rec.WriteID = promise.Nonce{byte(rec.Rev), 2}
	rec.State, rec.SettledAt, rec.DueAt = promise.Resolved, rec.CreatedAt+1_000, 0
	return rec
}

// create stores recs.
func create(t *testing.T, s *dynamostore.Store, recs ...promise.Record) {
	t.Helper()
	for _, rec := range recs {
		if err := s.Create(t.Context(), rec); err != nil {
			t.Fatal(err)
		}
	}
}
