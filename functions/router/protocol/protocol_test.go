package protocol

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"modulate/internal/blob"
	"modulate/internal/engine"
	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/internal/store"
)

// object is JSON in Go.
type object = map[string]any

func action1(kind string, data object) object {
	return object{"kind": kind, "head": object{}, "data": data}
}

// TestEnvelopes: what is not a request is answered by an envelope all the same.
func TestEnvelopes(t *testing.T) {
	c := newClient(t, store.NewMemory())
	const head = `"head":{"corrId":"c","version":"2026-04-01"}`
	for _, e := range []struct{ body, kind, corr string }{
		{`no JSON`, "unknown", "0"},
		{``, "unknown", "0"},
		{`[]`, "unknown", "0"},
		{`{"kind":"promise.get","head":{"corrId":"c","version":7},"data":{}}`, "promise.get", "c"},
		{`{` + head + `,"data":{}}`, "unknown", "c"},
		{`{"kind":"promise.get",` + head + `}`, "promise.get", "c"},
		{`{"kind":"promise.get",` + head + `,"data":[]}`, "promise.get", "c"},
		{`{"kind":"promise.get","head":{"corrId":"c"},"data":{}}`, "promise.get", "c"},
		{`{"kind":"promise.get","head":{"version":"2026-04-01"},"data":{}}`, "promise.get", "0"},
		{`{"kind":"promise.get","head":{"corrId":"c","version":"2020-01-01"},"data":{"id":"a"}}`, "promise.get", "c"},
		{`{"kind":"promise.forget",` + head + `,"data":{}}`, "promise.forget", "c"},
		{`{"kind":"promise.get",` + head + `,"data":{"id":7}}`, "promise.get", "c"},
		{`{"kind":"promise.get",` + head + `,"data":{}}`, "promise.get", "c"},
	} {
		if status, data := c.raw([]byte(e.body), e.kind, e.corr); status != 400 {
			t.Errorf("%s: %d %s", e.body, status, data)
		}
	}

	s := store.NewMemory() // without debug mode what a request says of the time is nobody's concern
	plain := &client{t: t, door: New(Config{Engine: &engine.Engine{Store: s, Queue: queue.NewMemory(), Blobs: blob.NewMemory()}, Search: s})}
	body := `{"kind":"promise.search","head":{"corrId":"c","version":"2026-04-01","resonate:debug_time":"soon"},"data":{}}`
	if status, data := plain.raw([]byte(body), "promise.search", "c"); status != 200 {
		t.Errorf("%d %s", status, data)
	}
}

