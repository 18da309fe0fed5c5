package api

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"modulate/internal/promise"
)

// WaitStep is how long WaitTerminal asks the server to block, and ProgressStep
// how long where somebody watches.
const (
	WaitStep     = 10 * time.Second
	ProgressStep = time.Second
)

// SubmitOptions say how a submission is answered. Wait is rounded up to whole
// seconds; 0 asks for an answer at once. Async asks for 202 even if a wait
// would have been short.
type SubmitOptions struct {
	Wait  time.Duration
	Async bool
	// Key marks this submission at a script's socket, where the worker gives
	// the id; see [KeyHeader].
	Key string
	// Patience replaces the client's.
	Patience time.Duration
}

// Submitted says what became of a submission; exactly one field is true.
type Submitted struct {
	Created  bool // 201: there is a new promise; if a wait was asked it is settled
	Existing bool // 200: the same call had been submitted under this id
	Accepted bool // 202: stored, new or not, and still pending
}

// Submit submits. Without an id and a key it makes the id itself, so that the
// request can be repeated. ErrConflict: the id is taken.
func (c *Client) Submit(ctx context.Context, sub Submit, opts SubmitOptions) (Promise, Submitted, error) {
	if sub.ID == "" && opts.Key == "" {
		sub.ID = NewID(promise.TimeOf(time.Now()))
		if sub.Parent != "" {
			sub.ID = sub.Parent + "." + sub.ID
		}
	}
	body, err := json.Marshal(sub)
	if err != nil {
		return Promise{}, Submitted{}, Invalid("", "the call cannot be written as JSON: %v", err)
	}
	q := call{method: http.MethodPost, url: "/v1/promises", body: body, header: prefer(opts.Wait, opts.Async), wait: opts.Wait, patience: opts.Patience}
	if opts.Key != "" {
		q.header.Set(KeyHeader, opts.Key)
	}
	var p Promise
	var done Submitted
	err = c.do(ctx, q, func(resp *http.Response) error {
		done = Submitted{
			Created:  resp.StatusCode == http.StatusCreated,
			Existing: resp.StatusCode == http.StatusOK,
			Accepted: resp.StatusCode == http.StatusAccepted,
		}
		return into(&p)(resp)
	})
	return p, done, err
}

// Get returns the promise, after up to wait if it is pending. The server
// blocks [MaxWait] seconds at most. promise.ErrNotFound.
func (c *Client) Get(ctx context.Context, id string, wait time.Duration) (Promise, error) {
	p, _, err := c.get(ctx, id, wait, 0)
	return p, err
}

// get also returns how long the server wants to be left alone.
func (c *Client) get(ctx context.Context, id string, wait, patience time.Duration) (p Promise, after time.Duration, err error) {
	q := call{method: http.MethodGet, url: PromisePath(id), header: prefer(wait, false), wait: wait, patience: patience}
	err = c.do(ctx, q, func(resp *http.Response) error {
		after = parseRetryAfter(resp.Header.Get("Retry-After"))
		return into(&p)(resp)
	})
	return p, after, err
}

// WaitTerminal returns the promise once it is terminal. It goes on through any
// number of gateway timeouts and restarts of the server, until ctx ends; only
// a server that has never answered this client is [*Unreachable] after the
// client's patience. onProgress, if not nil, sees what each look has found.
func (c *Client) WaitTerminal(ctx context.Context, id string, onProgress func(Promise)) (Promise, error) {
	step := WaitStep
	if onProgress != nil {
		step = ProgressStep
	}
	wait := step
	for {
		var patience time.Duration
		if c.reached.Load() {
			patience = math.MaxInt64
		}
		p, after, err := c.get(ctx, id, wait, patience)
		if err != nil {
			return p, err
		}
		if onProgress != nil {
			onProgress(p)
		}
		if state, ok := promise.ParseState(p.State); ok && state.Terminal() {
			return p, nil
		}
		wait = step
		if after > 0 { // it would rather be polled
			wait = 0
			if err := sleep(ctx, after); err != nil {
				return p, err
			}
		}
	}
}

// Cancel cancels the promise and what is attached below it. Cancelled before,
// it is no error; promise.ErrSettled: another end won, and Problem.State says
// which.
func (c *Client) Cancel(ctx context.Context, id string) (p Promise, err error) {
	err = c.do(ctx, call{method: http.MethodPost, url: PromisePath(id) + "/cancel"}, into(&p))
	return p, err
}

// ListQuery says what to list; zero fields do not filter.
type ListQuery struct {
	Machine string
	State   string
	Prefix  string
	Since   time.Time
	Limit   int
	Cursor  string
}

