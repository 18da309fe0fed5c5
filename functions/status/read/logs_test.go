package read

import (
	"fmt"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"modulate/internal/api"
	"modulate/internal/blob"
	"modulate/internal/promise"
)

// page is what a look at a log brings: its bytes and headers.
func page(rec *httptest.ResponseRecorder) string {
	h := rec.Header()
	if rec.Code != 200 {
		return fmt.Sprint(rec.Code)
	}
	s := fmt.Sprintf("%s@%s-%s/%s #%s", rec.Body, h.Get(api.LogOffsetHeader), h.Get(api.LogNextHeader), h.Get(api.LogSizeHeader), h.Get(api.LogAttemptHeader))
	if h.Get(api.LogEndHeader) == "true" {
		s += " end"
	}
	return s
}

// log looks at x's log.
func (w *world) log(query string, headers ...string) string {
	w.t.Helper()
	rec, _ := w.get(nil, "/v1/promises/x/logs"+query, headers...)
	return page(rec)
}

func (w *world) logs(want map[string]string) {
	w.t.Helper()
	for query, page := range want {
		if got := w.log(query); got != page {
			w.t.Errorf("%q: got %q, want %q", query, got, page)
		}
	}
}

// chunk stores a piece of x's output as its worker does.
func (w *world) chunk(version uint64, stream string, offset int64, body string) {
	w.t.Helper()
	w.put(blob.LogKey("x", version, stream, offset), body)
}

func TestLogsInline(t *testing.T) {
	w := newWorld(t)
	w.create("x")
	w.logs(map[string]string{"": "@0-0/0 #1", "?offset=5": "@5-5/0 #1"})
	w.run("x", promise.Outcome{
		Cause:  promise.CauseOK,
		Stdout: promise.Stream{Size: 6, Tail: []byte("hello\n")},
		Stderr: promise.Stream{Size: 2, Tail: []byte("\xff\n")},
	})
	w.logs(map[string]string{
		"":                         "hello\n@0-6/6 #1 end",
		"?stream=stdout&offset=2":  "llo\n@2-6/6 #1 end",
		"?offset=6":                "@6-6/6 #1 end",
		"?offset=9":                "@9-9/6 #1 end",
		"?stream=stderr":           "\xff\n@0-2/2 #1 end",
		"?stream=stderr&attempt=1": "\xff\n@0-2/2 #1 end",
		"?attempt=2":               "404",
	})
	rec, _ := w.get(nil, "/v1/promises/x/logs")
	h := rec.Header()
	if h.Get("Content-Type") != "application/octet-stream" || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Content-Length") != "6" {
		t.Errorf("got %v", h)
	}
}

func TestLogsRefuse(t *testing.T) {
	w := newWorld(t)
	w.create("x")
	for query, where := range map[string]string{
		"stream=stdin": "stream", "offset=-1": "offset", "offset=x": "offset", "offset=99999999999999999999": "offset",
		"attempt=0": "attempt", "attempt=-1": "attempt", "attempt=x": "attempt", "attempt=4294967296": "attempt",
		"tail=5": "tail", "offset=1&offset=2": "offset",
	} {
		w.refused("/v1/promises/x/logs?"+query, api.ErrInvalid, where, "")
	}
	w.refused("/v1/promises/y/logs", promise.ErrNotFound, "id", "")
}

// While it runs, and after.
func TestLogsStored(t *testing.T) {
	w := newWorld(t)
	w.create("x")
	held := w.claim("x")
	w.logs(map[string]string{"": "@0-0/0 #1"})
	w.chunk(1, "stdout", 0, "one\n")
	w.chunk(1, "stdout", 4, "two\n")
	w.logs(map[string]string{
		"":               "one\ntwo\n@0-8/8 #1",
		"?offset=2":      "e\ntwo\n@2-8/8 #1",
		"?offset=4":      "two\n@4-8/8 #1",
		"?offset=6":      "o\n@6-8/8 #1",
		"?offset=8":      "@8-8/8 #1",
		"?stream=stderr": "@0-0/0 #1",
		"?attempt=2":     "@0-0/0 #2", // it may begin yet
	})
	w.chunk(1, "stdout", 8, "three\n")
	w.fulfil(held, promise.Outcome{Cause: promise.CauseOK, Stdout: promise.Stream{Size: 14, Tail: []byte("three\n"), Stored: true}})
	w.logs(map[string]string{
		"":           "one\ntwo\nthree\n@0-14/14 #1 end",
		"?offset=9":  "hree\n@9-14/14 #1 end",
		"?offset=14": "@14-14/14 #1 end",
		"?offset=99": "@99-99/14 #1 end",
	})
}

