package api

import (
	"errors"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"modulate/internal/blob"
	"modulate/internal/engine"
	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/internal/store"
)

func memory() *engine.Engine {
	return &engine.Engine{Store: store.NewMemory(), Queue: queue.NewMemory("cpu"), Blobs: blob.NewMemory()}
}

// create stores a promise of owner's.
func create(t *testing.T, e *engine.Engine, id, owner string) promise.Record {
	t.Helper()
	rec, err := e.Create(t.Context(), promise.Record{
		ID: id, Owner: owner, Machine: "cpu", DeadlineAt: e.Time().Add(time.Hour),
		Call: promise.Call{Name: "a.py", Runtime: "python", Timeout: time.Minute, Lease: time.Minute},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

// claim takes the task of a promise.
func claim(t *testing.T, e *engine.Engine, id string) promise.Record {
	t.Helper()
	rec, err := e.Apply(t.Context(), id, promise.Claim{Worker: "w", ClaimID: e.NewNonce()})
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

func apply(t *testing.T, e *engine.Engine, id string, ev promise.Event) promise.Record {
	t.Helper()
	rec, err := e.Apply(t.Context(), id, ev)
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

func TestCaller(t *testing.T) {
	e := memory()
	create(t, e, "running", "alice")
	held := claim(t, e, "running")
	good := engine.Parent{ID: "running", Version: held.Task.Version, Claim: held.Task.ClaimID}
	create(t, e, "never", "alice")
	create(t, e, "done", "alice")
	done := claim(t, e, "done")
	apply(t, e, "done", promise.Fulfil{Version: 1, ClaimID: done.Task.ClaimID, Outcome: promise.Outcome{Cause: promise.CauseOK}})

	with := func(p engine.Parent) string { return FormatParent(p) }
	other := good
	other.Claim[0]++
	older := good
	older.Version++
	unknown := good
	unknown.ID = "unknown"
	tests := []struct {
		name, header string
		want         error
	}{
		{"held", with(good), nil},
		{"settled under that claim", with(engine.Parent{ID: "done", Version: 1, Claim: done.Task.ClaimID}), nil},
		{"another claim", with(other), promise.ErrParent},
		{"another version", with(older), promise.ErrParent},
		{"never claimed, no claim", with(engine.Parent{ID: "never"}), promise.ErrParent},
		{"unknown promise", with(unknown), ErrForbidden},
		{"too few parts", "running 1", ErrInvalid},
		{"too many parts", with(good) + " x", ErrInvalid},
		{"bad id", "../x 1 " + good.Claim.String(), ErrInvalid},
		{"bad version", "running one " + good.Claim.String(), ErrInvalid},
		{"bad claim", "running 1 abc", ErrInvalid},
	}
	s := &Service{Engine: e, Log: slog.New(slog.DiscardHandler), Owner: func(*http.Request) (string, error) { return "the worker", nil }}
	for _, tt := range tests {
		r, _ := http.NewRequestWithContext(t.Context(), "GET", "/", nil)
		r.Header.Set(ParentHeader, tt.header)
		c, err := s.caller(r)
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
		if err == nil && (c.Owner != "alice" || c.Parent == nil || with(c.Claim) != tt.header) {
			t.Errorf("%s: got %+v", tt.name, c)
		}
	}
}

func TestCallerWithoutParent(t *testing.T) {
	r, _ := http.NewRequestWithContext(t.Context(), "GET", "/", nil)
	s := &Service{}
	if c, err := s.caller(r); c != (Caller{Owner: "local"}) || err != nil {
		t.Errorf("got %+v, %v", c, err)
	}
	s.Owner = func(*http.Request) (string, error) { return "bob", nil }
	if c, err := s.caller(r); c != (Caller{Owner: "bob"}) || err != nil {
		t.Errorf("got %+v, %v", c, err)
	}
	s.Owner = func(*http.Request) (string, error) { return "", Fail(ErrForbidden, "", "no") }
	if _, err := s.caller(r); !errors.Is(err, ErrForbidden) {
		t.Errorf("got %v", err)
	}
}

func TestOwn(t *testing.T) {
	e := memory()
	create(t, e, "a", "alice")
	s := &Service{Engine: e}
	if rec, err := s.Own(t.Context(), Caller{Owner: "alice"}, "a"); rec.ID != "a" || err != nil {
		t.Errorf("got %q, %v", rec.ID, err)
	}
	for id, who := range map[string]string{"a": "bob", "b": "alice", "": "alice", "a b": "alice"} {
		rec, err := s.Own(t.Context(), Caller{Owner: who}, id)
		if !errors.Is(err, promise.ErrNotFound) || rec.ID != "" {
			t.Errorf("%s of %q: got %+v, %v", who, id, rec, err)
		}
	}
}
