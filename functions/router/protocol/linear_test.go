package protocol

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"modulate/internal/blob"
	"modulate/internal/engine"
	"modulate/internal/queue"
	"modulate/internal/sqlite"
	"modulate/internal/store/sqlitestore"
)

// ask is what a client asks, and told what it was answered.
type ask struct {
	kind    string
	version uint64
	state   string
}

type told struct {
	status  int
	state   string // of the promise
	version uint64
}

// seen is a task as one would keep it on paper.
type seen struct {
	state    string
	acquired bool
	version  uint64
}

// follows reports whether an answer is right after what was, and what is then.
func follows(was seen, a ask, got told) (bool, seen) {
	held := was.state == "pending" && was.acquired && a.version == was.version
	switch a.kind {
	case "promise.get":
		return got.state == was.state, was
	case "promise.settle":
		if was.state == "pending" {
			was = seen{state: a.state, version: was.version}
		}
		return got.state == was.state, was
	case "task.acquire":
		if was.state != "pending" || was.acquired || a.version != was.version {
			return got.status == 409, was
		}
		was.acquired, was.version = true, was.version+1
		return got.status == 200 && got.version == was.version, was
	case "task.release":
		if held {
			was.acquired = false
		}
		return (got.status == 200) == held, was
	default: // task.fulfill
		if held {
			was = seen{state: a.state, version: was.version}
		}
		return (got.status == 200) == held, was
	}
}

// TestLinearizable: what concurrent clients are answered about one task is what
// they would be one after the other.
func TestLinearizable(t *testing.T) {
	histories := 60
	if testing.Short() {
		histories = 10
	}
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	s := sqlitestore.New(db)
	c := &client{t: t, now: time.Now().UnixMilli(), door: New(Config{
		Engine: &engine.Engine{Store: s, Queue: queue.NewMemory(), Blobs: blob.NewMemory()}, Search: s,
	})}
	model := porcupine.Model{
		Init: func() any { return seen{state: "pending"} },
		Step: func(state, input, output any) (bool, any) { return follows(state.(seen), input.(ask), output.(told)) },
	}
	for h := range histories {
		id := fmt.Sprint("h", h)
		c.post("promise.create", object{"id": id, "timeoutAt": c.now + 3_600_000, "tags": object{"resonate:target": "poll://any@g"}})
		history := c.race(id, uint64(h))
		if result := porcupine.CheckOperationsTimeout(model, history, 30*time.Second); result != porcupine.Ok {
			t.Fatalf("history %d is %s: %+v", h, result, history)
		}
	}
}

// race has 8 clients ask 25 times each.
func (c *client) race(id string, seed uint64) (history []porcupine.Operation) {
	var mu sync.Mutex
	var all sync.WaitGroup
	var latest uint64
	for n := range 8 {
		all.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(n)))
			for range 25 {
				mu.Lock()
				a := ask{kind: []string{"task.acquire", "task.acquire", "task.release", "task.release", "promise.get", "task.fulfill", "promise.settle"}[r.IntN(7)], version: latest}
				mu.Unlock()
				if a.kind == "task.fulfill" || a.kind == "promise.settle" {
					if r.IntN(12) > 0 {
						a.kind = "promise.get"
					}
					a.state = []string{"resolved", "rejected"}[r.IntN(2)]
				}
				call := time.Now().UnixNano()
				got := c.ask(id, a)
				end := time.Now().UnixNano()
				mu.Lock()
				latest = max(latest, got.version)
				history = append(history, porcupine.Operation{ClientId: n, Input: a, Call: call, Output: got, Return: end})
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return history
}

func (c *client) ask(id string, a ask) told {
	data := object{"id": id, "version": a.version, "pid": "w", "ttl": 3_600_000, "state": a.state}
	if a.kind == "task.fulfill" {
		data["action"] = action1("promise.settle", object{"id": id, "state": a.state})
	}
	status, body := c.post(a.kind, data)
	var got struct {
		Promise struct{ State string }
		Task    struct{ Version uint64 }
	}
	json.Unmarshal(body, &got) // a refusal is a sentence
	return told{status, got.Promise.State, got.Task.Version}
}