// Where a stream was cut, a read stops, and the next one goes on behind.
func TestLogsGap(t *testing.T) {
	w := newWorld(t)
	w.create("x")
	held := w.claim("x")
	w.chunk(1, "stdout", 0, "head")
	w.chunk(1, "stdout", 100, "ta")
	w.chunk(1, "stdout", 102, "il")
	w.fulfil(held, promise.Outcome{Cause: promise.CauseOK, Stdout: promise.Stream{Size: 104, Cut: 96, Tail: []byte("tail"), Stored: true}})
	w.logs(map[string]string{
		"":            "head@0-4/104 #1",
		"?offset=4":   "tail@100-104/104 #1 end",
		"?offset=50":  "tail@100-104/104 #1 end",
		"?offset=101": "ail@101-104/104 #1 end",
		"?offset=104": "@104-104/104 #1 end",
	})
}

// A page has a limit; what is over it comes with the next.
func TestLogsPages(t *testing.T) {
	w := newWorld(t)
	w.create("x")
	held := w.claim("x")
	const size = api.MaxLogPage*2 + 7
	var text strings.Builder
	for i := 0; text.Len() < size; i++ {
		fmt.Fprintf(&text, "line %d\n", i)
	}
	all := text.String()[:size]
	for at := 0; at < size; at += 300_000 {
		w.chunk(1, "stdout", int64(at), all[at:min(at+300_000, size)])
	}
	w.fulfil(held, promise.Outcome{Cause: promise.CauseOK, Stdout: promise.Stream{Size: size, Stored: true}})
	var got strings.Builder
	for next, pages := int64(0), 1; ; pages++ {
		rec, _ := w.get(nil, fmt.Sprint("/v1/promises/x/logs?offset=", next))
		if rec.Body.Len() > api.MaxLogPage {
			t.Fatalf("a page of %d bytes", rec.Body.Len())
		}
		got.Write(rec.Body.Bytes())
		next, _ = strconv.ParseInt(rec.Header().Get(api.LogNextHeader), 10, 64)
		if rec.Header().Get(api.LogEndHeader) == "true" {
			if pages != 3 {
				t.Errorf("%d pages", pages)
			}
			break
		}
	}
	if got.String() != all {
		t.Errorf("%d bytes came, not the %d that were written", got.Len(), size)
	}
}

// Each attempt has its own output; without a number it is the latest one's,
// which ends with the promise.
func TestLogsOfAttempts(t *testing.T) {
	w := newWorld(t)
	w.create("x", func(rec *promise.Record) {
		rec.Call.Retry = promise.Retry{Policy: promise.Constant, MaxAttempts: 9}
	})
	for n := 1; n <= 9; n++ {
		held := w.claim("x")
		w.chunk(held.Task.Version, "stdout", 0, fmt.Sprint("attempt ", n))
		if n == 2 {
			w.logs(map[string]string{"": "attempt 2@0-9/9 #2", "?attempt=1": "attempt 1@0-9/9 #1 end", "?attempt=2": "attempt 2@0-9/9 #2"})
		}
		w.fulfil(held, promise.Outcome{Cause: promise.CauseExit, ExitCode: n, Stdout: promise.Stream{Size: 9, Tail: []byte("9"), Stored: true}})
		if n == 2 {
			w.logs(map[string]string{"": "attempt 2@0-9/9 #2", "?attempt=2": "attempt 2@0-9/9 #2 end", "?attempt=3": "@0-0/0 #3"})
		}
	}
	w.logs(map[string]string{
		"": "attempt 9@0-9/9 #9 end", "?attempt=5": "attempt 5@0-9/9 #5 end", "?attempt=1": "attempt 1@0-9/9 #1 end", "?attempt=10": "404",
	})
	w.refused("/v1/promises/x/logs?attempt=10", blob.ErrNotFound, "attempt", "x had 9 attempts: there is no attempt 10")
}

// What an attempt wrote before it was cancelled can be read; what never ran
// wrote nothing.
func TestLogsOfCanceled(t *testing.T) {
	w := newWorld(t)
	w.create("x")
	w.claim("x")
	w.chunk(1, "stdout", 0, "half")
	w.apply("x", promise.Cancel{SettleID: w.engine.NewNonce()})
	w.logs(map[string]string{"": "half@0-4/4 #1 end"})
	w.create("y")
	w.apply("y", promise.Cancel{SettleID: w.engine.NewNonce()})
	rec, _ := w.get(nil, "/v1/promises/y/logs", "Prefer", "wait=5")
	if got := page(rec); got != "@0-0/0 #0 end" {
		t.Errorf("never ran: %q", got)
	}
}

