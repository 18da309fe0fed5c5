package read

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"modulate/internal/api"
	"modulate/internal/blob"
	"modulate/internal/promise"
	"modulate/internal/store"
)

// ids lists, and returns what came.
func (w *world) ids(query string) (ids []string, cursor string) {
	w.t.Helper()
	var list api.List
	if rec, _ := w.get(&list, "/v1/promises"+query); rec.Code != 200 {
		w.t.Fatalf("%s: %d %s", query, rec.Code, rec.Body)
	}
	for _, p := range list.Items {
		ids = append(ids, p.ID)
	}
	return ids, list.Cursor
}

func TestList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		began := time.Now()
		for i := range 6 {
			time.Sleep(time.Second)
			w.create(fmt.Sprintf("a%d", i), func(rec *promise.Record) {
				if i%2 == 1 {
					rec.Machine = "gpu"
				}
			})
		}
		w.create("a0.x")
		w.run("a2", ok)
		w.owner = "bob"
		w.create("bobs")
		w.owner = "alice"
		at := func(n int) time.Time { return began.Add(time.Duration(n) * time.Second) }
		for query, want := range map[string]string{
			"":                           "a5 a0.x a4 a3 a2 a1 a0",
			"?machine=gpu":               "a5 a3 a1",
			"?machine=tpu":               "",
			"?state=resolved":            "a2",
			"?state=pending&machine=cpu": "a0.x a4 a0",
			"?prefix=a0":                 "a0.x a0",
			"?prefix=a0.":                "a0.x",
			"?prefix=b":                  "",
			"?limit=2":                   "a5 a0.x",
			"?since=" + fmt.Sprint(at(5).UnixMilli()):                            "a5 a0.x a4",
			"?since=" + url.QueryEscape(at(5).Format(time.RFC3339Nano)):          "a5 a0.x a4",
			"?since=" + url.QueryEscape(at(5).Add(1e6).Format(time.RFC3339Nano)): "a5 a0.x",
			"?since=0&prefix=a1&machine=&state=":                                 "a1",
		} {
			if got, _ := w.ids(query); strings.Join(got, " ") != want {
				t.Errorf("%q: got %v, want %s", query, got, want)
			}
		}
	})
}

func TestListWalk(t *testing.T) {
	w := newWorld(t)
	var want []string
	for i := range 23 {
		id := fmt.Sprintf("p%02d", i)
		w.create(id)
		want = append(want, id)
	}
	slices.Sort(want)
	for _, limit := range []int{1, 5, 22, 23, 24} {
		var got []string
		query, pages := fmt.Sprintf("?limit=%d", limit), 0
		for cursor := "first"; cursor != ""; pages++ {
			var page []string
			page, cursor = w.ids(query)
			got = append(got, page...)
			query = fmt.Sprintf("?limit=%d&cursor=%s", limit, url.QueryEscape(cursor))
			if len(page) > limit || pages > 30 {
				t.Fatalf("%d on a page of %d, the %dth", len(page), limit, pages)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("by %d: got %v", limit, got)
		}
	}
}

func TestListDefaultLimit(t *testing.T) {
	w := newWorld(t)
	for i := range api.DefaultLimit + 1 {
		w.create(fmt.Sprint("p", i))
	}
	if ids, cursor := w.ids(""); len(ids) != api.DefaultLimit || cursor == "" {
		t.Errorf("%d on the first page, cursor %q", len(ids), cursor)
	}
	if ids, cursor := w.ids("?limit=1000"); len(ids) != api.DefaultLimit+1 || cursor != "" {
		t.Errorf("%d of all, cursor %q", len(ids), cursor)
	}
}

func TestListRefuses(t *testing.T) {
	w := newWorld(t)
	for _, tt := range []struct {
		query, where, says string
	}{
		{"state=done", "state", "want pending, resolved"},
		{"machine=GPU", "machine", "want a lower-case letter"},
		{"prefix=a%20b", "prefix", "not the beginning of an id"},
		{"prefix=" + strings.Repeat("x", 901), "prefix", "not the beginning of an id"},
		{"since=yesterday", "since", "2026-01-31T12:00:00Z"},
		{"since=-1", "since", "want an instant"},
		{"limit=0", "limit", "want 1 to 1000"},
		{"limit=1001", "limit", "want 1 to 1000"},
		{"limit=ten", "limit", "want 1 to 1000"},
		{"limit=1&limit=2", "limit", "given 2 times"},
		{"colour=red", "colour", "known are: machine, state, prefix, since, limit, cursor"},
	} {
		w.refused("/v1/promises?"+tt.query, api.ErrInvalid, tt.where, tt.says)
	}
	w.refused("/v1/promises?cursor=x", store.ErrCursor, "", "")
}

// A list shows what stands in the records, and reads nothing else.
func TestListReadsNoBlobs(t *testing.T) {
	w := newWorld(t)
	w.create("x", func(rec *promise.Record) { rec.Call.InputBlob = promise.Hash{1} })
	w.run("x", promise.Outcome{Cause: promise.CauseOK, Result: promise.Body{Size: 1000}})
	w.put(blob.ResultKey("x", 1), `{"a":1}`)
	var list api.List
	if w.get(&list, "/v1/promises"); len(list.Items) != 1 || list.Items[0].Outcome.Result != nil || list.Items[0].State != "resolved" {
		t.Errorf("got %+v", list)
	}
}

func TestMachines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for _, id := range []string{"a", "b", "c"} {
			w.create(id)
		}
		began := w.engine.Time()
		announce := func(name, machine string, slots, running int) {
			err := w.store.Announce(t.Context(), store.Presence{Worker: name, Machine: machine, Slots: slots, Running: running, Started: began, Seen: w.engine.Time()})
			if err != nil {
				t.Fatal(err)
			}
		}
		announce("gone", "tpu", 1, 1)
		time.Sleep(store.PresenceTTL + time.Millisecond)
		announce("two", "cpu", 2, 1)
		announce("one", "cpu", 3, 2)
		var m api.Machines
		if rec, _ := w.get(&m, "/v1/machines"); rec.Code != 200 || len(m.Items) != 3 {
			t.Fatalf("got %d %s", rec.Code, rec.Body)
		}
		cpu, gpu, tpu := m.Items[0], m.Items[1], m.Items[2]
		if cpu.Name != "cpu" || cpu.Depth != 3 || cpu.Slots != 5 || cpu.Running != 3 || len(cpu.Workers) != 2 {
			t.Errorf("got %+v", cpu)
		} else if one := cpu.Workers[0]; one.Name != "one" || one.Slots != 3 || one.Running != 2 || !one.Started.Equal(began.Std()) || !one.Seen.Equal(w.engine.Time().Std()) {
			t.Errorf("got %+v", one)
		}
		for _, empty := range []api.Machine{gpu, tpu} { // tpu has no queue any more, and no worker
			if empty.Depth != 0 || empty.Slots != 0 || empty.Workers == nil || len(empty.Workers) != 0 {
				t.Errorf("got %+v", empty)
			}
		}
	})
}
