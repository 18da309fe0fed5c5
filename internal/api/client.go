package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Patience is how long a Client that is not told otherwise repeats a request.
const Patience = 3 * time.Second

// The waits between two tries of one request, and how long one may take beyond
// the wait that it asked for.
const (
	firstBackoff = 25 * time.Millisecond
	lastBackoff  = 2 * time.Second
	tryLimit     = 30 * time.Second
)

// ErrBarred is what a transport returns where the way to the server is barred,
// and no try again helps: the caller cannot prove who it is, perhaps. A Client
// returns that error as it is.
var ErrBarred = errors.New("the way to the server is barred")

// Client speaks the API to one server. Its methods may be called from any
// goroutine; its exported fields are set before use.
//
// Every request is idempotent, so that a Client repeats what got no answer,
// or one of 429, 502, 503 or 504 or another's 500, until its patience is over. Errors are then
// [*Unreachable] or [*Error]; errors.Is finds the sentinels of the server.
type Client struct {
	// Patience bounds the repeating of a request. Zero: the constant of that
	// name; negative: nothing is repeated.
	Patience time.Duration
	// OnRetry is told before a request is repeated: why, and when.
	OnRetry func(err error, wait time.Duration)

	base    string
	address string
	http    *http.Client
	reached atomic.Bool // the server has answered once
}

// NewClient returns a Client of the server at base, a URL such as
// "http://127.0.0.1:8700". rt carries the requests; nil: a transport of its
// own.
func NewClient(base string, rt http.RoundTripper) *Client {
	if rt == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.MaxIdleConnsPerHost = 256
		rt = t
	}
	base = strings.TrimRight(base, "/")
	if !strings.Contains(base, "://") {
		base = "http://" + base
	}
	c := &Client{base: base, address: base, http: &http.Client{Transport: rt}}
	if a, ok := rt.(interface{ Address() string }); ok {
		c.address = a.Address()
	}
	return c
}

// Address names the server, for messages.
func (c *Client) Address() string { return c.address }

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// call is one request, which may be tried several times.
type call struct {
	method string
	url    string // a path, or another server's URL
	query  url.Values
	header http.Header
	body   []byte                        // JSON, or
	open   func() (io.ReadCloser, error) // size bytes
	size   int64

	wait     time.Duration // that the server is asked to wait
	stream   bool          // the answer takes as long as it takes
	patience time.Duration // zero: the client's
}

// do tries a call until it is answered. read gets an answer of 2xx and closes
// its body.
func (c *Client) do(ctx context.Context, q call, read func(*http.Response) error) error {
	patience := q.patience
	if patience == 0 {
		patience = c.Patience
	}
	if patience == 0 {
		patience = Patience
	}
	began := time.Now()
	for try := 0; ; try++ {
		err := c.once(ctx, q, read)
		if err == nil || ctx.Err() != nil {
			return err
		}
		wait, again := backoff(err, try)
		if !again || time.Since(began)+wait > patience {
			return err
		}
		if c.OnRetry != nil {
			c.OnRetry(err, wait)
		}
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// once tries a call.
func (c *Client) once(ctx context.Context, q call, read func(*http.Response) error) error {
	try, cancel := ctx, context.CancelFunc(func() {})
	if !q.stream {
		try, cancel = context.WithTimeout(ctx, q.wait+tryLimit)
	}
	defer cancel()
	req, err := c.request(try, q)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err == nil {
		c.reached.Store(true)
		if resp.StatusCode >= 300 {
			return readError(resp)
		}
		err = read(resp)
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%s %s: %w", q.method, q.url, ctx.Err())
	}
	var inner *url.Error // its text repeats the method and the URL
	if errors.As(err, &inner) {
		err = inner.Err
	}
	if errors.Is(err, ErrBarred) {
		return err
	}
	return &Unreachable{Address: c.address, Err: err}
}

func (c *Client) request(ctx context.Context, q call) (*http.Request, error) {
	target := q.url
	if strings.HasPrefix(target, "/") {
		target = c.base + target
	}
	if len(q.query) > 0 {
		target += "?" + q.query.Encode()
	}
	var body io.Reader
	switch {
	case q.body != nil:
		body = bytes.NewReader(q.body)
	case q.open != nil:
		src, err := q.open()
		if err != nil {
			return nil, err
		}
		body = src
	}
	req, err := http.NewRequestWithContext(ctx, q.method, target, body)
	if err != nil {
		return nil, Invalid("url", "the address %q is not a URL: %v", c.base, err)
	}
	if q.open != nil {
		req.ContentLength = q.size
		if q.size == 0 {
			req.Body = http.NoBody
		}
	}
	req.Header.Set("Accept", "*/*") // else a REST API of API Gateway leaves bytes in base64
	for name, values := range q.header {
		req.Header[name] = values
	}
	if q.body != nil {
		req.Header.Set("Content-Type", mediaJSON)
	}
	return req, nil
}

// backoff returns the wait before try is repeated, and whether that is any
// use.
func backoff(err error, try int) (time.Duration, bool) {
	d := lastBackoff
	if try < 10 {
		d = min(firstBackoff<<try, lastBackoff)
	}
	d = d/2 + rand.N(d/2)
	var refused *Error
	if errors.As(err, &refused) {
		return max(d, refused.RetryAfter), refused.passing()
	}
	var away *Unreachable
	return d, errors.As(err, &away)
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// readError makes an answer other than 2xx an Error again.
func readError(resp *http.Response) error {
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // what can be read of it
	if e := protocolError(body); e != nil {
		return e
	}
	e := &Error{RetryAfter: parseRetryAfter(resp.Header.Get("Retry-After"))}
	if json.Unmarshal(body, &e.Problem, jsontext.AllowDuplicateNames(true)) != nil || e.Type == "" {
		text, _, _ := strings.Cut(strings.TrimSpace(string(body[:min(len(body), 200)])), "\n")
		var gateway struct{ Message string } // what API Gateway answers in its own name
		if json.Unmarshal(body, &gateway, json.MatchCaseInsensitiveNames(true)) == nil && gateway.Message != "" {
			text = gateway.Message
		}
		e.Problem = Problem{Type: blankType, Title: http.StatusText(resp.StatusCode), Detail: strings.ToValidUTF8(text, "")}
		if e.Detail == "" {
			e.Detail = resp.Status
		}
	}
	e.Status = resp.StatusCode
	return e
}

// parseRetryAfter reads seconds or a date; zero where there is neither.
func parseRetryAfter(s string) time.Duration {
	if n, err := strconv.Atoi(s); err == nil && n >= 0 && n <= 3600 {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(s); err == nil {
		return min(max(0, time.Until(t)), time.Hour)
	}
	return 0
}

// into returns a reader of an answer that decodes it into v.
func into[T any](v *T) func(*http.Response) error {
	return func(resp *http.Response) error {
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(body, v, jsontext.AllowDuplicateNames(true)); err != nil {
			return fmt.Errorf("reading an answer of %d bytes: %w", len(body), err)
		}
		return nil
	}
}
