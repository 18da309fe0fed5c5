package local

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"modulate/internal/api"
	"modulate/internal/blob"
	"modulate/internal/promise"
	"modulate/internal/store"
)

// creator shows each record to see before it is created.
type creator struct {
	store.Store
	see func(promise.Record)
}

// Create implements [store.Store].
func (c creator) Create(ctx context.Context, rec promise.Record) error {
	c.see(rec)
	return c.Store.Create(ctx, rec)
}

// Failure 32: of the largest call that is accepted the record holds the hashes
// alone, and what they name is there before the record is.
func TestTheLargestCallFitsItsRecord(t *testing.T) {
	a := newArchive(t)
	seen := 0
	a.Engine.Store = creator{a.Store, func(rec promise.Record) {
		seen++
		if b, err := store.Encode(&rec); err != nil || len(b) > 1024 {
			t.Errorf("the record is %d bytes, %v; want 1 KB at most", len(b), err)
		}
		for _, sum := range []promise.Hash{rec.Call.Script, rec.Call.InputBlob} {
			if _, err := a.Blobs.Stat(t.Context(), blob.ContentKey(sum)); err != nil {
				t.Errorf("the record comes before what it names: %v", err)
			}
		}
	}}
	const maxName = 255 // bytes of a file's
	x := func(n int) string { return strings.Repeat("x", n) }
	file := a.upload("file")
	files := make([]map[string]any, api.MaxFiles)
	for i := range files {
		name := fmt.Sprint(i)
		files[i] = map[string]any{"name": name + x(maxName-len(name)), "sha256": file, "size": 4}
	}
	tags := map[string]string{}
	for i := range api.MaxTags {
		name := fmt.Sprint(i)
		tags[name+x(api.MaxTag-len(name))] = x(api.MaxTag)
	}
	call := map[string]any{
		"id": x(promise.MaxID), "machine": "cpu", "script": map[string]string{"name": x(maxName), "source": x(api.MaxSource)},
		"args": []string{x(api.MaxInput - 1000)}, "env": map[string]string{"A": x(999)}, "files": files, "tags": tags,
		"retry": map[string]any{"policy": "exponential", "max_attempts": api.MaxAttempts},
	}
	a.post("/v1/promises", call)
	if seen != 1 {
		t.Fatalf("%d records", seen)
	}
	rec, err := a.Engine.Get(t.Context(), x(promise.MaxID))
	if err != nil {
		t.Fatal(err)
	}
	in, err := a.Engine.Input(t.Context(), rec.Call)
	if err != nil || len(in.Args[0])+len(in.Env["A"])+1 != api.MaxInput || len(in.Files) != api.MaxFiles || len(in.Tags) != api.MaxTags {
		t.Errorf("the call reads back otherwise: %v", err)
	}
}
