package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"modulate/internal/blob"
	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/internal/store"
)

// witness is a queue that shows each message to see before it is sent.
type witness struct {
	*queue.Memory
	see func(id string, version uint64)
}

func (w witness) Send(ctx context.Context, machine string, body []byte, delay time.Duration) error {
	m, err := queue.Decode(body)
	if err != nil {
		return err
	}
	w.see(m.ID, m.Version)
	return w.Memory.Send(ctx, machine, body, delay)
}

// checkAttempts wants n attempts with nothing missing.
func (b *bench) checkAttempts(n int) {
	b.t.Helper()
	rec := b.stored("p")
	all, err := b.Attempts(b.t.Context(), rec)
	if err != nil {
		b.t.Fatal(err)
	}
	if len(all) != n || int(rec.Attempt) != n {
		b.t.Fatalf("%d of %d attempts, want %d", len(all), rec.Attempt, n)
	}
	for i, a := range all {
		if int(a.Number) != i+1 || a.Version != uint64(i+1) || a.Worker != fmt.Sprint("w", i+1) || a.Cause != promise.CauseDrained || a.EndedAt.Sub(a.StartedAt) != time.Second {
			b.t.Errorf("attempt %d reads %+v", i+1, a)
		}
	}
}

func TestAttempts(t *testing.T) {
	b := newBench(t)
	b.must("p", promise.Create{Record: draft("p", b.now())})
	b.checkAttempts(0)
	for n := 1; n <= 20; n++ {
		b.attempt(n)
		b.checkAttempts(n)
		if kept := len(b.stored("p").Attempts); kept > 6 {
			t.Fatalf("%d attempts in the record", kept)
		}
	}
}

// TestNoClaimWithoutArchive: where an attempt cannot be archived, the write
// that would drop it from the record does not happen.
func TestNoClaimWithoutArchive(t *testing.T) {
	b := newBench(t)
	b.must("p", promise.Create{Record: draft("p", b.now())})
	for n := range 6 {
		b.attempt(n + 1)
	}
	before := b.stored("p")
	b.Engine.Blobs = fullBlobs{b.Engine.Blobs}
	if _, err := b.Apply(t.Context(), "p", promise.Claim{Worker: "w", ClaimID: named("c")}); !errors.Is(err, blob.ErrFull) {
		t.Errorf("got %v", err)
	}
	if got := b.stored("p"); !reflect.DeepEqual(got, before) {
		t.Errorf("the record has changed: %+v", got)
	}
}

type fullBlobs struct{ blob.Blobs }

func (fullBlobs) Put(context.Context, string, io.Reader, int64, promise.Hash) error {
	return blob.ErrFull
}

func TestInput(t *testing.T) {
	b := newBench(t)
	in := promise.Input{Args: []string{"a"}}
	got, err := b.Input(t.Context(), promise.Call{Input: in})
	if err != nil || !reflect.DeepEqual(got, in) {
		t.Errorf("inline: %+v, %v", got, err)
	}
	body := `{"Args":["b"],"Env":{"K":"V"},"Files":[{"Name":"f","SHA256":[` + strings.Repeat("1,", 31) + `1],"Size":3}]}`
	sum := promise.Hash{9}
	if err := b.Blobs.Put(t.Context(), blob.ContentKey(sum), strings.NewReader(body), int64(len(body)), promise.Hash{}); err != nil {
		t.Fatal(err)
	}
	got, err = b.Input(t.Context(), promise.Call{InputBlob: sum})
	if err != nil || got.Args[0] != "b" || got.Env["K"] != "V" || got.Files[0].Size != 3 || got.Files[0].SHA256[31] != 1 {
		t.Errorf("from its blob: %+v, %v", got, err)
	}
	if _, err := b.Input(t.Context(), promise.Call{InputBlob: promise.Hash{8}}); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("missing: %v", err)
	}
}

