package dispatch

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"modulate/internal/blob"
	"modulate/internal/engine"
	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/internal/store"
)

// These ports cost nothing: what is measured is the handler.
type (
	freeStore struct{ *store.Memory }
	freeQueue struct{ *queue.Memory }
	freeBlobs struct{ *blob.Memory }
)

// Create takes a record and forgets it.
func (freeStore) Create(context.Context, promise.Record) error { return nil }

// Send loses a message.
func (freeQueue) Send(context.Context, string, []byte, time.Duration) error { return nil }

// Stat knows every blob.
func (freeBlobs) Stat(context.Context, string) (blob.Info, error) {
	return blob.Info{Size: 1, Written: promise.TimeOf(time.Now())}, nil
}

// drain is a ResponseWriter that keeps nothing.
type drain struct{ header http.Header }

func (d drain) Header() http.Header         { return d.header }
func (d drain) Write(p []byte) (int, error) { return len(p), nil }
func (d drain) WriteHeader(status int) {
	if status != http.StatusCreated {
		panic(fmt.Sprint("status ", status))
	}
}

// BenchmarkSubmit is what a POST costs besides store, queue, blobs and
// network: at most 25 µs.
func BenchmarkSubmit(b *testing.B) {
	h := New(Config{Engine: &engine.Engine{
		Store: freeStore{store.NewMemory()}, Queue: freeQueue{queue.NewMemory("cpu")}, Blobs: freeBlobs{blob.NewMemory()},
	}})
	body := `{"id":"01jzzzzzzzzzzzzzzzzzzzzzzz","machine":"cpu","script":{"name":"noop.py","sha256":"` + strings.Repeat("ab", 32) + `"}}`
	src := strings.NewReader(body)
	r, err := http.NewRequest(http.MethodPost, "/v1/promises", io.NopCloser(src))
	if err != nil {
		b.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.ContentLength = int64(len(body))
	b.ReportAllocs()
	for b.Loop() {
		src.Reset(body)
		h.ServeHTTP(drain{http.Header{}}, r)
	}
}
