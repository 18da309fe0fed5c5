package read

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"modulate/internal/api"
	"modulate/internal/blob"
	"modulate/internal/promise"
	"modulate/internal/store"
)

// counted counts what is asked of blobs.
type counted struct {
	blob.Blobs
	lists, gets int
}

func (c *counted) List(ctx context.Context, prefix string) ([]blob.Info, error) {
	c.lists++
	return c.Blobs.List(ctx, prefix)
}

func (c *counted) Get(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	c.gets++
	return c.Blobs.Get(ctx, key, offset)
}

// follower reads so many bytes of x's output as the CLI does.
func (w *world) follower(size int) string {
	w.t.Helper()
	var all strings.Builder
	for next := "0"; all.Len() < size; {
		rec, _ := w.get(nil, "/v1/promises/x/logs?attempt=1&offset="+next, "Prefer", "wait=10")
		if h := rec.Header(); h.Get(api.LogOffsetHeader) != next {
			w.t.Fatalf("from %s: %s", next, page(rec))
		}
		all.Write(rec.Body.Bytes())
		next = rec.Header().Get(api.LogNextHeader)
	}
	return all.String()
}

// Who follows a script that writes each second lists its output once, and then
// asks for what comes by its name: a list is what S3 bills the most for.
func TestFollowingListsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		blobs := &counted{Blobs: w.blobs}
		w.engine.Blobs = blobs
		w.open(Config{LogPoll: time.Second})
		w.create("x")
		w.claim("x")
		const chunks = 60
		go func() {
			for n := range chunks {
				time.Sleep(time.Second)
				w.chunk(1, "stdout", int64(n*3), fmt.Sprintf("%02d\n", n))
			}
		}()
		var want strings.Builder
		for n := range chunks {
			fmt.Fprintf(&want, "%02d\n", n)
		}
		if got := w.follower(want.Len()); got != want.String() {
			t.Errorf("got %q", got)
		}
		if blobs.lists != 1 || blobs.gets > chunks*4 {
			t.Errorf("%d lists and %d gets for %d chunks", blobs.lists, blobs.gets, chunks)
		}
		w.log(fmt.Sprint("?attempt=1&offset=", want.Len()), "Prefer", "wait=10")
		if blobs.lists != 2 { // what comes by other names is found at the end of a wait
			t.Errorf("%d lists, want one more for a wait in vain", blobs.lists)
		}
	})
}

// What another worker has added under names that do not follow from what is
// known is found at the end of the wait, and by who does not wait.
func TestFollowingFindsWhatIsNamedOtherwise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.create("x")
		w.claim("x")
		w.chunk(1, "stdout", 0, "0123456789")
		w.logs(map[string]string{"": "0123456789@0-10/10 #1"})
		w.chunk(1, "stdout", 4, "456789abc")
		began := time.Now()
		if got := w.log("?offset=10", "Prefer", "wait=10"); got != "abc@10-13/13 #1" || time.Since(began) != 10*time.Second {
			t.Errorf("after %s: %q", time.Since(began), got)
		}
		w.chunk(1, "stdout", 12, "cde")
		w.logs(map[string]string{"?offset=13": "de@13-15/15 #1", "?offset=11": "bcde@11-15/15 #1"})
		w.chunk(1, "stdout", 15, "fg")
		w.chunk(1, "stdout", 17, "h")
		if got := w.log("?offset=16", "Prefer", "wait=10"); got != "gh@16-18/18 #1" {
			t.Errorf("past what was known: %q", got)
		}
	})
}

