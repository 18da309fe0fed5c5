package store

import (
	"maps"
	"slices"

	"modulate/internal/promise"
)

// Clone returns a copy of rec that shares no memory with it. As in the stored
// form, what is empty is nil.
func Clone(rec promise.Record) promise.Record {
	in := &rec.Call.Input
	in.Args = list(in.Args)
	in.Env = table(in.Env)
	in.Files = list(in.Files)
	in.Tags = table(in.Tags)
	rec.Attempts = list(rec.Attempts)
	out := &rec.Outcome
	out.Result.Inline = list(out.Result.Inline)
	out.Artifacts.Inline = list(out.Artifacts.Inline)
	out.Stdout.Tail = list(out.Stdout.Tail)
	out.Stderr.Tail = list(out.Stderr.Tail)
	return rec
}

func list[E any](s []E) []E {
	if len(s) == 0 {
		return nil
	}
	return slices.Clone(s)
}

func table(m map[string]string) map[string]string {
	if len(m) == 0 {
		return nil
	}
	return maps.Clone(m)
}
