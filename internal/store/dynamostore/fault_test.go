package dynamostore_test

import (
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"modulate/internal/emulator"
	"modulate/internal/promise"
	"modulate/internal/store"
	"modulate/internal/store/dynamostore"
)

// writes are the ways to write "b" for the first time, over a store that holds
// "a" at rev 1, and what they are on the wire.
var writes = map[string]func(*testing.T, *dynamostore.Store) error{
	"PutItem": func(t *testing.T, s *dynamostore.Store) error { return s.Create(t.Context(), record("b")) },
	"TransactWriteItems": func(t *testing.T, s *dynamostore.Store) error {
		return s.ReplaceAll(t.Context(), []store.Write{{Record: record("a"), Check: true}, {Record: record("b")}})
	},
}

// eachWrite runs a test for each of writes over each emulator. Once it is on,
// the wire of a write is the test's.
func eachWrite(t *testing.T, test func(t *testing.T, op string, write func(w wire) (*dynamostore.Store, error))) {
	overEach(t, func(t *testing.T, endpoint string) {
		for op, write := range writes {
			t.Run(op, func(t *testing.T) {
				test(t, op, func(w wire) (*dynamostore.Store, error) {
					var armed atomic.Bool
					s := open(t, endpoint, func(r request, on func(request) (*http.Response, error)) (*http.Response, error) {
						if armed.Load() && r.op == op {
							return w(r, on)
						}
						return on(r)
					})
					create(t, s, record("a"))
					armed.Store(true)
					return s, write(t, s)
				})
			})
		}
	})
}

// stored reports whether "b" is.
func stored(t *testing.T, s *dynamostore.Store) bool {
	t.Helper()
	_, err := s.Get(t.Context(), "b")
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		t.Fatal(err)
	}
	return err == nil
}

// A write that the SDK sends again because its reply was lost (row 5 of the
// faults: aws-sdk-go#3765) is done, or refused by itself.
func TestLostReply(t *testing.T) {
	eachWrite(t, func(t *testing.T, op string, write func(wire) (*dynamostore.Store, error)) {
		sent := 0
		s, err := write(func(r request, on func(request) (*http.Response, error)) (*http.Response, error) {
			if sent++; sent == 1 {
				return drop(on(r))
			}
			return on(r)
		})
		var refused *store.Refused
		if errors.As(err, &refused) && refused.Stored.ID == "b" && refused.Stored.WriteID == record("b").WriteID {
			err = nil
		}
		if err != nil || sent != 2 || !stored(t, s) {
			t.Errorf("sent %d times: %v", sent, err)
		}
	})
}

// What may have been done is never said to be refused.
func TestUnknownOutcome(t *testing.T) {
	for name, later := range map[string]func() (*http.Response, error){
		"no answer":            func() (*http.Response, error) { return nil, errDropped },
		"throttled":            func() (*http.Response, error) { return sayError("ThrottlingException") },
		"in progress":          func() (*http.Response, error) { return sayError("TransactionInProgressException") },
		"of another kind":      func() (*http.Response, error) { return sayError("InternalServerError") },
		"not to be understood": func() (*http.Response, error) { return say(200, "what") },
	} {
		t.Run(name, func(t *testing.T) {
			eachWrite(t, func(t *testing.T, op string, write func(wire) (*dynamostore.Store, error)) {
				sent := 0
				s, err := write(func(r request, on func(request) (*http.Response, error)) (*http.Response, error) {
					if sent++; sent == 1 {
						return drop(on(r))
					}
					return later()
				})
				if err == nil || errors.Is(err, store.ErrRefused) || errors.Is(err, store.ErrThrottled) {
					t.Errorf("got %v, want what no caller takes for a refusal", err)
				}
				if !stored(t, s) {
					t.Error("nothing was written")
				}
			})
		})
	}
}

func TestThrottledWritesNothing(t *testing.T) {
	answers := map[string][]func() (*http.Response, error){}
	for _, code := range []string{"ThrottlingException", "ProvisionedThroughputExceededException", "RequestLimitExceeded"} {
		answer := func() (*http.Response, error) { return sayError(code) }
		answers["PutItem"] = append(answers["PutItem"], answer)
		answers["TransactWriteItems"] = append(answers["TransactWriteItems"], answer)
	}
	answers["PutItem"] = append(answers["PutItem"],
		func() (*http.Response, error) { return sayError("TransactionConflictException") })
	for _, code := range []string{"ThrottlingError", "ProvisionedThroughputExceeded", "TransactionConflict"} {
		answers["TransactWriteItems"] = append(answers["TransactWriteItems"],
			func() (*http.Response, error) { return canceled("None", code) })
	}
	eachWrite(t, func(t *testing.T, op string, write func(wire) (*dynamostore.Store, error)) {
		for _, answer := range answers[op] {
			s, err := write(func(request, func(request) (*http.Response, error)) (*http.Response, error) { return answer() })
			if !errors.Is(err, store.ErrThrottled) || stored(t, s) {
				t.Errorf("got %v, want ErrThrottled", err)
			}
		}
	})
}

