package read

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"modulate/internal/api"
	"modulate/internal/blob"
	"modulate/internal/promise"
)

var left = []struct{ name, path, body, disposition string }{
	{"model.bin", "model.bin", "weights", `attachment; filename=model.bin`},
	{"d/e/f.txt", "d/e/f.txt", "deep", `attachment; filename=f.txt`},
	{"a b?#%/ü \"q\".html", "a%20b%3F%23%25/%C3%BC%20%22q%22.html", "<script>", `attachment; filename*=utf-8''%C3%BC%20%22q%22.html`},
	{"empty", "empty", "", `attachment; filename=empty`},
}

// leave makes x end with artifacts, their list in the record or beside it.
func (w *world) leave(spilled bool) {
	w.t.Helper()
	var items []string
	for _, a := range left {
		items = append(items, `{"name":`+strconv.Quote(a.name)+`,"size":`+strconv.Itoa(len(a.body))+`,"sha256":"ab"}`)
	}
	list := "[" + strings.Join(items, ",") + "]"
	out := promise.Outcome{Cause: promise.CauseOK, Artifacts: promise.Body{Size: int64(len(list)), Inline: []byte(list)}}
	if spilled {
		out.Artifacts.Inline = nil
		w.put(blob.ArtifactsKey("x", 1), list)
	}
	for i, a := range left {
		w.put(blob.ArtifactKey("x", 1, i), a.body)
	}
	w.create("x")
	w.run("x", out)
}

func TestArtifacts(t *testing.T) {
	for _, spilled := range []bool{false, true} {
		w := newWorld(t)
		w.leave(spilled)
		var list api.Artifacts
		if rec, _ := w.get(&list, "/v1/promises/x/artifacts"); rec.Code != 200 || len(list.Items) != len(left) {
			t.Fatalf("got %d %s", rec.Code, rec.Body)
		}
		for i, a := range left {
			if got := list.Items[i]; got.Name != a.name || got.Size != int64(len(a.body)) {
				t.Errorf("got %+v", got)
			}
			rec, _ := w.get(nil, "/v1/promises/x/artifacts/"+a.path)
			h := rec.Header()
			if rec.Code != 200 || rec.Body.String() != a.body || h.Get("Content-Length") != strconv.Itoa(len(a.body)) {
				t.Errorf("%s: got %d %q", a.name, rec.Code, rec.Body)
			}
			if h.Get("Content-Disposition") != a.disposition || h.Get("Content-Type") != "application/octet-stream" || h.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("%s: got %v", a.name, h)
			}
		}
		w.refused("/v1/promises/x/artifacts/other", blob.ErrNotFound, "name", `x left no artifact "other"`)
		w.refused("/v1/promises/x/artifacts/d", blob.ErrNotFound, "name", "")
	}
}

func TestArtifactsOfNothing(t *testing.T) {
	w := newWorld(t)
	w.create("x")
	if rec, _ := w.get(nil, "/v1/promises/x/artifacts"); strings.TrimSpace(rec.Body.String()) != `{"items":[]}` {
		t.Errorf("pending: got %d %s", rec.Code, rec.Body)
	}
	w.refused("/v1/promises/x/artifacts/a", blob.ErrNotFound, "name", "")
	w.refused("/v1/promises/y/artifacts", promise.ErrNotFound, "id", "")
	w.run("x", promise.Outcome{Cause: promise.CauseOK, Artifacts: promise.Body{Size: 9, Inline: []byte(`[{"name":"a","size":3,"sha256":"ab"}]`)}})
	w.refused("/v1/promises/x/artifacts/a", blob.ErrNotFound, "name", "is not kept any more")
}

// signing is blobs with addresses of their own.
type signing struct{ *blob.Memory }

// Sign is that of blob.Blobs.
func (signing) Sign(_ context.Context, method string, info blob.Info) (*http.Request, error) {
	return http.NewRequest(method, "https://blobs.example/"+info.Key+"?sig=1", nil)
}

func TestArtifactSigned(t *testing.T) {
	w := newWorld(t)
	w.leave(false)
	w.engine.Blobs = signing{w.blobs}
	w.open(Config{})
	rec, _ := w.get(nil, "/v1/promises/x/artifacts/d/e/f.txt")
	if rec.Code != http.StatusTemporaryRedirect || rec.Header().Get("Location") != "https://blobs.example/out/x/1/artifact/1?sig=1" || rec.Body.Len() != 0 {
		t.Errorf("got %d %v %s", rec.Code, rec.Header(), rec.Body)
	}
}

// The client finds artifacts by any name, through the handler.
func TestArtifactByClient(t *testing.T) {
	w := newWorld(t)
	w.leave(false)
	c := api.NewClient("http://localhost", api.HandlerTransport(w.handler))
	for _, a := range left {
		body, err := c.Artifact(t.Context(), "x", a.name)
		if err != nil {
			t.Errorf("%s: %v", a.name, err)
			continue
		}
		got, err := io.ReadAll(body)
		body.Close()
		if string(got) != a.body || err != nil {
			t.Errorf("%s: got %q, %v", a.name, got, err)
		}
		if u, err := url.PathUnescape(a.path); u != a.name || err != nil {
			t.Errorf("the table has %s for %s", a.path, a.name)
		}
	}
}
