package store

import (
	"maps"
	"slices"

	"modulate/internal/promise"
)

// Clone returns a copy of rec that shares no memory with it.
func Clone(rec promise.Record) promise.Record {
	in := &rec.Call.Input
	in.Args = slices.Clone(in.Args)
	in.Env = maps.Clone(in.Env)
	in.Files = slices.Clone(in.Files)
	in.Tags = maps.Clone(in.Tags)
	rec.Attempts = slices.Clone(rec.Attempts)
	out := &rec.Outcome
	out.Result.Inline = slices.Clone(out.Result.Inline)
	out.Artifacts.Inline = slices.Clone(out.Artifacts.Inline)
	out.Stdout.Tail = slices.Clone(out.Stdout.Tail)
	out.Stderr.Tail = slices.Clone(out.Stderr.Tail)
	return rec
}
