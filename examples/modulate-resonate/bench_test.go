package resonate_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"modulate/internal/local"
)

// BenchmarkRequests has 8 clients create and settle promises over HTTP, each
// commit synced to the disk.
func BenchmarkRequests(b *testing.B) {
	l, err := local.Open(b.Context(), local.Config{Dir: b.TempDir(), Serve: true})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	server := httptest.NewServer(l.Handler())
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	post := func(kind, data string) {
		resp, err := client.Post(server.URL, "application/json", bytes.NewBufferString(
			`{"kind":"`+kind+`","head":{"corrId":"1","version":"2026-04-01"},"data":`+data+`}`))
		if err != nil {
			b.Error(err)
			return
		}
		defer resp.Body.Close()
		if io.Copy(io.Discard, resp.Body); resp.StatusCode != 200 {
			b.Errorf("%s: %s", kind, resp.Status)
		}
	}
	later := time.Now().Add(time.Hour).UnixMilli()
	var n atomic.Int64
	var all sync.WaitGroup
	b.ResetTimer()
	for range 8 {
		all.Go(func() {
			for i := n.Add(1); i <= int64(b.N); i = n.Add(1) {
				post("promise.create", fmt.Sprintf(`{"id":"p%d","timeoutAt":%d}`, i, later))
				post("promise.settle", fmt.Sprintf(`{"id":"p%d","state":"resolved"}`, i))
			}
		})
	}
	all.Wait()
	b.ReportMetric(2*float64(b.N)/b.Elapsed().Seconds(), "requests/s")
}