// Behind the head a worker ships what is followed, from anywhere on: it is found
// by a look at all that there is, and what follows it by its name.
func TestFollowingBehindTheHead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		blobs := &counted{Blobs: w.blobs}
		w.engine.Blobs = blobs
		w.open(Config{LogPoll: time.Second})
		w.create("x")
		held := w.claim("x")
		const head = api.MaxLog / 2
		newest := func(offset int64, body string) {
			w.put(blob.NewestKeyAt(blob.LogPrefix("x", 1, "stdout"), offset), body)
		}
		w.chunk(1, "stdout", head-4, "head")
		time.AfterFunc(2*time.Second, func() { newest(head+100, "new") })
		began := time.Now()
		if got := w.log(fmt.Sprint("?attempt=1&offset=", head), "Prefer", "wait=10"); got != fmt.Sprintf("new@%d-%d/%d #1", head+100, head+103, head+103) {
			t.Errorf("the first: %q", got)
		}
		if took := time.Since(began); took > beyondHead*time.Second+100*time.Millisecond {
			t.Errorf("the first came after %s", took)
		}
		lists := blobs.lists
		time.AfterFunc(500*time.Millisecond, func() { newest(head+103, "er") })
		if got := w.log(fmt.Sprint("?attempt=1&offset=", head+103), "Prefer", "wait=10"); got != fmt.Sprintf("er@%d-%d/%d #1", head+103, head+105, head+105) {
			t.Errorf("the next: %q", got)
		}
		if blobs.lists != lists {
			t.Errorf("%d lists for what its name tells", blobs.lists-lists)
		}
		w.chunk(1, "stdout", head+101, "ewer") // at the end, under a name of its own
		w.logs(map[string]string{fmt.Sprint("?offset=", head+100): fmt.Sprintf("newer@%d-%d/%d #1", head+100, head+105, head+105)})
		w.fulfil(held, promise.Outcome{Cause: promise.CauseOK, Stdout: promise.Stream{Size: head + 105, Cut: 101, Stored: true}})
		w.logs(map[string]string{fmt.Sprint("?offset=", head): fmt.Sprintf("ewer@%d-%d/%d #1 end", head+101, head+105, head+105)}) // what is kept
	})
}

// What came by its name ends a page where a chunk ends.
func TestFollowingPages(t *testing.T) {
	w := newWorld(t)
	w.create("x")
	w.claim("x")
	w.log("")
	const size = api.MaxLogPage/2 + 1
	for n := range int64(3) {
		w.chunk(1, "stdout", n*size, strings.Repeat("x", size))
	}
	for n := range 3 {
		rec, _ := w.get(nil, fmt.Sprint("/v1/promises/x/logs?offset=", n*size), "Prefer", "wait=1")
		if rec.Body.Len() != size || rec.Header().Get(api.LogNextHeader) != fmt.Sprint((n+1)*size) {
			t.Errorf("page %d: %d bytes, next %s", n, rec.Body.Len(), rec.Header().Get(api.LogNextHeader))
		}
	}
}

// deaf is an audience that cannot be told.
type deaf struct {
	*store.Memory
	told int
}

func (d *deaf) Follow(context.Context, string, promise.Time) error {
	d.told++
	return errors.New("not now")
}

func TestWhoFollowsIsNoted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.open(Config{Audience: w.store})
		noted := func(id string, want time.Duration) {
			t.Helper()
			until, err := w.store.Followed(t.Context(), id)
			if got := until.Sub(w.engine.Time()); err != nil || want > 0 && got != want || want <= 0 && got > 0 {
				t.Errorf("%s is followed for another %s, want %s (%v)", id, got, want, err)
			}
		}
		w.create("x")
		w.create("done")
		w.run("done", ok)
		noted("x", 0)
		w.get(nil, "/v1/promises/x")
		w.get(nil, "/v1/promises/done/logs")
		noted("x", 0)
		noted("done", 0)
		w.log("")
		noted("x", store.FollowTTL)
		time.Sleep(20 * time.Second)
		w.log("")
		noted("x", store.FollowTTL-20*time.Second) // not noted again so soon
		w.log("", "Prefer", "wait=20")
		noted("x", store.FollowTTL-10*time.Second) // noted again within the wait
		w.claim("x")
		w.fulfil(w.apply("x", promise.Tick{}), ok)
		time.Sleep(store.FollowTTL)
		w.log("")
		noted("x", 0)
	})
}

// A note that was lost is made again at the next look, and nobody's output
// waits for it.
func TestALostNote(t *testing.T) {
	w := newWorld(t)
	d := &deaf{Memory: w.store}
	w.open(Config{Audience: d})
	w.create("x")
	w.claim("x")
	w.chunk(1, "stdout", 0, "hi")
	for n := range 2 {
		if got := w.log(""); got != "hi@0-2/2 #1" || d.told != n+1 {
			t.Errorf("%q, told %d times", got, d.told)
		}
	}
}
