package dispatch

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json"

	"modulate/internal/api"
	"modulate/internal/blob"
	"modulate/internal/promise"
	"modulate/internal/store"
)

// ask asks where to put a blob.
func (w *world) ask(sum string, size int64) (answer, api.BlobUpload) {
	w.t.Helper()
	a := w.send("POST", "/v1/blobs", fmt.Sprintf(`{"sha256":%q,"size":%d}`, sum, size))
	var up api.BlobUpload
	if a.status < 300 {
		if err := json.Unmarshal([]byte(a.body), &up); err != nil {
			w.t.Fatal(err)
		}
	}
	return a, up
}

func hexSum(content string) string { return promise.Hash(sha256.Sum256([]byte(content))).String() }

func TestUpload(t *testing.T) {
	w := newWorld(t)
	sum := hexSum("hello")
	a, up := w.ask(sum, 5)
	if a.status != 201 || up.URL != "/v1/blobs/"+sum || up.Headers["Content-Type"] != "application/octet-stream" {
		t.Fatalf("got %d %s", a.status, a.body)
	}
	for range 2 { // again too
		if a := w.send("PUT", up.URL, "hello", "Content-Type", up.Headers["Content-Type"]); a.status != 204 || a.body != "" {
			t.Errorf("got %d %s", a.status, a.body)
		}
	}
	if a, up := w.ask(sum, 5); a.status != 200 || up.URL != "" {
		t.Errorf("known: got %d %s", a.status, a.body)
	}
	a, _ = w.ask(sum, 6)
	refused(t, a, api.ErrInvalid, "size", "what has this sha256 is 5 bytes")
	empty := hexSum("")
	if a := w.send("PUT", "/v1/blobs/"+empty, ""); a.status != 204 {
		t.Errorf("an empty blob: %d %s", a.status, a.body)
	}
}

func TestUploadRefused(t *testing.T) {
	w := newWorld(t)
	sum := hexSum("hello")
	for _, tt := range []struct {
		sum   string
		size  int64
		is    error
		where string
	}{
		{"x", 1, api.ErrInvalid, "sha256"}, {sum, -1, api.ErrInvalid, "size"}, {sum, api.MaxBlob + 1, api.ErrTooLarge, "size"},
	} {
		a, _ := w.ask(tt.sum, tt.size)
		refused(t, a, tt.is, tt.where, "")
	}
	if a, _ := w.ask(sum, api.MaxBlob); a.status != 201 {
		t.Errorf("the largest: %d %s", a.status, a.body)
	}
	refused(t, w.send("PUT", "/v1/blobs/"+sum, "jello"), blob.ErrMismatch, "body", "nothing was kept")
	refused(t, w.send("PUT", "/v1/blobs/x", "hello"), api.ErrInvalid, "sha256", "")
	r := httptest.NewRequest("PUT", "/v1/blobs/"+sum, strings.NewReader("hello"))
	for length, want := range map[int64]int{-1: 400, api.MaxBlob + 1: 413} {
		r.ContentLength = length
		rec := httptest.NewRecorder()
		w.handler.ServeHTTP(rec, r)
		if rec.Code != want {
			t.Errorf("Content-Length %d: got %d %s", length, rec.Code, rec.Body)
		}
	}
	if w.blobKeys() != 0 {
		t.Errorf("%d blobs were kept", w.blobKeys())
	}
}

// signing is blobs with addresses of their own.
type signing struct{ *blob.Memory }

// Sign is that of blob.Blobs.
func (signing) Sign(_ context.Context, method string, info blob.Info) (*http.Request, error) {
	r, err := http.NewRequest(method, "https://blobs.example/"+info.Key+"?sig=1", nil)
	if err == nil {
		r.Header.Set("X-Sum", info.SHA256.String())
	}
	return r, err
}

// Where the blobs have addresses, uploads go there and nowhere else.
func TestUploadSigned(t *testing.T) {
	w := newWorld(t)
	w.engine.Blobs = signing{w.blobs}
	w.open()
	sum := hexSum("hello")
	a, up := w.ask(sum, 5)
	if a.status != 201 || up.URL != "https://blobs.example/sha256/"+sum+"?sig=1" || up.Headers["X-Sum"] != sum {
		t.Errorf("got %d %s", a.status, a.body)
	}
	refused(t, w.send("PUT", "/v1/blobs/"+sum, "hello"), api.ErrRoute, "", "ask POST /v1/blobs")
	if w.blobKeys() != 0 {
		t.Error("it was kept all the same")
	}
}

// A submission by hash finds its script, stdin and files.
func TestSubmitUploads(t *testing.T) {
	w := newWorld(t)
	script, stdin, file := w.upload("print(1)"), w.upload(""), w.upload("data")
	sub := call(func(s *api.Submit) {
		s.Script, s.Stdin = api.Script{Name: "a.py", SHA256: script}, stdin
		s.Files = []api.File{{Name: "d", SHA256: file, Size: 4}, {Name: "e", SHA256: file, Size: 4}}
	})
	a := w.must(sub)
	c := a.promise.Call
	if a.status != 201 || c.Script != (api.Script{Name: "a.py", SHA256: script}) || c.Stdin != stdin || !slices.Equal(c.Files, sub.Files) {
		t.Errorf("got %d %s", a.status, a.body)
	}
	sub.Files[1].Size = 5
	refused(t, w.submit(sub), api.ErrInvalid, "files.1.size", "said to be 5 bytes, but what was uploaded is 4")
	sub.Script.SHA256 = stdin
	refused(t, w.submit(sub), api.ErrInvalid, "script.sha256", "the script is empty")
}

