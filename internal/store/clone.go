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
	if rec.Protocol != nil {
		rec.Protocol = cloneProtocol(*rec.Protocol)
	}
	return rec
}

func cloneProtocol(p promise.Protocol) *promise.Protocol {
	p.Param.Headers, p.Value.Headers, p.Tags = table(p.Param.Headers), table(p.Value.Headers), table(p.Tags)
	p.Callbacks, p.Listeners, p.Resumes = list(p.Callbacks), list(p.Listeners), list(p.Resumes)
	if p.Schedule != nil {
		c := *p.Schedule
		c.Param.Headers, c.Tags = table(c.Param.Headers), table(c.Tags)
		p.Schedule = &c
	}
	return &p
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
