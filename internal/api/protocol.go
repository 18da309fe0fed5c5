package api

import (
	"context"
	"fmt"
	"net/http"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"modulate/internal/promise"
)

// protocolVersion is that of the Resonate protocol.
const protocolVersion = "2026-04-01"

// envelope is a request or an answer of the Resonate protocol.
type envelope[D any] struct {
	Kind string `json:"kind"`
	Head struct {
		CorrID  string `json:"corrId"`
		Status  int    `json:"status,omitzero"`
		Version string `json:"version"`
	} `json:"head"`
	Data D `json:"data"`
}

// Protocol sends a request of the Resonate protocol (docs/resonate.md) and
// decodes the data of its answer into reply. promise.ErrNotFound, ErrConflict,
// ErrInvalid.
func (c *Client) Protocol(ctx context.Context, kind string, data, reply any) error {
	ask := envelope[any]{Kind: kind, Data: data}
	ask.Head.CorrID, ask.Head.Version = "modulate", protocolVersion
	body, err := json.Marshal(ask)
	if err != nil {
		return Invalid("", "the request cannot be written as JSON: %v", err)
	}
	var got envelope[jsontext.Value]
	if err := c.do(ctx, call{method: http.MethodPost, url: "/", body: body}, into(&got)); err != nil {
		return err
	}
	if err := json.Unmarshal(got.Data, reply); err != nil {
		return fmt.Errorf("reading the answer to %s: %w", kind, err)
	}
	return nil
}

// protocolError returns the error that an answer of the protocol tells of, nil
// if it is none of the protocol's.
func protocolError(body []byte) *Error {
	var got envelope[string]
	if json.Unmarshal(body, &got) != nil || got.Head.Version != protocolVersion || got.Data == "" {
		return nil
	}
	sentinel := map[int]error{http.StatusNotFound: promise.ErrNotFound, http.StatusConflict: ErrConflict, http.StatusUnprocessableEntity: ErrConflict, http.StatusBadRequest: ErrInvalid}[got.Head.Status]
	if sentinel == nil {
		return nil
	}
	return AsError(Fail(sentinel, "", "%s", got.Data))
}