// TestStatuses goes through what is refused, kind by kind.
func TestStatuses(t *testing.T) {
	c := newClient(t, store.NewMemory())
	later := c.now + 60_000
	create := func(id string, tags object) object { return object{"id": id, "timeoutAt": later, "tags": tags} }
	target := object{"resonate:target": "poll://any@g"}
	long := strings.Repeat("x", 901)
	for n, e := range []struct {
		kind   string
		data   object
		status int
	}{
		{"promise.create", create("free", object{}), 200},
		{"promise.create", create("work", target), 200},
		{"promise.create", create("other.id/with?ä", object{"resonate:origin": "other"}), 200},
		{"promise.get", object{"id": "other.id/with?ä"}, 200},
		{"promise.create", create(long, object{}), 400},
		{"promise.create", create(long[1:], object{}), 200},
		{"promise.create", create(strings.Repeat("ä", 151), object{}), 400}, // six bytes each as it is stored
		{"promise.create", create("", object{}), 400},
		{"promise.create", object{"id": "x", "timeoutAt": -1}, 400},
		{"promise.create", object{"id": "x"}, 400},
		{"promise.create", create("x", object{"resonate:target": "sqs://queue"}), 400},
		{"promise.create", create("x", object{"resonate:target": "poll://uni@g"}), 400},
		{"promise.create", create("x", object{"resonate:delay": "1"}), 400},
		{"promise.create", create("x", object{"resonate:delay": fmt.Sprint(later), "resonate:target": "poll://any@g"}), 400},
		{"promise.create", create("x", object{"resonate:delay": "soon", "resonate:target": "poll://any@g"}), 400},
		{"promise.create", create("x", object{"resonate:origin": "y"}), 400},
		{"promise.create", create("yx", object{"resonate:origin": "y"}), 400},
		{"promise.create", create("y:x", object{"resonate:origin": "y", "resonate:branch": "y", "resonate:parent": "y"}), 200},
		{"promise.create", create("y.d1", object{"resonate:origin": "y.d1"}), 200}, // a detached child of the Python SDK 0.7
		{"promise.create", create("x", object{"modulate:call": "x.py"}), 400},
		{"promise.create", create("x", object{"tag": 7}), 400},
		{"promise.get", object{"id": "nowhere"}, 404},
		{"promise.settle", object{"id": "nowhere", "state": "resolved"}, 404},
		{"promise.settle", object{"id": "free", "state": "pending"}, 400},
		{"promise.settle", object{"id": "free", "state": "rejected_timedout"}, 400},
		{"promise.settle", object{"id": "free"}, 400},
		{"promise.register_callback", object{"awaited": "free", "awaiter": "free"}, 400},
		{"promise.register_callback", object{"awaited": "free", "awaiter": "work"}, 400},
		{"promise.register_callback", object{"awaited": "nowhere", "awaiter": "work"}, 404},
		{"promise.register_callback", object{"awaited": "free", "awaiter": "nowhere"}, 422},
		{"promise.register_callback", object{"awaited": "work", "awaiter": "free"}, 422},
		{"promise.register_listener", object{"awaited": "nowhere", "address": "poll://uni@g/x"}, 404},
		{"promise.register_listener", object{"awaited": "free", "address": "here"}, 400},
		{"promise.register_listener", object{"awaited": "free"}, 400},
		{"task.get", object{"id": "free"}, 404},
		{"task.acquire", object{"id": "work", "version": 1, "pid": "w", "ttl": 1000}, 409},
		{"task.acquire", object{"id": "work", "version": -1, "pid": "w", "ttl": 1000}, 400},
		{"task.acquire", object{"id": "work", "version": 0, "pid": "w", "ttl": 0}, 400},
		{"task.acquire", object{"id": "work", "version": 0, "ttl": 1000}, 400},
		{"task.acquire", object{"id": "work", "version": 0, "pid": strings.Repeat("w", 1001), "ttl": 1000}, 400},
		{"task.acquire", object{"id": "free", "version": 0, "pid": "w", "ttl": 1000}, 404},
		{"task.acquire", object{"id": "work", "version": 0, "pid": "w", "ttl": 1000}, 200},
		{"task.acquire", object{"id": "work", "version": 1, "pid": "w", "ttl": 1000}, 409},
		{"task.create", object{"pid": "w", "ttl": 1000, "action": action1("promise.create", create("x", object{}))}, 400},
		{"task.create", object{"pid": "w", "ttl": 1000, "action": action1("promise.create", create("x", object{"resonate:target": "poll://any@g", "resonate:delay": "1"}))}, 400},
		{"task.create", object{"pid": "w", "ttl": 1000, "action": action1("promise.create", create("work", target))}, 409},
		{"task.create", object{"pid": "w", "ttl": 1000, "action": action1("promise.create", create("free", target))}, 422},
		{"task.create", object{"pid": "w", "ttl": 1000}, 400},
		{"task.suspend", object{"id": "work", "version": 1, "actions": []any{}}, 400},
		{"task.suspend", object{"id": "work", "version": 1, "actions": []any{action1("", object{"awaited": "work", "awaiter": "work"})}}, 400},
		{"task.suspend", object{"id": "work", "version": 1, "actions": []any{action1("", object{"awaited": "work.1", "awaiter": "free"})}}, 400},
		{"task.suspend", object{"id": "work", "version": 1, "actions": []any{action1("", object{"awaited": "work.1", "awaiter": "work"})}}, 422},
		{"task.suspend", object{"id": "work", "version": 1, "actions": []any{action1("", object{"awaited": "free", "awaiter": "work"})}}, 400},
		{"task.suspend", object{"id": "work", "version": 2, "actions": []any{action1("", object{"awaited": "free", "awaiter": "work"})}}, 409},
		{"task.fence", object{"id": "work", "version": 1, "action": action1("promise.get", object{"id": "free"})}, 400},
		{"task.fence", object{"id": "work", "version": 1, "action": action1("promise.settle", object{"id": "work", "state": "resolved"})}, 400},
		{"task.fence", object{"id": "work", "version": 0, "action": action1("promise.create", create("work.1", object{}))}, 409},
		{"task.fence", object{"id": "work", "version": 1, "action": action1("promise.settle", object{"id": "work.9", "state": "resolved"})}, 200}, // 404 within
		{"task.fulfill", object{"id": "work", "version": 1, "action": action1("promise.settle", object{"id": "free", "state": "resolved"})}, 400},
		{"task.fulfill", object{"id": "work", "version": 2, "action": action1("promise.settle", object{"id": "work", "state": "resolved"})}, 409},
		{"task.heartbeat", object{"pid": "w", "tasks": []any{object{"id": "work", "version": 1}, object{"id": "y:x", "version": 3}, object{"id": "nowhere", "version": 0}}}, 200},
		{"task.heartbeat", object{"pid": "w", "tasks": []any{}}, 200},
		{"task.heartbeat", object{"tasks": []any{}}, 400},
		{"task.continue", object{"id": "work"}, 409},
		{"task.halt", object{"id": "nowhere"}, 404},
		{"promise.search", object{"limit": 0}, 400},
		{"promise.search", object{"limit": 1001}, 400},
		{"promise.search", object{"state": "done"}, 400},
		{"task.search", object{"state": "done"}, 400},
		{"schedule.create", object{"id": "a.b", "cron": "* * * * *", "promiseId": "p", "promiseTimeout": 1, "promiseTags": target}, 400},
		{"schedule.create", object{"id": "s", "cron": "often", "promiseId": "p", "promiseTimeout": 1, "promiseTags": target}, 400},
		{"schedule.create", object{"id": "s", "cron": "* * * * *", "promiseId": "p", "promiseTimeout": 1}, 400},
		{"schedule.create", object{"id": "s", "cron": "* * * * *", "promiseId": "{{.timestamp}}" + long[:890], "promiseTimeout": 1, "promiseTags": target}, 400},
		{"schedule.create", object{"id": "s", "cron": "* * * * *", "promiseId": "p", "promiseTimeout": 1, "promiseTags": object{"resonate:target": "poll://any@g", "modulate:call": "x.py"}}, 400},
		{"schedule.get", object{"id": "s"}, 404},
		{"schedule.delete", object{"id": "s"}, 404},
		{"debug.tick", object{}, 400},
	} {
		if status, data := c.post(e.kind, e.data); status != e.status {
			t.Errorf("%d: %s %v: %d %s, want %d", n, e.kind, e.data, status, data, e.status)
		}
	}
}

