package protocol

import (
	"context"
	"encoding/json"
	"log/slog"
	"testing"

	"modulate/internal/blob"
	"modulate/internal/engine"
	"modulate/internal/lambdahttp"
	"modulate/internal/queue"
	"modulate/internal/store"
)

// TestBehindAPIGateway: the same handler answers the router function's events,
// with the stage in the path and without.
func TestBehindAPIGateway(t *testing.T) {
	s := store.NewMemory()
	e := &engine.Engine{Store: s, Queue: queue.NewMemory(), Blobs: blob.NewMemory()}
	h := lambdahttp.New(New(Config{Engine: e, Search: s}), slog.New(slog.DiscardHandler))
	body := `{"kind":"promise.create","head":{"corrId":"c","version":"2026-04-01"},"data":{"id":"a:1","timeoutAt":9000000000000,"tags":{"resonate:target":"poll://any@gpu"}}}`
	for _, path := range []string{"/", "/dev/"} {
		event, err := json.Marshal(object{
			"version": "2.0", "rawPath": path, "body": body, "headers": object{"content-type": "application/json"},
			"requestContext": object{
				"stage": "dev", "domainName": "x.execute-api.us-east-1.amazonaws.com",
				"http": object{"method": "POST", "path": path}, "authorizer": object{"iam": object{"userArn": "arn:aws:iam::1:role/r"}},
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		out, err := h.Invoke(context.Background(), event)
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			StatusCode int
			Body       string
		}
		if err := json.Unmarshal(out, &got); err != nil || got.StatusCode != 200 {
			t.Errorf("%s: %s, %v", path, out, err)
		}
	}
	if d, err := e.Queue.Depth(t.Context(), "sdk:gpu"); err != nil || d.Visible != 1 {
		t.Errorf("messages for the group: %+v, %v", d, err)
	}
}
