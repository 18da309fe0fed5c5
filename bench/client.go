package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"modulate/internal/api"
)

// client is a caller: plain HTTP with kept connections.
type client struct{ http *http.Client }

func newClient(callers int) *client {
	return &client{&http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: callers, DisableCompression: true}}}
}

// post sends body and checks that the answer is a success; into, when not nil,
// takes it.
func (c *client) post(ctx context.Context, url string, body []byte, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Prefer", "wait=20")
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s: %s", resp.Status, answer)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(answer, into)
}

// get reads a page.
func (c *client) get(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, answer)
	}
	return err
}

// A submitter submits one script under ids of its own and waits for each end.
type submitter struct {
	*client
	url    string
	script api.Script
	prefix string
	n      atomic.Int64
}

func newSubmitter(url string, callers int, source string) *submitter {
	return &submitter{
		client: newClient(callers), url: url,
		script: api.Script{Name: "bench.py", Source: &source},
		prefix: "b" + strconv.FormatInt(time.Now().UnixNano(), 36) + "_",
	}
}

// whole submits once more and returns when the promise is resolved.
func (s *submitter) whole(ctx context.Context) error {
	body, err := json.Marshal(api.Submit{ID: s.prefix + strconv.FormatInt(s.n.Add(1), 10), Machine: "cpu", Mode: "rpc", Script: s.script})
	if err != nil {
		return err
	}
	var p struct{ ID, State string }
	if err := s.post(ctx, s.url+"/v1/promises", body, &p); err != nil {
		return err
	}
	if p.State != "resolved" {
		return fmt.Errorf("%s ended %s", p.ID, p.State)
	}
	return nil
}
