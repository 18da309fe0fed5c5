package read

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"modulate/internal/api"
	"modulate/internal/blob"
	"modulate/internal/engine"
	"modulate/internal/promise"
)

// logQuery says which part of which stream is asked for.
type logQuery struct {
	stream  string
	offset  int64
	attempt uint32 // 0: the latest
	whole   bool   // look at all that there is, whatever is known already
	running bool   // the script still runs
	kept    bool   // it has ended, and what is kept of it is whole
}

// part is what there is of a stream from an offset on.
type part struct {
	offset, next, size int64
	attempt            uint32
	end                bool // nothing more will come
	body               []byte
}

// logs gives out the bytes of a stream, as they were written. With a wait it
// blocks until there are some past the offset, or the stream has ended.
func (rd *reader) logs(r *api.Request) (api.Answer, error) {
	q, err := parseLogQuery(r.URL.Query())
	if err != nil {
		return api.Answer{}, err
	}
	watch := rd.Engine.Watch(r.PathValue("id"))
	defer watch.Stop()
	rec, err := rd.Own(r.Context(), r.Caller, r.PathValue("id"))
	if err != nil {
		return api.Answer{}, err
	}
	if q.live(rec) {
		rd.notes.follow(r.Context(), rd.Engine, rec.ID)
	}
	q.whole = r.Prefer.Wait == 0
	p, err := rd.part(r.Context(), rec, q)
	if err == nil && r.Prefer.Wait > 0 && len(p.body) == 0 && !p.end {
		p, err = rd.follow(r, watch, rec, q)
	}
	if err != nil {
		return api.Answer{}, err
	}
	return p.answer(r.Prefer.Applied()), nil
}

// live reports whether more may come of what q asks for.
func (q logQuery) live(rec promise.Record) bool {
	return !rec.State.Terminal() && (q.attempt == 0 || q.attempt >= rec.Attempt)
}

func (p part) answer(applied string) api.Answer {
	number := func(n int64) []string { return []string{strconv.FormatInt(n, 10)} }
	h := http.Header{
		api.LogOffsetHeader:  number(p.offset),
		api.LogNextHeader:    number(p.next),
		api.LogSizeHeader:    number(p.size),
		api.LogAttemptHeader: number(int64(p.attempt)),
		"Content-Length":     number(int64(len(p.body))),
	}
	if p.end {
		h[api.LogEndHeader] = []string{"true"}
	}
	return api.Answer{Header: h, Applied: applied, Raw: io.NopCloser(bytes.NewReader(p.body))}
}

func parseLogQuery(v url.Values) (q logQuery, err error) {
	if err := known(v, "stream", "offset", "attempt"); err != nil {
		return q, err
	}
	switch q.stream = v.Get("stream"); q.stream {
	case "":
		q.stream = "stdout"
	case "stdout", "stderr":
	default:
		return q, api.Invalid("stream", "stream %q: want stdout or stderr", q.stream)
	}
	if s := v.Get("offset"); s != "" {
		if q.offset, err = strconv.ParseInt(s, 10, 64); err != nil || q.offset < 0 {
			return q, api.Invalid("offset", "offset %q: want a number of bytes", s)
		}
	}
	if s := v.Get("attempt"); s != "" {
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil || n == 0 {
			return q, api.Invalid("attempt", "attempt %q: want the number of an attempt, from 1", s)
		}
		q.attempt = uint32(n)
	}
	return q, nil
}

// beyondHead is how many looks behind the head of a stream are one at all that
// there is.
const beyondHead = 4