// hooked is a store whose reads are preceded by what happens meanwhile.
type hooked struct {
	*store.Memory
	before func(id string)
}

// Get implements [store.Store].
func (s *hooked) Get(ctx context.Context, id string) (promise.Record, error) {
	if s.before != nil {
		s.before(id)
	}
	return s.Memory.Get(ctx, id)
}

// TestCallbackAfterTheEnds: who registers a callback for what has ended by then
// is told of the end of what it was to await, too.
func TestCallbackAfterTheEnds(t *testing.T) {
	s := &hooked{Memory: store.NewMemory()}
	c := newClient(t, s)
	for _, id := range []string{"wf", "wf.1"} {
		c.post("promise.create", object{"id": id, "timeoutAt": c.now + 60_000, "tags": object{"resonate:target": "poll://any@g"}})
	}
	s.before = func(id string) {
		if id == "wf" { // the other one was looked at
			s.before = nil
			for _, id := range []string{"wf.1", "wf"} {
				c.post("promise.settle", object{"id": id, "state": "resolved"})
			}
		}
	}
	if status, body := c.post("promise.register_callback", object{"awaited": "wf.1", "awaiter": "wf"}); status != 200 || !strings.Contains(string(body), `"state":"resolved"`) {
		t.Errorf("%d %s", status, body)
	}
}

