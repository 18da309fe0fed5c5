package dynamostore_test

import (
	"flag"
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

// full is the gate's size.
var full = flag.Bool("full", false, "check histories of 200 operations a client")

// emulators are what the tests run over.
var emulators = []struct {
	name     string
	endpoint func(testing.TB) string
	// 200 histories are enough on the faster one.
	histories int
}{
	{"MiniStack", emulator.AWS, 5},
	{"DynamoDBLocal", emulator.DynamoDB, 200},
}

// overEach runs a test over each emulator, at once.
func overEach(t *testing.T, test func(t *testing.T, endpoint string)) {
	t.Parallel()
	for _, e := range emulators {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			test(t, e.endpoint(t))
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
// emulators give the same answers. A table of its own for each thousand, since
// MiniStack looks at all that a partition holds to answer a query.
func TestSameAsMemory(t *testing.T) {
	stores, operations := 20, 1_000
	if watched {
		stores, operations = 4, 250
	}
	overEach(t, func(t *testing.T, endpoint string) {
		for seed := range stores {
			storetest.Compare(t, storetest.Random{Seed: uint64(seed), Operations: operations},
				store.NewMemory(), open(t, endpoint))
		}
	})
}

// An operation takes a millisecond of two processors: the gate's 320,000 are
// `make gates`.
func TestLinearizable(t *testing.T) {
	t.Parallel()
	for _, e := range emulators {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			load := storetest.Load{Histories: e.histories, Clients: 8, Operations: 50, Seed: 7}
			switch {
			case *full:
				load.Operations = 200
			case watched:
				load.Histories = 2
			}
			storetest.Linearizable(t, load, open(t, e.endpoint(t)))
		})
	}
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