// TestOneClaims lets many claim at once, under one worker's name too: one wins,
// the others are told who holds the lease (row 48).
func TestOneClaims(t *testing.T) {
	b := newBench(t)
	b.must("p", promise.Create{Record: draft("p", b.now())})
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := map[promise.Nonce]int{}
	for range 16 {
		wg.Go(func() {
			claim := b.NewNonce()
			rec, err := b.Apply(t.Context(), "p", promise.Claim{Worker: "w", ClaimID: claim})
			if err == nil {
				mu.Lock()
				defer mu.Unlock()
				won[claim]++
				if rec.Task.ClaimID != claim {
					t.Errorf("won, but the record has another claim")
				}
			} else if !errors.Is(err, promise.ErrLeased) {
				t.Errorf("lost with %v", err)
			}
		})
	}
	wg.Wait()
	if rec := b.stored("p"); len(won) != 1 || won[rec.Task.ClaimID] != 1 || rec.Attempt != 1 {
		t.Errorf("%d won, %d attempts", len(won), rec.Attempt)
	}
}

// TestOneSettles lets cancels, settles and the deadline race: one wins, and
// every answer agrees with it.
func TestOneSettles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.must("p", promise.Create{Record: draft("p", b.now())}, promise.Claim{Worker: "w", ClaimID: named("claim")})
		var wg sync.WaitGroup
		var mu sync.Mutex
		wins := map[promise.State]int{}
		race := func(want promise.State, ev func() promise.Event) {
			wg.Go(func() {
				rec, err := b.Apply(t.Context(), "p", ev())
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					wins[want]++
					if rec.State != want {
						t.Errorf("won as %s, told %s", want, rec.State)
					}
				case !isAny(err, promise.ErrSettled) || !rec.State.Terminal():
					t.Errorf("lost with %v, told %s", err, rec.State)
				}
			})
		}
		for range 4 {
			race(promise.Canceled, func() promise.Event { return promise.Cancel{SettleID: b.NewNonce()} })
			race(promise.Rejected, func() promise.Event {
				return promise.Settle{State: promise.Rejected, SettleID: b.NewNonce()}
			})
			race(promise.Resolved, func() promise.Event {
				return promise.Fulfil{Version: 1, ClaimID: named("claim"), SettleID: named("mine"), Outcome: promise.Outcome{Cause: promise.CauseOK}}
			})
		}
		wg.Wait()
		rec := b.stored("p")
		if len(wins) != 1 || wins[rec.State] == 0 {
			t.Errorf("stored %s, won: %v", rec.State, wins)
		}
		if rec.State == promise.Rejected && wins[rec.State] != 1 {
			t.Errorf("%d strangers settled it", wins[rec.State])
		}
	})
}

// TestCreateRaces makes one id many times at once: one promise, and everybody
// gets it (row 1).
func TestCreateRaces(t *testing.T) {
	b := newBench(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	created := 0
	for range 16 {
		wg.Go(func() {
			rec, err := b.Create(t.Context(), draft("p", b.now()), nil)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				created++
			} else if !errors.Is(err, promise.ErrExists) {
				t.Error(err)
			}
			if rec.ID != "p" || rec.Rev != 1 {
				t.Errorf("got %q at rev %d", rec.ID, rec.Rev)
			}
		})
	}
	wg.Wait()
	if created != 1 || b.depth() != 1 {
		t.Errorf("created %d times, %d messages", created, b.depth())
	}
}

// TestNoQueue: a promise whose message cannot be sent is there all the same,
// and is sent for when the queue is back (row 20).
func TestNoQueue(t *testing.T) {
	b := newBench(t)
	b.Engine.Queue = queue.NewMemory()
	if _, err := b.Create(t.Context(), draft("p", b.now()), nil); err != nil {
		t.Fatal(err)
	}
	b.Engine.Queue = b.queue
	b.pass(time.Minute)
	b.sweep()
	if b.depth() != 1 {
		t.Errorf("%d messages", b.depth())
	}
}

var _ store.Store = (*faultyStore)(nil)