func TestSubmitUploadedScriptSize(t *testing.T) {
	w := newWorld(t)
	for size, want := range map[int]int{api.MaxScript: 201, api.MaxScript + 1: 413} {
		sum := w.upload(strings.Repeat("#", size))
		a := w.submit(call(func(s *api.Submit) { s.Script = api.Script{Name: "a.py", SHA256: sum} }))
		if a.status != want {
			t.Errorf("%d bytes: got %d %s", size, a.status, a.body)
		}
		if want == 413 {
			refused(t, a, api.ErrTooLarge, "script.sha256", "16777217 bytes: at most 16777216")
		}
	}
}

// Up to 256 bytes of input stay in the record, more goes to a blob; the answer
// is the same.
func TestSubmitInput(t *testing.T) {
	for size, spilled := range map[int]bool{256: false, 257: true} {
		w := newWorld(t)
		tags := map[string]string{"t": "12345"} // 6 bytes
		env := map[string]string{"A": "1234"}   // 5 bytes
		arg := strings.Repeat("x", size-11)
		a := w.must(call(func(s *api.Submit) { s.ID, s.Args, s.Env, s.Tags = "x", []string{arg}, env, tags }))
		rec := w.get("x")
		if got := !rec.Call.InputBlob.IsZero(); got != spilled || (len(rec.Call.Input.Args) == 0) != spilled {
			t.Errorf("%d bytes: spilled %v: %+v", size, got, rec.Call)
		}
		in, err := w.engine.Input(t.Context(), rec.Call)
		if err != nil || len(in.Args) != 1 || in.Args[0] != arg || in.Env["A"] != "1234" || in.Tags["t"] != "12345" {
			t.Errorf("%d bytes: the input is %+v, %v", size, in, err)
		}
		again := w.must(call(func(s *api.Submit) { s.ID, s.Args, s.Env, s.Tags = "x", []string{arg}, env, tags }))
		if again.status != 200 || again.body != a.body || len(a.promise.Call.Args) != 1 || a.promise.Tags["t"] != "12345" {
			t.Errorf("%d bytes: first %s\nthen %s", size, a.body, again.body)
		}
	}
}

// What a submission names is young again when half of its time is over, and
// outlives the promise.
func TestSubmitRefreshes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		long := strings.Repeat("x", 1000)
		sub := call(func(s *api.Submit) {
			s.Stdin = w.upload("in")
			s.Files = []api.File{{Name: "f", SHA256: w.upload("file"), Size: 4}}
			s.Args = []string{long}
		})
		w.must(sub)
		ages := func() (old int) {
			infos, err := w.blobs.List(t.Context(), "sha256/")
			if err != nil || len(infos) != 4 { // script, stdin, file, input
				t.Fatalf("got %v, %v", infos, err)
			}
			for _, info := range infos {
				if w.engine.Time().Sub(info.Written) >= 15*day {
					old++
				}
			}
			return old
		}
		time.Sleep(15 * day)
		w.must(sub)
		if n := ages(); n != 4 {
			t.Errorf("after exactly half, %d of 4 are old: the rest was refreshed early", n)
		}
		time.Sleep(time.Minute)
		w.must(sub)
		if n := ages(); n != 0 {
			t.Errorf("after more than half, %d of 4 are old", n)
		}
		time.Sleep(15*day + time.Minute)
		sum := w.blobsScript()
		if a, _ := w.ask(sum, int64(len(*sub.Script.Source))); a.status != 200 {
			t.Errorf("asking: %d %s", a.status, a.body)
		}
		if n := ages(); n != 3 {
			t.Errorf("after asking for one, %d of 4 are old", n)
		}
	})
}

// blobsScript is the sha256 of call's script.
func (w *world) blobsScript() string { return hexSum("print(1)\n") }

// aboard is blobs beside a store: what rides is on the context.
type aboard struct{ blob.Blobs }

type riding struct{}

func (aboard) Ride(ctx context.Context, key string, body []byte, _ promise.Hash) (context.Context, bool, error) {
	all, _ := ctx.Value(riding{}).(string)
	return context.WithValue(ctx, riding{}, all+key+" "+string(body)+"; "), true, nil
}

// carrying is a store that notes what rides with a record.
type carrying struct {
	store.Store
	carried string
}

func (c *carrying) Create(ctx context.Context, rec promise.Record) error {
	c.carried, _ = ctx.Value(riding{}).(string)
	return c.Store.Create(ctx, rec)
}

// What a submission brings is put by the write of its record, where the blobs lie
// beside the store.
func TestSubmitHasWhatItBringsRide(t *testing.T) {
	w := newWorld(t)
	records := &carrying{Store: w.store}
	w.engine.Store, w.engine.Blobs = records, aboard{w.blobs}
	w.open()
	source := "print(1)\n"
	w.must(call(nil))
	if want := blob.ContentKey(sha256.Sum256([]byte(source))) + " " + source + "; "; records.carried != want {
		t.Errorf("%q rode, want %q", records.carried, want)
	}
	large := strings.Repeat("x", 2*inlineInput)
	w.must(call(func(s *api.Submit) { s.Args = []string{large} }))
	if n := strings.Count(records.carried, "sha256/"); n != 2 || !strings.Contains(records.carried, large) {
		t.Errorf("%d contents rode, want script and input: %q", n, records.carried)
	}
}
