package protocol

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"modulate/internal/emulator"
)

// filled is a client of a store whose records have a size that they may have at
// most.
type filled struct{ *client }

// must asks for what is to be answered so.
func (f filled) must(status int, kind string, data object) json.RawMessage {
	f.t.Helper()
	got, body := f.post(kind, data)
	if got != status {
		f.t.Fatalf("%s of %v: %d %.200s, want %d", kind, data["id"], got, body, status)
	}
	return body
}

// hold makes a task, taken at version 1, with so many bytes as its parameter.
func (f filled) hold(id string, bytes int) (status int) {
	status, _ = f.post("task.create", object{"pid": "w", "ttl": 3_600_000, "action": action1("promise.create", f.promise(id, bytes))})
	return status
}

func (f filled) promise(id string, bytes int) object {
	return object{
		"id": id, "timeoutAt": f.now + 3_600_000, "tags": object{"resonate:target": "poll://any@g"},
		"param": object{"data": strings.Repeat("x", bytes)},
	}
}

// suspend has a task at version 1 await others.
func (f filled) suspend(id string, awaited ...string) (status int) {
	var actions []object
	for _, other := range awaited {
		actions = append(actions, action1("promise.register_callback", object{"awaited": other, "awaiter": id}))
	}
	status, _ = f.post("task.suspend", object{"id": id, "version": 1, "actions": actions})
	return status
}

func (f filled) wantTask(id, state string) {
	f.t.Helper()
	if body := f.must(http.StatusOK, "task.get", object{"id": id}); !strings.Contains(string(body), `"state":"`+state+`"`) {
		f.t.Errorf("the task of %.20s is %s, want %s", id, body, state)
	}
}

func (f filled) resolve(id string) object {
	return object{"id": id, "state": "resolved", "value": object{"data": "done"}}
}

// long is the n-th id of a graph, nearly as long as one may be.
func long(graph string, n int) string {
	return fmt.Sprintf("%s.%04d%s", graph, n, strings.Repeat("x", 880))
}

// TestFullRecords: on DynamoDB what is on a promise has a most. What would be
// more is refused as a whole; and nothing that there was room for is stuck later,
// however much resumes it or is resumed with it.
func TestFullRecords(t *testing.T) {
	t.Parallel()
	f := filled{newClient(t, newTable(t, emulator.DynamoDB(t)))}

	t.Run("a parameter", func(t *testing.T) {
		f.t = t
		const most = 368 << 10
		room := most
		for ; f.hold("brim", room) != http.StatusOK; room -= 10 {
			if room < most-1000 {
				t.Fatalf("no room for %d bytes", room)
			}
			f.must(http.StatusNotFound, "promise.get", object{"id": "brim"}) // nothing of it is stored
		}
		child := long("brim", 1)
		f.must(http.StatusOK, "promise.create", f.promise(child, 0))
		if status := f.suspend("brim", child); status != http.StatusOK {
			t.Fatalf("suspended: %d", status)
		}
		f.must(http.StatusOK, "promise.settle", f.resolve(child))
		f.must(http.StatusOK, "task.acquire", object{"id": "brim", "version": 1, "pid": strings.Repeat("w", 1000), "ttl": 1000})
		f.must(http.StatusOK, "task.fulfill", object{"id": "brim", "version": 2, "action": action1("promise.settle", f.resolve("brim"))})
	})

	t.Run("those who await it", func(t *testing.T) {
		f.t = t
		if status := f.hold("crowd", 300<<10); status != http.StatusOK {
			t.Fatal(status)
		}
		refused := 0
		for n := 0; refused == 0; n++ {
			if status := f.hold(long("crowd", n), 0); status != http.StatusOK {
				t.Fatal(status)
			}
			switch status := f.suspend(long("crowd", n), "crowd"); {
			case status == http.StatusInsufficientStorage && n > 60:
				refused = n
			case status != http.StatusOK:
				t.Fatalf("the awaiter %d: %d", n, status)
			}
		}
		f.wantTask(long("crowd", refused), "acquired")
		if status, _ := f.post("promise.register_callback", object{"awaited": "crowd", "awaiter": long("crowd", refused)}); status != http.StatusInsufficientStorage {
			t.Errorf("a callback: %d", status)
		}
		f.must(http.StatusOK, "task.release", object{"id": "crowd", "version": 1})
		f.must(http.StatusOK, "task.acquire", object{"id": "crowd", "version": 1, "pid": "w", "ttl": 3_600_000})
		f.must(http.StatusOK, "task.fulfill", object{"id": "crowd", "version": 2, "action": action1("promise.settle", f.resolve("crowd"))})
		f.must(http.StatusOK, "debug.tick", object{"time": f.now})
		for n := range refused {
			f.wantTask(long("crowd", n), "pending")
		}
	})

	t.Run("what resumes it", func(t *testing.T) {
		f.t = t
		const children = 60 // whose ids have 53 KB
		if status := f.hold("fan", 366<<10); status != http.StatusOK {
			t.Fatal(status)
		}
		var ids []string
		for n := range children {
			ids = append(ids, long("fan", n))
			f.must(http.StatusOK, "promise.create", f.promise(ids[n], 0))
		}
		if status := f.suspend("fan", ids...); status != http.StatusOK {
			t.Fatalf("suspended: %d", status)
		}
		for _, id := range ids {
			f.must(http.StatusOK, "promise.settle", f.resolve(id))
		}
		f.wantTask("fan", "pending")
	})

	t.Run("what is written with it", func(t *testing.T) {
		f.t = t
		const many, bytes = 15, 300 << 10 // together more than a transaction takes
		if status := f.hold("heavy", bytes); status != http.StatusOK {
			t.Fatal(status)
		}
		var awaited []string
		for n := range many {
			id := fmt.Sprint("heavy.a", n)
			awaited = append(awaited, id)
			f.must(http.StatusOK, "promise.create", f.promise(id, bytes))
		}
		if status := f.suspend("heavy", awaited...); status != http.StatusOK {
			t.Fatalf("suspended: %d", status)
		}
		for n := range many {
			id := fmt.Sprint("heavy.b", n)
			if status := f.hold(id, bytes); status != http.StatusOK {
				t.Fatal(status)
			}
			if status := f.suspend(id, awaited[0]); status != http.StatusOK {
				t.Fatalf("suspended: %d", status)
			}
		}
		if status := f.hold("heavy.c", 0); status != http.StatusOK {
			t.Fatal(status)
		}
		f.must(http.StatusOK, "task.fence", object{"id": "heavy.c", "version": 1, "action": action1("promise.settle", f.resolve(awaited[0]))})
		f.must(http.StatusOK, "debug.tick", object{"time": f.now})
		f.wantTask("heavy", "pending")
		for n := range many {
			f.wantTask(fmt.Sprint("heavy.b", n), "pending")
		}
	})
}