// A transaction that was cancelled for another reason says nothing of
// capacity, and one that is in progress may yet be done.
func TestNoLackOfCapacity(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func() (*http.Response, error){
		"another reason": func() (*http.Response, error) { return canceled("TransactionConflict", "ValidationError") },
		"in progress":    func() (*http.Response, error) { return sayError("TransactionInProgressException") },
	} {
		s := open(t, emulator.AWS(t), func(r request, on func(request) (*http.Response, error)) (*http.Response, error) {
			if r.op == "TransactWriteItems" {
				return answer()
			}
			return on(r)
		})
		create(t, s, record("a"))
		err := writes["TransactWriteItems"](t, s)
		if err == nil || errors.Is(err, store.ErrThrottled) || errors.Is(err, store.ErrRefused) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// Transactions that meet others are tried again here: the SDK does not.
func TestConflictsPass(t *testing.T) {
	eachWrite(t, func(t *testing.T, op string, write func(wire) (*dynamostore.Store, error)) {
		sent := 0
		s, err := write(func(r request, on func(request) (*http.Response, error)) (*http.Response, error) {
			sent++
			switch {
			case sent > 3:
				return on(r)
			case op == "PutItem":
				return sayError("TransactionConflictException")
			default:
				return canceled("TransactionConflict", "None")
			}
		})
		if err != nil || !stored(t, s) {
			t.Error(err)
		}
	})
}

// reads are all ways to read, over a store that holds "a".
var reads = map[string]func(*testing.T, *dynamostore.Store) error{
	"Get": func(t *testing.T, s *dynamostore.Store) error { _, err := s.Get(t.Context(), "a"); return err },
	"Due": func(t *testing.T, s *dynamostore.Store) error { _, err := s.Due(t.Context(), 1, 1); return err },
	"Children": func(t *testing.T, s *dynamostore.Store) error {
		_, err := s.Children(t.Context(), "a", "", 1)
		return err
	},
	"List": func(t *testing.T, s *dynamostore.Store) error {
		_, err := s.List(t.Context(), store.Query{Owner: "local", Limit: 1})
		return err
	},
	"Present":  func(t *testing.T, s *dynamostore.Store) error { _, err := s.Present(t.Context(), 0); return err },
	"Machines": func(t *testing.T, s *dynamostore.Store) error { _, err := s.Machines(t.Context()); return err },
}

func TestThrottledReads(t *testing.T) {
	t.Parallel()
	s := open(t, emulator.AWS(t), func(request, func(request) (*http.Response, error)) (*http.Response, error) {
		return sayError("ThrottlingException")
	})
	for name, read := range reads {
		if err := read(t, s); !errors.Is(err, store.ErrThrottled) {
			t.Errorf("%s: got %v, want ErrThrottled", name, err)
		}
	}
}

func TestMissingTable(t *testing.T) {
	overEach(t, func(t *testing.T, endpoint string) {
		s := dynamostore.New(dynamodb.NewFromConfig(emulator.Config(t, endpoint)), dynamostore.Config{Table: "modulate-nowhere"})
		calls := map[string]func(*testing.T, *dynamostore.Store) error{
			"Announce": func(t *testing.T, s *dynamostore.Store) error {
				return s.Announce(t.Context(), store.Presence{Worker: "w", Machine: "cpu"})
			},
			"Replace": func(t *testing.T, s *dynamostore.Store) error {
				return s.Replace(t.Context(), settled(record("a")))
			},
			"ReplaceAll": writes["TransactWriteItems"],
		}
		for name, read := range reads {
			calls[name] = read
		}
		for name, call := range calls {
			err := call(t, s)
			if !errors.Is(err, store.ErrDeployment) || !strings.Contains(err.Error(), "modulate-nowhere") || !strings.Contains(err.Error(), "template.yaml") {
				t.Errorf("%s: %v: it does not say which table is missing, and what to deploy", name, err)
			}
		}
	})
}

func TestDenied(t *testing.T) {
	t.Parallel()
	s := open(t, emulator.AWS(t), func(request, func(request) (*http.Response, error)) (*http.Response, error) {
		return sayError("AccessDeniedException")
	})
	for _, calls := range []map[string]func(*testing.T, *dynamostore.Store) error{reads, writes} {
		for name, call := range calls {
			if err := call(t, s); !errors.Is(err, store.ErrDeployment) || !strings.Contains(err.Error(), "the role of this program") {
				t.Errorf("%s: got %v, want what to allow", name, err)
			}
		}
	}
}

// batches is a wire of BatchGetItem: of the keys that are asked for, the first
// few are read, the others are left.
func batches(few int) wire {
	return func(r request, on func(request) (*http.Response, error)) (*http.Response, error) {
		if r.op != "BatchGetItem" {
			return on(r)
		}
		left := map[string]any{}
		for table, ask := range r.body["RequestItems"].(map[string]any) {
			ask := ask.(map[string]any)
			keys := ask["Keys"].([]any)
			n := min(few, len(keys))
			if n < len(keys) {
				left[table] = map[string]any{"Keys": keys[n:], "ConsistentRead": true}
			}
			if n == 0 {
				return say(200, map[string]any{"Responses": map[string]any{}, "UnprocessedKeys": left})
			}
			ask["Keys"] = keys[:n]
		}
		res, err := on(r)
		if err != nil {
			return nil, err
		}
		answer, err := body(res)
		if err != nil {
			return nil, err
		}
		answer["UnprocessedKeys"] = left
		return say(res.StatusCode, answer)
	}
}

func TestUnprocessedKeys(t *testing.T) {
	t.Parallel()
	for few, want := range map[int]error{2: nil, 0: store.ErrThrottled} {
		s := open(t, emulator.AWS(t), batches(few))
		create(t, s, record("a"), record("b"), record("c"), record("d"), record("e"))
		page, err := s.List(t.Context(), store.Query{Owner: "local", Limit: 9})
		if !errors.Is(err, want) || err == nil && len(page.Records) != 5 {
			t.Errorf("%d at a time: %d records, %v", few, len(page.Records), err)
		}
	}
}

// A stale index (row 31 of the faults) is a hint: what is read and written by
// id is as it is, and a list shows records as they are.
func TestStaleIndexes(t *testing.T) {
	overEach(t, func(t *testing.T, endpoint string) {
		var indexes frozen
		s := open(t, endpoint, indexes.wire)
		ctx, pending := t.Context(), promise.Pending
		list := func(q store.Query) (ids string) {
			t.Helper()
			q.Owner, q.Limit = "local", 10
			page, err := s.List(ctx, q)
			if err != nil {
				t.Fatal(err)
			}
			for _, rec := range page.Records {
				ids += rec.ID + " "
			}
			return ids
		}
		due := func() string {
			t.Helper()
			ids, err := s.Due(ctx, 1_000, 10)
			if err != nil {
				t.Fatal(err)
			}
			return strings.Join(ids, " ")
		}
		create(t, s, record("a"), record("b"))
		if all, open, due := list(store.Query{}), list(store.Query{State: &pending}), due(); all != "b a " || open != "b a " || due != "a b" {
			t.Fatalf("at first: %q, %q, %q", all, open, due)
		}
		indexes.still.Store(true)
		if err := s.Replace(ctx, settled(record("a"))); err != nil {
			t.Fatal(err)
		}
		create(t, s, record("a.1"))
		if got := due(); got != "a b" {
			t.Errorf("due are %q, want what was", got)
		}
		if all, open := list(store.Query{}), list(store.Query{State: &pending}); all != "b a " || open != "b " {
			t.Errorf("listed are %q, and %q as pending: want what the index had, as it is", all, open)
		}
		if recs, err := s.Children(ctx, "a", "", 10); err != nil || len(recs) != 1 {
			t.Errorf("%d children, %v: they are read from the table", len(recs), err)
		}
		if err := s.Replace(ctx, settled(record("a"))); !errors.Is(err, store.ErrRefused) {
			t.Errorf("got %v: only the record decides", err)
		}
		indexes.still.Store(false)
		if all, due := list(store.Query{}), due(); all != "b a.1 a " || due != "a.1 b" {
			t.Errorf("at last: %q, %q", all, due)
		}
	})
}