// What the last attempt wrote before its host gave up can be read.
func TestLogsOfExhausted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.create("x")
		for range promise.MaxCrashes + 1 {
			time.Sleep(time.Minute)
			w.run("x", promise.Outcome{Cause: promise.CauseBadHost, Error: promise.Problem{Title: "no disk"}})
		}
		w.chunk(promise.MaxCrashes+1, "stdout", 0, "half")
		w.logs(map[string]string{"": "half@0-4/4 #6 end"})
	})
}

// A wait ends with the first bytes past the offset, with the end of the
// stream, or by itself.
func TestLogsWait(t *testing.T) {
	const late = 100 * time.Millisecond // how much later than the bytes it may answer
	tests := []struct {
		name, query string
		happens     func(w *world, held promise.Record) // after 3 s
		want        string
		took        time.Duration
	}{
		{"bytes", "", func(w *world, _ promise.Record) { w.chunk(1, "stdout", 0, "hi") }, "hi@0-2/2 #1", 3 * time.Second},
		{"bytes past the offset", "?offset=1", func(w *world, _ promise.Record) { w.chunk(1, "stdout", 0, "hi") }, "i@1-2/2 #1", 3 * time.Second},
		{"bytes before the offset", "?offset=2", func(w *world, _ promise.Record) { w.chunk(1, "stdout", 0, "hi") }, "@2-2/2 #1", 10 * time.Second},
		{"another stream's", "?stream=stderr", func(w *world, _ promise.Record) { w.chunk(1, "stdout", 0, "hi") }, "@0-0/0 #1", 10 * time.Second},
		{"nothing", "", func(*world, promise.Record) {}, "@0-0/0 #1", 10 * time.Second},
		{"the end", "", func(w *world, held promise.Record) { w.fulfil(held, ok) }, "@0-0/0 #1 end", 3 * time.Second},
		{"the end, with bytes", "", func(w *world, held promise.Record) {
			w.fulfil(held, promise.Outcome{Cause: promise.CauseOK, Stdout: promise.Stream{Size: 2, Tail: []byte("hi")}})
		}, "hi@0-2/2 #1 end", 3 * time.Second},
		{"the next attempt", "?attempt=2", func(w *world, held promise.Record) {
			w.fulfil(held, promise.Outcome{Cause: promise.CauseExit})
			w.claim("x")
			w.chunk(2, "stdout", 0, "again")
		}, "again@0-5/5 #2", 3 * time.Second},
		{"no next attempt", "?attempt=2", func(w *world, held promise.Record) { w.fulfil(held, ok) }, "404", 3 * time.Second},
		{"the end of this attempt", "?attempt=1", func(w *world, held promise.Record) {
			w.fulfil(held, promise.Outcome{Cause: promise.CauseExit})
		}, "@0-0/0 #1 end", 3 * time.Second},
		{"a retry does not end it", "", func(w *world, held promise.Record) {
			w.fulfil(held, promise.Outcome{Cause: promise.CauseExit})
		}, "@0-0/0 #1", 10 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.create("x", func(rec *promise.Record) {
					rec.Call.Retry = promise.Retry{Policy: promise.Constant, MaxAttempts: 2}
				})
				held := w.claim("x")
				time.AfterFunc(3*time.Second, func() { tt.happens(w, held) })
				began := time.Now()
				got := w.log(tt.query, "Prefer", "wait=10")
				if took := time.Since(began); got != tt.want || took < tt.took || took > tt.took+late {
					t.Errorf("got %q after %s, want %q after %s", got, took, tt.want, tt.took)
				}
			})
		})
	}
}

// A wait for the output of what passes its deadline settles it.
func TestLogsWaitPastDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.create("x", func(rec *promise.Record) { rec.DeadlineAt = w.engine.Time().Add(5 * time.Second) })
		w.claim("x")
		began := time.Now()
		got := w.log("", "Prefer", "wait=20")
		if took := time.Since(began); got != "@0-0/0 #1 end" || took > 5*time.Second+100*time.Millisecond {
			t.Errorf("got %q after %s", got, took)
		}
	})
}

// Two pieces may lie over one another: an upload was done twice, cut
// otherwise.
func TestLogsOverlap(t *testing.T) {
	w := newWorld(t)
	w.create("x")
	w.claim("x")
	w.chunk(1, "stdout", 0, "0123456789")
	w.chunk(1, "stdout", 4, "456")
	w.chunk(1, "stdout", 8, "89ab")
	w.logs(map[string]string{"": "0123456789ab@0-12/12 #1", "?offset=5": "56789ab@5-12/12 #1"})
}
