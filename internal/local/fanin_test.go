package local

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"modulate/internal/promise"
)

// TestFanIn: what many workers settle at once resumes the one task that awaits
// it all; nobody is turned away, and nothing is forgotten.
func TestFanIn(t *testing.T) {
	l, err := Open(t.Context(), Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	remote := func(id string) promise.Record {
		return promise.NewRemote("local", id, l.Engine.Time().Add(time.Hour), promise.Protocol{Tags: map[string]string{promise.TagTarget: "poll://any@g"}})
	}
	if _, err := l.Engine.CreateTaken(t.Context(), promise.Create{Record: remote("wf"), Worker: "w", Lease: time.Hour}); err != nil {
		t.Fatal(err)
	}
	const children = 300
	var ids []string
	for n := range children {
		id := fmt.Sprint("wf.", n)
		if _, err := l.Engine.Create(t.Context(), remote(id), nil); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	if _, err := l.Engine.Suspend(t.Context(), "wf", promise.Suspend{Version: 1, Awaits: ids}); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for _, id := range ids {
		all.Go(func() {
			if _, err := l.Engine.Apply(t.Context(), id, promise.Settle{State: promise.Resolved}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	rec, err := l.Engine.Get(t.Context(), "wf")
	if err != nil || rec.Task.State != promise.TaskPending {
		t.Errorf("the task is %s: %v", rec.Task.State, err)
	}
	due, err := l.Store.Due(t.Context(), l.Engine.Time(), 2*children)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range due { // as the sweep does
		if _, err := l.Engine.Apply(t.Context(), id, promise.Tick{}); err != nil {
			t.Error(err)
		}
	}
	rec, err = l.Engine.Get(t.Context(), "wf")
	if err != nil || rec.Task.State != promise.TaskPending || len(rec.Protocol.Resumes) != children {
		t.Errorf("the task is %s, resumed by %d: %v", rec.Task.State, len(rec.Protocol.Resumes), err)
	}
}
