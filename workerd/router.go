package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"

	"modulate/internal/api"
	"modulate/internal/blob"
)

// A router is a stage's API as the scripts of this machine reach it: their
// requests go on to the stage, signed in the name of the worker. Uploads go
// through it as well, so that a script needs no way to the bucket.
type router struct {
	base   *url.URL
	signed *http.Client // signs what goes to base, and nothing else
	log    *slog.Logger
}

// newRouter returns the handler. signed carries the requests.
func newRouter(base *url.URL, signed http.RoundTripper, log *slog.Logger) http.Handler {
	r := &router{base: base, signed: &http.Client{Transport: signed}, log: log}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/blobs", r.askBlob)
	mux.HandleFunc("PUT /v1/blobs/{sha256}", r.putBlob)
	mux.Handle("/", &httputil.ReverseProxy{
		Rewrite:   func(p *httputil.ProxyRequest) { p.SetURL(base) },
		Transport: signed,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			r.fail(w, fmt.Errorf("passing a request of a script on: %w", err))
		},
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	})
	return mux
}

// maxAsk is the longest question for an upload, in bytes.
const maxAsk = 4 << 10

// askBlob asks where an upload goes, and answers that it comes here.
func (r *router) askBlob(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(io.LimitReader(req.Body, maxAsk))
	if err != nil {
		r.fail(w, err)
		return
	}
	var asked api.BlobRequest
	_ = json.Unmarshal(body, &asked) // the stage refuses what is none
	resp, err := r.ask(req, body)
	if err != nil {
		r.fail(w, err)
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		pass(w, resp)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	json.NewEncoder(w).Encode(api.BlobUpload{URL: "/v1/blobs/" + asked.SHA256, Headers: map[string]string{"Content-Type": "application/octet-stream"}})
}

// putBlob asks where the upload goes, and takes it there.
func (r *router) putBlob(w http.ResponseWriter, req *http.Request) {
	body, err := json.Marshal(api.BlobRequest{SHA256: req.PathValue("sha256"), Size: req.ContentLength})
	if err != nil {
		r.fail(w, err)
		return
	}
	resp, err := r.ask(req, body)
	if err != nil {
		r.fail(w, err)
		return
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK: // it is there already
		w.WriteHeader(http.StatusNoContent)
	case http.StatusCreated:
		var up api.BlobUpload
		if err = json.NewDecoder(resp.Body).Decode(&up); err == nil {
			err = r.upload(req, up)
		}
		if err != nil {
			r.fail(w, err)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	default:
		pass(w, resp)
	}
}

// ask asks the stage for an upload, in the name of who sent req.
func (r *router) ask(req *http.Request, body []byte) (*http.Response, error) {
	ask, err := http.NewRequestWithContext(req.Context(), http.MethodPost, r.base.JoinPath("/v1/blobs").String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	ask.Header.Set("Content-Type", "application/json")
	ask.Header.Set(api.ParentHeader, req.Header.Get(api.ParentHeader))
	resp, err := r.signed.Do(ask)
	if err != nil {
		return nil, fmt.Errorf("asking for an upload: %w", err)
	}
	return resp, nil
}

// upload takes the body of req to where up says.
func (r *router) upload(req *http.Request, up api.BlobUpload) error {
	put, err := http.NewRequestWithContext(req.Context(), http.MethodPut, up.URL, req.Body)
	if err != nil {
		return err
	}
	put.ContentLength = req.ContentLength
	if put.ContentLength == 0 {
		put.Body = http.NoBody
	}
	for name, value := range up.Headers {
		put.Header.Set(name, value)
	}
	resp, err := r.signed.Do(put)
	if err != nil {
		return fmt.Errorf("uploading: %w", err)
	}
	defer resp.Body.Close()
	said, _ := io.ReadAll(io.LimitReader(resp.Body, maxAsk)) // what can be read of it
	switch {
	case resp.StatusCode < 300:
		return nil
	case resp.StatusCode == http.StatusBadRequest && bytes.Contains(said, []byte("BadDigest")): // S3's word for another hash
		return api.Fail(blob.ErrMismatch, "body", "the bytes that came do not have the sha256 %s; nothing was kept", req.PathValue("sha256"))
	default:
		return fmt.Errorf("uploading: the bucket says %s: %s", resp.Status, said)
	}
}

// pass answers what the stage has answered.
func pass(w http.ResponseWriter, resp *http.Response) {
	for _, name := range []string{"Content-Type", "Retry-After"} {
		if v := resp.Header.Get(name); v != "" {
			w.Header().Set(name, v)
		}
	}
	w.WriteHeader(resp.StatusCode)
	io.Copy(w, resp.Body) // who went away misses it
}

// fail answers a problem. What is no fault of the script's is logged: a
// worker's credentials are none of its business.
func (r *router) fail(w http.ResponseWriter, err error) {
	e := api.AsError(err)
	if e.Status >= http.StatusInternalServerError && !errors.Is(err, context.Canceled) {
		r.log.Warn("a script does not reach the stage", "error", err)
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(e.Status)
	json.NewEncoder(w).Encode(e.Problem)
}
