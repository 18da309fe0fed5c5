package lambdahttp

import (
	"bytes"
	"context"
	"encoding/base64"
	"io"
	"net/http"
	"net/url"
	"strings"

	"modulate/internal/api"
)

// event is what this package reads of an event, of either payload.
type event struct {
	Headers         map[string]string `json:"headers"`
	Body            string            `json:"body"`
	IsBase64Encoded bool              `json:"isBase64Encoded"`
	Context         struct {
		Stage      string   `json:"stage"`
		DomainName string   `json:"domainName"`
		ResourceID string   `json:"resourceId"` // of a REST API alone
		HTTP       struct { // 2.0
			Method string `json:"method"`
		} `json:"http"`
		Identity   identity   `json:"identity"` // 1.0
		Authorizer authorizer `json:"authorizer"`
	} `json:"requestContext"`

	// Payload 2.0: repeated headers are joined by commas, cookies apart.
	RawPath        string   `json:"rawPath"`
	RawQueryString string   `json:"rawQueryString"`
	Cookies        []string `json:"cookies"`

	// Payload 1.0: the query is decoded.
	HTTPMethod        string              `json:"httpMethod"`
	Path              string              `json:"path"`
	MultiValueHeaders map[string][]string `json:"multiValueHeaders"`
	MultiValueQuery   url.Values          `json:"multiValueQueryStringParameters"`
}

// multiValue reports whether the event, and so its answer, is of payload 1.0.
func (e *event) multiValue() bool { return e.HTTPMethod != "" }

func (e *event) method() string {
	if e.multiValue() {
		return e.HTTPMethod
	}
	return e.Context.HTTP.Method
}

// request returns the request of an event. ErrInvalid.
func (e *event) request(ctx context.Context) (*http.Request, error) {
	body := []byte(e.Body)
	if e.IsBase64Encoded {
		var err error
		if body, err = base64.StdEncoding.DecodeString(e.Body); err != nil {
			return nil, api.Invalid("body", "the body is said to be base64 and is not: %v", err)
		}
	}
	u, err := e.url()
	if err != nil {
		return nil, err
	}
	header := e.header()
	r := &http.Request{
		Method: e.method(), URL: u, RequestURI: u.RequestURI(), Host: header.Get("Host"), Header: header,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
	}
	header.Del("Host")
	return r.WithContext(context.WithValue(ctx, callerKey{}, e.caller())), nil
}

func (e *event) header() http.Header {
	h := make(http.Header, len(e.Headers)+1)
	for name, value := range e.Headers {
		h.Set(name, value)
	}
	for name, values := range e.MultiValueHeaders {
		h[http.CanonicalHeaderKey(name)] = values
	}
	if len(e.Cookies) > 0 {
		h.Set("Cookie", strings.Join(e.Cookies, "; "))
	}
	return h
}

// url returns the request's URL. An HTTP API decodes the path, whichever the
// payload, and puts its stage before it unless that is $default; a REST API
// and a function URL do neither.
func (e *event) url() (*url.URL, error) {
	path, query := e.RawPath, e.RawQueryString
	if e.multiValue() {
		path, query = e.Path, e.MultiValueQuery.Encode()
	}
	if e.Context.ResourceID != "" || strings.Contains(e.Context.DomainName, ".lambda-url.") {
		plain, err := url.PathUnescape(path)
		if err != nil {
			return nil, api.Invalid("path", "the path %q is not encoded as paths are: %v", path, err)
		}
		return &url.URL{Path: plain, RawPath: path, RawQuery: query}, nil
	}
	if rest, ok := strings.CutPrefix(path, "/"+e.Context.Stage+"/"); ok {
		path = "/" + rest
	}
	return &url.URL{Path: path, RawQuery: query}, nil
}
