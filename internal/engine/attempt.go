package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"

	"modulate/internal/blob"
	"modulate/internal/promise"
)

// putAttempt keeps an attempt outside its record.
func putAttempt(ctx context.Context, blobs blob.Blobs, a promise.Archive) error {
	body, err := json.Marshal(a.Attempt)
	if err != nil {
		return err
	}
	return blobs.Put(ctx, blob.AttemptKey(a.ID, a.Attempt.Number), bytes.NewReader(body), int64(len(body)), promise.Hash{})
}

// Attempts returns every attempt of rec, the archived ones too, oldest first.
func (e *Engine) Attempts(ctx context.Context, rec promise.Record) ([]promise.Attempt, error) {
	all := make([]promise.Attempt, 0, rec.Attempt)
	for i, a := range rec.Attempts {
		for i > 0 && all[len(all)-1].Number+1 < a.Number {
			var old promise.Attempt
			number := all[len(all)-1].Number + 1
			if err := e.getJSON(ctx, blob.AttemptKey(rec.ID, number), &old); err != nil {
				return nil, fmt.Errorf("reading attempt %d of %s: %w", number, rec.ID, err)
			}
			all = append(all, old)
		}
		all = append(all, a)
	}
	return all, nil
}

// Input returns the input of a call, from its blob where it is kept there.
func (e *Engine) Input(ctx context.Context, call promise.Call) (promise.Input, error) {
	if call.InputBlob.IsZero() {
		return call.Input, nil
	}
	var in promise.Input
	if err := e.getJSON(ctx, blob.ContentKey(call.InputBlob), &in); err != nil {
		return promise.Input{}, fmt.Errorf("reading the call's input: %w", err)
	}
	return in, nil
}

func (e *Engine) getJSON(ctx context.Context, key string, v any) error {
	src, err := e.Blobs.Get(ctx, key, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	body, err := io.ReadAll(src)
	if err != nil {
		return err
	}
	return json.Unmarshal(body, v)
}