// TestSchedules: made once, run by the clock, deleted and made again.
func TestSchedules(t *testing.T) {
	c := newClient(t, store.NewMemory())
	data := object{"id": "s", "cron": "* * * * *", "promiseId": "{{.id}}.{{.timestamp}}", "promiseTimeout": 5000, "promiseTags": object{"resonate:target": "poll://any@g", "k": "v"}}
	must := func(kind string, data object, into any) {
		t.Helper()
		status, body := c.post(kind, data)
		if status != 200 {
			t.Fatalf("%s: %d %s", kind, status, body)
		}
		if err := json.Unmarshal(body, into); into != nil && err != nil {
			t.Fatal(err)
		}
	}
	var first, again, page struct {
		Schedule  scheduleView
		Schedules []scheduleView
		Promises  []promiseView
		Cursor    string
	}
	must("schedule.create", data, &first)
	c.now += 200_000
	must("schedule.create", data, &again)
	if again.Schedule.NextRunAt != first.Schedule.NextRunAt || first.Schedule.NextRunAt%60_000 != 0 {
		t.Errorf("made twice: %+v, %+v", first, again)
	}
	must("debug.tick", object{"time": c.now}, nil)
	must("promise.search", object{"tags": object{"resonate:schedule": "s"}}, &page)
	if len(page.Promises) != 3 || page.Promises[0].ID != fmt.Sprintf("s.%d", first.Schedule.NextRunAt) || page.Promises[0].TimeoutAt != first.Schedule.NextRunAt+5000 {
		t.Errorf("three runs made %+v", page.Promises)
	}
	data["id"] = "s2"
	must("schedule.create", data, nil)
	must("schedule.search", object{"limit": 1, "tags": object{"k": "v"}}, &page)
	if len(page.Schedules) != 1 || page.Cursor != "s" {
		t.Errorf("the first page: %+v", page)
	}
	must("schedule.search", object{"cursor": "s"}, &page)
	if len(page.Schedules) != 1 || page.Schedules[0].ID != "s2" {
		t.Errorf("the second page: %+v", page)
	}
	must("schedule.delete", object{"id": "s"}, nil)
	if status, _ := c.post("schedule.get", object{"id": "s"}); status != 404 {
		t.Errorf("deleted: %d", status)
	}
	data["id"], data["cron"] = "s", "0 * * * *"
	must("schedule.create", data, &again)
	if again.Schedule.Cron != "0 * * * *" || again.Schedule.LastRunAt != nil {
		t.Errorf("made again: %+v", again)
	}
}

// TestSearchPages: the ids in order, page by page.
func TestSearchPages(t *testing.T) {
	c := newClient(t, store.NewMemory())
	for _, id := range []string{"c", "a", "b.1", "b"} {
		c.post("promise.create", object{"id": id, "timeoutAt": c.now + 1000, "tags": object{"resonate:target": "poll://any@g", "even": fmt.Sprint(len(id)%2 == 0)}})
	}
	for _, kind := range []string{"promise.search", "task.search"} {
		var got []string
		cursor := any(nil)
		for range 5 {
			_, body := c.post(kind, object{"limit": 3, "cursor": cursor, "state": "pending"})
			var page struct {
				Promises, Tasks []struct{ ID string }
				Cursor          *string
			}
			if err := json.Unmarshal(body, &page); err != nil {
				t.Fatal(err)
			}
			for _, p := range append(page.Promises, page.Tasks...) {
				got = append(got, p.ID)
			}
			if page.Cursor == nil {
				break
			}
			cursor = *page.Cursor
		}
		if strings.Join(got, " ") != "a b b.1 c" {
			t.Errorf("%s: %v", kind, got)
		}
	}
}

