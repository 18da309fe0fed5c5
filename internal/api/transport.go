package api

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
)

// Join serves reads by read and everything else by dispatch, as one API.
func Join(dispatch, read http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			read.ServeHTTP(w, r)
			return
		}
		dispatch.ServeHTTP(w, r)
	})
}

// UnixTransport talks to a server that listens on the unix socket at path,
// whatever host a URL names.
func UnixTransport(path string) http.RoundTripper {
	var d net.Dialer
	return &unixTransport{path: path, Transport: http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.DialContext(ctx, "unix", path)
		},
	}}
}

type unixTransport struct {
	http.Transport
	path string
}

// Address names the socket in errors.
func (t *unixTransport) Address() string { return t.path }

// HandlerTransport answers requests by h in this process. Bodies are streamed:
// RoundTrip returns when h has begun its answer.
func HandlerTransport(h http.Handler) http.RoundTripper { return handlerTransport{h} }

type handlerTransport struct{ h http.Handler }

// RoundTrip runs the handler in a goroutine that ends when the handler
// returns; closing the body makes its further writes fail.
func (t handlerTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(req.Context())
	in := req.Clone(ctx)
	if in.Body == nil {
		in.Body = http.NoBody
	}
	if in.Host == "" {
		in.Host = req.URL.Host
	}
	in.RequestURI = req.URL.RequestURI()
	r, w := io.Pipe()
	a := &answer{header: http.Header{}, pipe: w, begun: make(chan struct{})}
	go func() {
		defer cancel()
		defer in.Body.Close()
		a.end(t.serve(a, in))
	}()
	select {
	case <-a.begun:
	case <-ctx.Done():
		if err := req.Context().Err(); err != nil {
			r.CloseWithError(err)
			return nil, err
		}
		<-a.begun // the handler has returned
	}
	if a.err != nil {
		return nil, a.err
	}
	return a.response(req, &pipeBody{PipeReader: r, cancel: cancel}), nil
}

// serve runs the handler. Aborted, as net/http lets it be, it breaks the
// connection; every other panic is the program's.
func (t handlerTransport) serve(a *answer, in *http.Request) (err error) {
	defer func() {
		switch v := recover(); v {
		case nil:
		case http.ErrAbortHandler:
			err = fmt.Errorf("serving %s %s: %w", in.Method, in.URL.Path, io.ErrUnexpectedEOF)
		default:
			panic(v)
		}
	}()
	t.h.ServeHTTP(a, in)
	return nil
}

// pipeBody tells the handler when nobody reads any more.
type pipeBody struct {
	*io.PipeReader
	cancel context.CancelFunc
}

// Close ends the handler's context.
func (b *pipeBody) Close() error {
	b.cancel()
	return b.PipeReader.Close()
}

// answer is the ResponseWriter of a HandlerTransport.
type answer struct {
	header http.Header
	pipe   *io.PipeWriter
	once   sync.Once
	begun  chan struct{} // closed when the fields below are set
	status int
	sent   http.Header
	err    error
}

// Header returns the headers to be sent.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader begins the answer.
func (a *answer) WriteHeader(status int) {
	if status >= 100 && status < 200 {
		return
	}
	a.once.Do(func() {
		a.status, a.sent = status, a.header.Clone()
		close(a.begun)
	})
}

// Write passes p on; it returns when it was read.
func (a *answer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	if len(p) == 0 {
		return 0, nil
	}
	return a.pipe.Write(p)
}

// Flush begins the answer; nothing is ever held back.
func (a *answer) Flush() { a.WriteHeader(http.StatusOK) }

// end closes the answer, begun or not.
func (a *answer) end(err error) {
	a.once.Do(func() {
		a.status, a.sent, a.err = http.StatusOK, a.header.Clone(), err
		close(a.begun)
	})
	a.pipe.CloseWithError(err)
}

func (a *answer) response(req *http.Request, body io.ReadCloser) *http.Response {
	return &http.Response{
		Status: fmt.Sprintf("%d %s", a.status, http.StatusText(a.status)), StatusCode: a.status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: a.sent, Body: body, ContentLength: -1, Request: req,
	}
}
