package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"modulate/internal/api"
)

// client is the callers of one server. They have the processors in common with
// it, so they are lean: each writes and reads a kept connection of its own, while
// package http's client has two goroutines for each. All calls are made under
// one context.
type client struct {
	host string
	idle chan *line // kept connections; as many as there are callers at most
}

// line is a connection to a server.
type line struct {
	net.Conn
	w *bufio.Writer
	r *bufio.Reader
}

func newClient(url string, callers int) *client {
	return &client{strings.TrimPrefix(url, "http://"), make(chan *line, callers)}
}

// post sends body and returns the answer, which must be a success.
func (c *client) post(ctx context.Context, path string, body []byte) ([]byte, error) {
	const head = "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nPrefer: wait=20\r\nContent-Length: %d\r\n\r\n%s"
	return c.ask(ctx, func(w io.Writer) { fmt.Fprintf(w, head, path, c.host, len(body), body) })
}

// get reads a page.
func (c *client) get(ctx context.Context, path string) ([]byte, error) {
	return c.ask(ctx, func(w io.Writer) { fmt.Fprintf(w, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, c.host) })
}

// ask sends a request and returns the body of the answer.
func (c *client) ask(ctx context.Context, send func(io.Writer)) ([]byte, error) {
	l, err := c.line(ctx)
	if err != nil {
		return nil, err
	}
	send(l.w) // what fails shows in the flush
	answer, err := l.answer()
	if err != nil {
		return nil, errors.Join(err, context.Cause(ctx), l.Close())
	}
	c.idle <- l
	return answer, nil
}

// line takes a connection that is not in use, or makes one.
func (c *client) line(ctx context.Context) (*line, error) {
	select {
	case l := <-c.idle:
		return l, nil
	default:
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", c.host)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { conn.Close() })
	return &line{conn, bufio.NewWriter(conn), bufio.NewReader(conn)}, nil
}

// answer sends what was written and reads what comes back.
func (l *line) answer() ([]byte, error) {
	if err := l.w.Flush(); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(l.r, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return body, err
}

// A submitter submits one script under ids of its own and waits for each end.
type submitter struct {
	*client
	script api.Script
	prefix string
	n      atomic.Int64
}

func newSubmitter(url string, callers int, source string) *submitter {
	return &submitter{
		client: newClient(url, callers),
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
	answer, err := s.post(ctx, "/v1/promises", body)
	if err == nil && !bytes.Contains(answer, []byte(`"state":"resolved"`)) {
		err = fmt.Errorf("it did not resolve: %s", answer)
	}
	return err
}