// TestAnswersAreBounded: what brings several promises along stays below what a
// Lambda function may answer, and pages go on where one ended.
func TestAnswersAreBounded(t *testing.T) {
	c := newClient(t, store.NewMemory())
	tags := object{"resonate:target": "poll://any@g", "resonate:branch": "wf"}
	c.post("promise.create", object{"id": "wf", "timeoutAt": c.now + 60_000, "tags": tags})
	const all = 20
	for n := range all {
		c.post("promise.create", object{
			"id": fmt.Sprintf("wf.%02d", n), "timeoutAt": c.now + 60_000, "tags": object{"resonate:branch": "wf"},
			"param": object{"data": strings.Repeat("x", 300_000)},
		})
	}
	const most = 6 << 20
	for version := range 2 {
		status, body := c.post("task.acquire", object{"id": "wf", "version": version, "pid": "w", "ttl": 1000})
		if got := strings.Count(string(body), `"resonate:branch":"wf"`); status != 200 || len(body) > most || version == 1 && got < 2 {
			t.Errorf("%d with %d bytes, %d promises", status, len(body), got)
		}
		c.post("task.release", object{"id": "wf", "version": version + 1})
	}
	for _, query := range []object{{}, {"modulate:below": "wf"}} {
		found, pages := map[string]bool{}, 0
		for more := true; more; pages++ {
			_, body := c.post("promise.search", query)
			var page struct {
				Promises []struct{ ID string }
				Cursor   *string
			}
			if err := json.Unmarshal(body, &page); err != nil || len(body) > most {
				t.Fatalf("%d bytes, %v", len(body), err)
			}
			for _, p := range page.Promises {
				found[p.ID] = true
			}
			query["cursor"], more = page.Cursor, page.Cursor != nil
		}
		if len(found) != all+1 || pages < 2 {
			t.Errorf("%d of %d promises on %d pages", len(found), all+1, pages)
		}
	}
}

// TestOwners: what is another's does not exist, and its id is taken.
func TestOwners(t *testing.T) {
	e := &engine.Engine{Store: store.NewMemory(), Queue: queue.NewMemory(), Blobs: blob.NewMemory()}
	owner := "ann"
	c := &client{t: t, now: time.Now().UnixMilli(), door: New(Config{
		Engine: e, Search: e.Store.(store.Searcher), Owner: func(*http.Request) (string, error) { return owner, nil },
	})}
	create := object{"id": "a", "timeoutAt": c.now + 60_000, "tags": object{"resonate:target": "poll://any@g"}}
	schedule := object{"id": "s", "cron": "* * * * *", "promiseId": "p", "promiseTimeout": 1, "promiseTags": object{"resonate:target": "poll://any@g"}}
	c.post("promise.create", create)
	c.post("schedule.create", schedule)
	owner = "bob"
	for kind, want := range map[string]int{"promise.get": 404, "promise.settle": 404, "task.get": 404, "task.acquire": 404, "task.halt": 404, "schedule.get": 404, "schedule.delete": 404} {
		if status, _ := c.post(kind, object{"id": map[bool]string{true: "s", false: "a"}[strings.HasPrefix(kind, "schedule")], "state": "resolved", "version": 0, "pid": "w", "ttl": 1}); status != want {
			t.Errorf("%s of another's: %d", kind, status)
		}
	}
	if status, _ := c.post("promise.create", create); status != 409 {
		t.Errorf("creating another's: %d", status)
	}
	if status, _ := c.post("schedule.create", schedule); status != 409 {
		t.Errorf("scheduling another's: %d", status)
	}
	if status, _ := c.post("task.fence", object{"id": "a", "version": 0, "action": action1("promise.create", object{"id": "a.1", "timeoutAt": c.now + 1000})}); status != 404 {
		t.Errorf("a fence of another's: %d", status)
	}
	// A machine executes for anyone, and what it makes is the task's owner's.
	c.path = WorkPath
	if status, body := c.post("task.acquire", object{"id": "a", "version": 0, "pid": "w", "ttl": 1000}); status != 200 {
		t.Errorf("acquiring another's: %d %s", status, body)
	}
	if status, body := c.post("task.fence", object{"id": "a", "version": 1, "action": action1("promise.create", object{"id": "a.1", "timeoutAt": c.now + 1000})}); status != 200 {
		t.Errorf("a child of another's: %d %s", status, body)
	}
	if rec, err := e.Get(t.Context(), "a.1"); err != nil || rec.Owner != "ann" {
		t.Errorf("the child is %s's: %v", rec.Owner, err)
	}
	if _, body := c.post("promise.search", object{}); !strings.Contains(string(body), `"promises":[]`) {
		t.Errorf("another's are found: %s", body)
	}
	if status, _ := c.post("debug.reset", object{}); status != 403 {
		t.Errorf("debug.reset without debug mode: %d", status)
	}
}