// follow looks again until there is something to give out, or the wait is
// over. It looks at the record when that changes, and at the blobs, which tell
// nobody, again and again.
func (rd *reader) follow(r *api.Request, watch *engine.Waiter, rec promise.Record, q logQuery) (part, error) {
	ctx, cancel := context.WithTimeout(r.Context(), r.Prefer.Within(r.Context()))
	defer cancel()
	poll := time.NewTicker(rd.logPoll)
	defer poll.Stop()
	for looks := 1; ; looks++ {
		stale := watch.Changed() == nil
		var over bool
		select {
		case <-watch.Changed():
			stale = true
		case <-poll.C:
			stale = stale || rd.Engine.Time() >= rec.DeadlineAt && !rec.State.Terminal()
		case <-ctx.Done():
			over = true
			if err := r.Context().Err(); err != nil {
				return part{}, err
			}
		}
		if q.live(rec) {
			rd.notes.follow(r.Context(), rd.Engine, rec.ID)
		}
		// The wait is over, the request is not: a last look, at all that there is.
		// Behind the head of a stream a worker ships what is followed only, so that
		// what comes next may start anywhere.
		q.whole = over || q.offset >= api.MaxLog/2 && looks%beyondHead == 0
		if stale || over {
			next, err := rd.Engine.Get(r.Context(), rec.ID)
			if err != nil {
				return part{}, err
			}
			rec = next
		}
		p, err := rd.part(r.Context(), rec, q)
		if err != nil || over || len(p.body) > 0 || p.end {
			return p, err
		}
	}
}

// part reads what q asks for.
func (rd *reader) part(ctx context.Context, rec promise.Record, q logQuery) (part, error) {
	follows := q.attempt == 0 // an attempt that is yet to come too
	if follows {
		q.attempt = max(1, rec.Attempt)
	}
	nothing := part{offset: q.offset, next: q.offset, attempt: q.attempt}
	if q.attempt > rec.Attempt {
		switch {
		case !rec.State.Terminal():
			return nothing, nil // it may begin yet
		case follows:
			nothing.attempt, nothing.end = 0, true
			return nothing, nil // it never ran
		}
		return part{}, api.Fail(blob.ErrNotFound, "attempt", "%s had %d attempts: there is no attempt %d", rec.ID, rec.Attempt, q.attempt)
	}
	attempt, err := rd.attempt(ctx, rec, q.attempt)
	if err != nil {
		return part{}, err
	}
	s := settled(rec, attempt.Version, q.stream)
	if s != nil && !s.Stored {
		return inline(*s, q.offset, attempt.Number), nil
	}
	ended := rec.State.Terminal() || !follows && attempt.EndedAt != 0
	q.running, q.kept = !ended && attempt.EndedAt == 0, s != nil
	p, err := rd.stored(ctx, blob.LogPrefix(rec.ID, attempt.Version, q.stream), q)
	p.end = ended && p.next >= p.size
	p.attempt = attempt.Number
	if s != nil {
		p.size = s.Size
	}
	return p, err
}

// settled returns what the outcome says of a stream, if it is of the attempt
// with that version.
func settled(rec promise.Record, version uint64, stream string) *promise.Stream {
	switch {
	case !rec.State.Terminal() || rec.Outcome.Version != version:
		return nil
	case rec.Outcome.Cause == promise.CauseExhausted:
		return nil // it says what went wrong, not what was written
	case stream == "stderr":
		return &rec.Outcome.Stderr
	default:
		return &rec.Outcome.Stdout
	}
}

// attempt returns the attempt with that number, which rec has had.
func (rd *reader) attempt(ctx context.Context, rec promise.Record, number uint32) (promise.Attempt, error) {
	for _, a := range rec.Attempts {
		if a.Number == number {
			return a, nil
		}
	}
	all, err := rd.Engine.Attempts(ctx, rec)
	if err != nil {
		return promise.Attempt{}, err
	}
	for _, a := range all {
		if a.Number == number {
			return a, nil
		}
	}
	return promise.Attempt{}, fmt.Errorf("%s has had no attempt %d", rec.ID, number)
}

// inline is the part of a stream that stands in the record whole.
func inline(s promise.Stream, offset int64, attempt uint32) part {
	start := s.Size - int64(len(s.Tail))
	from := max(offset, start)
	p := part{offset: from, next: max(from, s.Size), size: s.Size, attempt: attempt, end: true}
	if from < s.Size {
		p.body = s.Tail[from-start:]
	}
	return p
}
