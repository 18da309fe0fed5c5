package lambdahttp

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"modulate/internal/api"
)

// answer is the ResponseWriter of a request, and holds all of its answer that
// an event may carry.
type answer struct {
	header http.Header
	sent   http.Header // as it was when the answer began
	status int
	body   bytes.Buffer
	size   int // of the body, kept or not
}

func newAnswer() *answer { return &answer{header: http.Header{}} }

// refusal is the answer that the API gives for err.
func refusal(err error) *answer {
	e := api.AsError(err)
	a := problem(e.Problem)
	if e.RetryAfter > 0 {
		a.sent.Set("Retry-After", strconv.Itoa(int(e.RetryAfter/time.Second)))
	}
	return a
}

func problem(p api.Problem) *answer {
	a := newAnswer()
	a.header.Set("Content-Type", "application/problem+json")
	a.WriteHeader(p.Status)
	json.NewEncoder(a).Encode(p) // strings and a number, into memory
	return a
}

// Header returns the headers to be sent.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader begins the answer.
func (a *answer) WriteHeader(status int) {
	if a.status == 0 && status >= http.StatusOK {
		a.status, a.sent = status, a.header.Clone()
	}
}

// Write keeps p, unless the answer is too large already.
func (a *answer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	a.size += len(p)
	if a.body.Len() <= maxAnswer {
		a.body.Write(p)
	}
	return len(p), nil
}

// response is an answer as API Gateway takes it: Headers and Cookies in payload
// 2.0, MultiValueHeaders in 1.0.
type response struct {
	Status            int                 `json:"statusCode"`
	Headers           map[string]string   `json:"headers,omitempty"`
	Cookies           []string            `json:"cookies,omitempty"`
	MultiValueHeaders map[string][]string `json:"multiValueHeaders,omitempty"`
	Body              string              `json:"body"`
	IsBase64Encoded   bool                `json:"isBase64Encoded"`
}

// encode writes the answer, for payload 1.0 or 2.0. The gateway sets the length
// itself.
func (a *answer) encode(multiValue bool) ([]byte, error) {
	r := response{Status: a.status}
	a.sent.Del("Content-Length")
	if multiValue {
		r.MultiValueHeaders = a.sent
	} else {
		r.Cookies = a.sent.Values("Set-Cookie")
		a.sent.Del("Set-Cookie")
		r.Headers = make(map[string]string, len(a.sent))
		for name, values := range a.sent {
			r.Headers[name] = strings.Join(values, ", ")
		}
	}
	if a.text() {
		r.Body = a.body.String()
	} else {
		r.Body, r.IsBase64Encoded = base64.StdEncoding.EncodeToString(a.body.Bytes()), true
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	err := enc.Encode(r)
	return out.Bytes(), err
}

// text reports whether the body can stand in an event as it is.
func (a *answer) text() bool {
	media, _, _ := strings.Cut(a.sent.Get("Content-Type"), ";")
	return (a.body.Len() == 0 || strings.HasSuffix(media, "json") || strings.HasPrefix(media, "text/")) && utf8.Valid(a.body.Bytes())
}