// TestOldInterface: programs with an SDK from before are told.
func TestOldInterface(t *testing.T) {
	door := newClient(t, store.NewMemory()).door
	for path, want := range map[string]int{"/promises": 410, "/promises/a": 410, "/tasks/claim": 410, "/schedules": 410, "/health": 200, "/ready": 200} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("GET", path, nil)
		door.ServeHTTP(w, r)
		if w.Code != want || !Serves(r) || want == 410 && !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}

// TestScriptsAreSeen: a script's promise shows its outcome, is nobody's task
// here, and resumes who awaits it; to reject it as cancelled cancels it.
func TestScriptsAreSeen(t *testing.T) {
	s := store.NewMemory()
	e := &engine.Engine{Store: s, Queue: queue.NewMemory("cpu"), Blobs: blob.NewMemory()}
	c := &client{t: t, now: time.Now().UnixMilli(), door: New(Config{Engine: e, Search: s})}
	script := promise.Record{ID: "wf.1", Owner: "local", Machine: "cpu", DeadlineAt: e.Time().Add(time.Hour), Call: promise.Call{Name: "x.py", Lease: time.Minute}}
	if _, err := e.Create(t.Context(), script, nil); err != nil {
		t.Fatal(err)
	}
	tags := object{"resonate:target": "poll://any@g"}
	c.post("task.create", object{"pid": "w", "ttl": 10_000, "action": action1("promise.create", object{"id": "wf", "timeoutAt": c.now + 60_000, "tags": tags})})
	if status, body := c.post("task.acquire", object{"id": "wf.1", "version": 0, "pid": "w", "ttl": 1000}); status != 409 {
		t.Errorf("a script acquired: %d %s", status, body)
	}
	if status, body := c.post("task.suspend", object{"id": "wf", "version": 1, "actions": []any{action1("", object{"awaited": "wf.1", "awaiter": "wf"})}}); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	claim := promise.Nonce{1}
	for _, ev := range []promise.Event{promise.Claim{Worker: "w", ClaimID: claim}, promise.Fulfil{Version: 1, ClaimID: claim, SettleID: promise.Nonce{2}, Outcome: promise.Outcome{Cause: promise.CauseOK, Result: promise.Body{Size: 2, Inline: []byte("{}")}}}} {
		if _, err := e.Apply(t.Context(), "wf.1", ev); err != nil {
			t.Fatal(err)
		}
	}
	if rec, err := e.Get(t.Context(), "wf"); err != nil || rec.Task.State != promise.TaskPending {
		t.Errorf("who awaits the script is %s, %v", rec.Task.State, err)
	}
	var got promiseReply
	_, body := c.post("promise.get", object{"id": "wf.1"})
	if err := json.Unmarshal(body, &got); err != nil || got.Promise.State != "resolved" || got.Promise.Value.Data == nil || got.Promise.Tags[tagCall] != "x.py" {
		t.Errorf("the script shows as %s: %v", body, err)
	}
	script.ID = "other"
	if _, err := e.Create(t.Context(), script, nil); err != nil {
		t.Fatal(err)
	}
	c.post("task.create", object{"pid": "w", "ttl": 10_000, "action": action1("promise.create", object{"id": "wf2", "timeoutAt": c.now + 60_000, "tags": tags})})
	c.post("task.fence", object{"id": "wf2", "version": 1, "action": action1("promise.settle", object{"id": "other", "state": "rejected_canceled"})})
	if rec, err := e.Get(t.Context(), "other"); err != nil || rec.Outcome.Cause != promise.CauseCanceled {
		t.Errorf("cancelled as %+v, %v", rec.Outcome, err)
	}
}
