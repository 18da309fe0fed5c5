package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"modulate/internal/promise"
	"modulate/internal/store"
)

// Load is how much concurrency a linearizability test makes.
type Load struct {
	Histories  int
	Clients    int
	Operations int // of each client
	Seed       uint64
}

// Linearizable has clients create, read and replace few records at once, and
// checks that every answer, a refusal's record too, fits one order of the
// operations that agrees with time. What cannot be decided fails. With several
// handles on one store the clients use them in turn.
func Linearizable(t *testing.T, load Load, handles ...store.Store) {
	t.Helper()
	for h := range load.Histories {
		history := run(t, load, h, handles)
		if t.Failed() {
			return
		}
		if verdict := porcupine.CheckOperationsTimeout(model(), history, time.Minute); verdict != porcupine.Ok {
			t.Fatalf("history %d of seed %d: %s", h, load.Seed, verdict)
		}
	}
}

// kind is what a client asks for.
type kind uint8

const (
	create kind = iota
	get
	replace
)

// call is an operation's input, cell its output and the state of one record:
// zero where there is none.
type (
	call struct {
		kind kind
		id   string
		rev  uint64 // that it writes
		by   promise.Nonce
	}
	cell struct {
		rev uint64
		by  promise.Nonce
	}
	reply struct {
		done   bool
		stored cell // what was read, or what refused
	}
)

// model is one record under a guard.
func model() porcupine.Model {
	return porcupine.Model{
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			byID := map[string][]porcupine.Operation{}
			for _, op := range history {
				id := op.Input.(call).id
				byID[id] = append(byID[id], op)
			}
			var parts [][]porcupine.Operation
			for _, part := range byID {
				parts = append(parts, part)
			}
			return parts
		},
		Init: func() any { return cell{} },
		Step: func(state, input, output any) (bool, any) {
			now, in, out := state.(cell), input.(call), output.(reply)
			if in.kind != get && in.rev == now.rev+1 {
				return out.done, cell{in.rev, in.by}
			}
			return out.done == (in.kind == get) && out.stored == now, now
		},
	}
}

// run records one history.
func run(t *testing.T, load Load, number int, handles []store.Store) []porcupine.Operation {
	var all sync.WaitGroup
	parts := make([][]porcupine.Operation, load.Clients)
	start := time.Now()
	for client := range load.Clients {
		r := rand.New(rand.NewPCG(load.Seed+uint64(number), uint64(client)))
		all.Go(func() {
			last := map[string]uint64{} // the revs this client knows
			for range load.Operations {
				in := ask(r, number, last)
				began := time.Since(start).Nanoseconds()
				out, err := tell(t.Context(), handles[client%len(handles)], in)
				if err != nil {
					t.Error(err)
					return
				}
				last[in.id] = out.stored.rev
				if in.kind != get && out.done {
					last[in.id] = in.rev
				}
				parts[client] = append(parts[client], porcupine.Operation{
					ClientId: client, Input: in, Call: began, Output: out, Return: time.Since(start).Nanoseconds(),
				})
			}
		})
	}
	all.Wait()
	var history []porcupine.Operation
	for _, part := range parts {
		history = append(history, part...)
	}
	return history
}

// ask picks an operation: mostly one that could succeed as far as the client
// knows.
func ask(r *rand.Rand, history int, last map[string]uint64) call {
	in := call{id: fmt.Sprintf("h%d-%d", history, r.IntN(4))}
	for i := range in.by {
		in.by[i] = byte(r.Uint32())
	}
	switch known := last[in.id]; {
	case r.IntN(4) == 0:
		in.kind, in.by = get, promise.Nonce{}
	case known == 0:
		in.kind, in.rev = create, 1
	default:
		in.kind, in.rev = replace, known+1
	}
	return in
}

// tell does an operation.
func tell(ctx context.Context, s store.Store, in call) (reply, error) {
	rec := promise.Record{ID: in.id, Rev: in.rev, WriteID: in.by, Owner: "local", Machine: "cpu"}
	var err error
	switch in.kind {
	case get:
		rec, err = s.Get(ctx, in.id)
		if errors.Is(err, store.ErrNotFound) {
			rec, err = promise.Record{}, nil
		}
		return reply{done: true, stored: cell{rec.Rev, rec.WriteID}}, err
	case create:
		err = s.Create(ctx, rec)
	default:
		err = s.Replace(ctx, rec)
	}
	var refused *store.Refused
	if errors.As(err, &refused) {
		return reply{stored: cell{refused.Stored.Rev, refused.Stored.WriteID}}, nil
	}
	return reply{done: true}, err
}