// List returns a page of promises, newest first.
func (c *Client) List(ctx context.Context, q ListQuery) (page List, err error) {
	v := url.Values{}
	for name, value := range map[string]string{"machine": q.Machine, "state": q.State, "prefix": q.Prefix, "cursor": q.Cursor} {
		if value != "" {
			v.Set(name, value)
		}
	}
	if !q.Since.IsZero() {
		v.Set("since", q.Since.UTC().Format(time.RFC3339Nano))
	}
	if q.Limit != 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	err = c.do(ctx, call{method: http.MethodGet, url: "/v1/promises", query: v}, into(&page))
	return page, err
}

// Machines returns the known machines.
func (c *Client) Machines(ctx context.Context) (m Machines, err error) {
	err = c.do(ctx, call{method: http.MethodGet, url: "/v1/machines"}, into(&m))
	return m, err
}

// LogQuery says which bytes of a stream to read: those from Offset on, of the
// attempt with that number (0: the latest). Wait lets the server block until
// there are some.
type LogQuery struct {
	Stream  string // stdout or stderr
	Offset  int64
	Attempt uint32
	Wait    time.Duration
}

// LogPage is a part of a stream: Body starts at Offset, which is beyond the
// one asked for where the stream was cut, and Next is where to read on.
type LogPage struct {
	Offset, Next int64
	Size         int64 // of the stream so far
	Attempt      uint32
	End          bool // nothing more will come
	Body         []byte
}

// Log returns a part of a stream.
func (c *Client) Log(ctx context.Context, id string, l LogQuery) (page LogPage, err error) {
	v := url.Values{"stream": {l.Stream}, "offset": {strconv.FormatInt(l.Offset, 10)}}
	if l.Attempt != 0 {
		v.Set("attempt", strconv.FormatUint(uint64(l.Attempt), 10))
	}
	q := call{method: http.MethodGet, url: PromisePath(id) + "/logs", query: v, header: prefer(l.Wait, false), wait: l.Wait}
	err = c.do(ctx, q, func(resp *http.Response) error {
		defer resp.Body.Close()
		number := func(name string) int64 {
			n, _ := strconv.ParseInt(resp.Header.Get(name), 10, 64) // ours; 0 when absent
			return n
		}
		page = LogPage{
			Offset: number(LogOffsetHeader), Next: number(LogNextHeader), Size: number(LogSizeHeader),
			Attempt: uint32(number(LogAttemptHeader)), End: resp.Header.Get(LogEndHeader) == "true",
		}
		body, err := io.ReadAll(resp.Body)
		page.Body = body
		return err
	})
	return page, err
}

// Artifacts returns what the script left, in order.
func (c *Client) Artifacts(ctx context.Context, id string) (list Artifacts, err error) {
	err = c.do(ctx, call{method: http.MethodGet, url: PromisePath(id) + "/artifacts"}, into(&list))
	return list, err
}

// Artifact returns the content of an artifact, which the caller closes.
// blob.ErrNotFound.
func (c *Client) Artifact(ctx context.Context, id, name string) (body io.ReadCloser, err error) {
	segments := strings.Split(name, "/")
	for i, s := range segments {
		segments[i] = url.PathEscape(s)
	}
	q := call{method: http.MethodGet, url: PromisePath(id) + "/artifacts/" + strings.Join(segments, "/"), stream: true}
	err = c.do(ctx, q, func(resp *http.Response) error {
		body = resp.Body
		return nil
	})
	return body, err
}

// PutBlob sees to it that the server has the size bytes with that hash, and
// calls open, perhaps several times, if they must be sent. ErrTooLarge,
// blob.ErrMismatch, blob.ErrFull.
func (c *Client) PutBlob(ctx context.Context, sum promise.Hash, size int64, open func() (io.ReadCloser, error)) error {
	body, err := json.Marshal(BlobRequest{SHA256: sum.String(), Size: size})
	if err != nil {
		return fmt.Errorf("asking for %s: %w", sum, err)
	}
	var up BlobUpload
	err = c.do(ctx, call{method: http.MethodPost, url: "/v1/blobs", body: body}, into(&up))
	if err != nil || up.URL == "" {
		return err
	}
	q := call{method: http.MethodPut, url: up.URL, header: http.Header{}, open: open, size: size, stream: true}
	for name, value := range up.Headers {
		q.header.Set(name, value)
	}
	return c.do(ctx, q, func(resp *http.Response) error { return resp.Body.Close() })
}

// PromisePath is the path of the promise with that id.
func PromisePath(id string) string { return "/v1/promises/" + url.PathEscape(id) }

// prefer returns the header that asks for a wait, in whole seconds, and for an
// answer before it is over.
func prefer(wait time.Duration, async bool) http.Header {
	h := http.Header{}
	if wait > 0 {
		h.Add("Prefer", "wait="+strconv.FormatInt(int64((wait+time.Second-1)/time.Second), 10))
	}
	if async {
		h.Add("Prefer", "respond-async")
	}
	return h
}
