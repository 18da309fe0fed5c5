package protocol

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"modulate/internal/blob"
	"modulate/internal/emulator"
	"modulate/internal/engine"
	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/internal/sqlite"
	"modulate/internal/store"
	"modulate/internal/store/dynamostore"
	"modulate/internal/store/sqlitestore"
)

var requests = flag.Int("requests", 20_000, "random requests of TestDifferential for each store")

// debugged is a store with what a server in debug mode needs.
type debugged interface {
	store.Store
	store.Searcher
	Wipe(context.Context) error
}

// client sends requests to a handler in debug mode at a time of its own.
type client struct {
	t    *testing.T
	door http.Handler
	now  int64
	path string // "": /
}

func newClient(t *testing.T, s debugged) *client {
	e := &engine.Engine{Store: s, Queue: queue.NewMemory("cpu"), Blobs: blob.NewMemory()}
	return &client{t: t, door: New(Config{Engine: e, Search: s, Debug: &Debug{Wipe: s.Wipe}}), now: 1_700_000_000_000}
}

// post sends one envelope, and checks that of the answer.
func (c *client) post(kind string, data any) (int, json.RawMessage) {
	c.t.Helper()
	body, err := json.Marshal(map[string]any{
		"kind": kind, "data": data,
		"head": map[string]any{"corrId": "c1", "version": Version, "resonate:debug_time": c.now, "later": true},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return c.raw(body, kind, "c1")
}

func (c *client) raw(body []byte, kind, corr string) (int, json.RawMessage) {
	c.t.Helper()
	w := httptest.NewRecorder()
	c.door.ServeHTTP(w, httptest.NewRequest("POST", cmp.Or(c.path, "/"), bytes.NewReader(body)))
	var got struct {
		Kind string
		Head answerHead
		Data json.RawMessage
	}
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Header().Get("Content-Type") != "application/json" {
		c.t.Fatalf("%s: %q: %v", kind, w.Body, err)
	}
	if got.Kind != kind || got.Head != (answerHead{corr, w.Code, Version}) {
		c.t.Fatalf("%s: answered %d with the head %+v of %s", kind, w.Code, got.Head, got.Kind)
	}
	if w.Code >= 400 && (len(got.Data) == 0 || got.Data[0] != '"') {
		c.t.Fatalf("%s: %d with the data %s, want a sentence", kind, w.Code, got.Data)
	}
	return w.Code, got.Data
}

// TestMain ends the emulators that a test started.
func TestMain(m *testing.M) { emulator.Main(m) }

// table is a store on an emulator, which can be wiped.
type table struct {
	*dynamostore.Store
	client *dynamodb.Client
}

// Wipe removes every promise.
func (d table) Wipe(ctx context.Context) error {
	for {
		all, err := d.Search(ctx, "", 1000)
		if err != nil || len(all) == 0 {
			return err
		}
		for _, rec := range all {
			key := map[string]types.AttributeValue{
				"p": &types.AttributeValueMemberS{Value: promise.OriginOf(rec.ID)}, "i": &types.AttributeValueMemberS{Value: rec.ID},
			}
			if _, err := d.client.DeleteItem(ctx, &dynamodb.DeleteItemInput{TableName: &d.Table, Key: key}); err != nil {
				return err
			}
		}
	}
}

// newTable makes a table on an emulator.
func newTable(t *testing.T, endpoint string) table {
	client := dynamodb.NewFromConfig(emulator.Config(t, endpoint))
	return table{dynamostore.New(client, dynamostore.Config{Table: emulator.Table(t, client)}), client}
}

// TestDifferential: the same random requests to the core over a map and to each
// store behind the handler are answered the same and leave the same.
func TestDifferential(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(t *testing.T) debugged{
		"memory": func(*testing.T) debugged { return store.NewMemory() },
		"sqlite": func(t *testing.T) debugged { return newFile(t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			compare(t, newClient(t, open(t)), 0, *requests)
		})
	}
}

// TestDifferentialOnDynamoDB is TestDifferential over an emulator, in two tables
// at once.
func TestDifferentialOnDynamoDB(t *testing.T) {
	t.Parallel()
	for n := range 2 {
		t.Run(fmt.Sprint("half ", n+1), func(t *testing.T) {
			t.Parallel()
			compare(t, newClient(t, newTable(t, emulator.DynamoDB(t))), n, *requests/2)
		})
	}
}

// newFile makes a store in a file.
func newFile(t *testing.T) *sqlitestore.Store {
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return sqlitestore.New(db)
}

// compare makes n requests, in rounds that each begin with nothing.
func compare(t *testing.T, c *client, seed, n int) {
	const round = 200
	if testing.Short() || watched {
		n = min(n, 1000)
	}
	seen := map[string]int{}
	for r := range (n + round - 1) / round {
		c.post("debug.reset", map[string]any{})
		g := generator{rand.New(rand.NewPCG(uint64(r), uint64(seed))), c.now}
		o := &oracle{recs: map[string]promise.Record{}}
		for i := range round {
			kind, data := g.next(o)
			c.now, o.now = g.now, promise.Time(g.now)
			status, body := c.post(kind, data)
			want, wantBody := o.do(kind, data)
			seen[fmt.Sprint(kind, " ", status)]++
			if status != want || want < 400 && !same(body, wantBody) {
				t.Fatalf("round %d, request %d: %s %s\nanswered %d %s\nthe core  %d %s", r, i, kind, text(data), status, body, want, text(wantBody))
			}
			if i%10 == 9 {
				if _, snap := c.post("debug.snap", map[string]any{}); !same(snap, o.snap()) {
					t.Fatalf("round %d, after request %d: %s %s\nit holds  %s\nthe core %s", r, i, kind, text(data), snap, text(o.snap()))
				}
			}
		}
	}
	for _, rare := range []string{"task.suspend 300", "task.suspend 200", "task.suspend 422", "task.fence 200", "task.fence 409", "task.create 409", "task.create 422", "task.fulfill 200", "promise.register_callback 422", "task.continue 200"} {
		if seen[rare] == 0 && n >= 5000 {
			t.Errorf("%s never came", rare)
		}
	}
}

// same compares JSON.
func same(got json.RawMessage, want any) bool {
	var a, b any
	return json.Unmarshal(got, &a) == nil && json.Unmarshal([]byte(text(want)), &b) == nil && text(a) == text(b)
}

// generator makes requests about few ids, mostly such as make sense.
type generator struct {
	*rand.Rand
	now int64
}

var ids = []string{"a", "a.1", "a.1.1", "a.2", "b:1", "b", "b:1.1", "c"}

func pick[E any](g *generator, of ...E) E { return of[g.IntN(len(of))] }

func (g *generator) next(o *oracle) (string, map[string]any) {
	if g.IntN(4) == 0 {
		g.now += pick(g, int64(1), 1000, 5000, 10_000, 30_000)
	}
	id := pick(g, ids...)
	version := o.recs[id].Task.Version
	if g.IntN(6) == 0 {
		version += uint64(g.IntN(2))
	}
	held := func() string {
		for _, id := range ids {
			if o.recs[id].Task.State == promise.TaskAcquired && g.IntN(2) == 0 {
				return id
			}
		}
		return id
	}
	pid := pick(g, "w1", "w1", "w2")
	switch k := g.IntN(20); k {
	case 0, 1:
		return "promise.create", g.promise(id)
	case 2:
		return "promise.get", map[string]any{"id": id}
	case 3:
		return "promise.settle", g.settle(id)
	case 4:
		return "promise.register_callback", map[string]any{"awaited": id, "awaiter": pick(g, ids...)}
	case 5:
		return "promise.register_listener", map[string]any{"awaited": id, "address": pick(g, "poll://uni@g/x", "poll://any@g")}
	case 6:
		data := g.promise(id)
		tags := data["tags"].(map[string]string)
		tags[promise.TagTarget] = "poll://any@g"
		delete(tags, promise.TagDelay)
		return "task.create", map[string]any{"pid": pid, "ttl": 10_000, "action": map[string]any{"kind": "promise.create", "head": map[string]any{}, "data": data}}
	case 7, 8, 9:
		return "task.acquire", map[string]any{"id": id, "version": version, "pid": pid, "ttl": 10_000}
	case 10:
		return pick(g, "task.release", "task.get"), map[string]any{"id": id, "version": version}
	case 11:
		id = held()
		return "task.fulfill", map[string]any{"id": id, "version": o.recs[id].Task.Version, "action": map[string]any{"kind": "promise.settle", "head": map[string]any{}, "data": g.settle(id)}}
	case 12, 13, 14:
		id = held()
		var actions []any
		for range 1 + g.IntN(2) {
			actions = append(actions, map[string]any{"kind": "promise.register_callback", "head": map[string]any{}, "data": map[string]any{"awaited": pick(g, ids...), "awaiter": id}})
		}
		return "task.suspend", map[string]any{"id": id, "version": o.recs[id].Task.Version, "actions": actions}
	case 15, 16:
		if g.IntN(4) > 0 {
			id = held()
			version = o.recs[id].Task.Version
		}
		action := map[string]any{"kind": "promise.create", "head": map[string]any{"corrId": "in"}, "data": g.promise(pick(g, ids...))}
		if g.IntN(2) == 0 {
			action["kind"], action["data"] = "promise.settle", g.settle(pick(g, ids...))
		}
		return "task.fence", map[string]any{"id": id, "version": version, "action": action}
	case 17:
		return "task.heartbeat", map[string]any{"pid": pid, "tasks": []any{map[string]any{"id": id, "version": version}, map[string]any{"id": held(), "version": 1}}}
	case 18:
		return pick(g, "task.halt", "task.continue", "task.continue"), map[string]any{"id": id}
	default:
		return "debug.tick", map[string]any{"time": g.now}
	}
}

func (g *generator) promise(id string) map[string]any {
	tags := map[string]string{}
	timeout := g.now + pick(g, int64(0), 5000, 60_000, 600_000)
	if g.IntN(4) > 0 {
		tags[promise.TagTarget] = pick(g, "poll://any@g", "poll://uni@h/x")
		if g.IntN(4) == 0 && timeout > g.now {
			tags[promise.TagDelay] = fmt.Sprint(g.now + 2000)
		}
	}
	if g.IntN(4) == 0 {
		tags[promise.TagTimer] = "true"
	}
	if g.IntN(2) == 0 {
		tags[promise.TagBranch] = promise.OriginOf(id)
	}
	return map[string]any{
		"id": id, "timeoutAt": timeout, "tags": tags,
		"param": map[string]any{"data": pick(g, "", "p")},
	}
}

func (g *generator) settle(id string) map[string]any {
	return map[string]any{"id": id, "state": pick(g, "resolved", "rejected", "rejected_canceled"), "value": map[string]any{"headers": map[string]any{"h": "v"}, "data": "d"}}
}
