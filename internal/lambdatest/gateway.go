package lambdatest

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
)

// A Gateway is an API in front of the functions: an http.Handler. It is an
// HTTP API with payload 2.0, or with REST a REST API.
type Gateway struct {
	Read  Invoker // of GET and HEAD
	Write Invoker // of the rest
	REST  bool
	Stage string                     // before the path of an HTTP API; "": $default
	Limit time.Duration              // of a request; 30 s when 0
	Who   func(*http.Request) string // the ARN of the caller, as IAM finds it; nil or "": nobody
}

// An Invoker answers events: a [*Function], or an [InProcess].
type Invoker interface {
	Invoke(payload []byte) ([]byte, error)
}

// InProcess is a function without a program of its own.
type InProcess struct{ lambda.Handler }

// Invoke lets the handler answer; it has 30 s.
func (p InProcess) Invoke(payload []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return p.Handler.Invoke(ctx, payload)
}

// maxRequest is the most that a gateway takes (AWS: 10 MB).
const maxRequest = 10 << 20

// ServeHTTP lets a function answer.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxRequest+1))
	if err != nil {
		return
	}
	if len(body) > maxRequest {
		g.say(w, http.StatusRequestEntityTooLarge, "Request Too Long")
		return
	}
	f := g.Write
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		f = g.Read
	}
	payload, err := json.Marshal(g.event(r, body))
	if err != nil {
		g.say(w, http.StatusBadRequest, err.Error())
		return
	}
	done := make(chan result, 1)
	go func() { // it goes on though nobody waits any more
		answer, err := f.Invoke(payload)
		done <- result{answer, err}
	}()
	limit := g.Limit
	if limit == 0 {
		limit = 30 * time.Second
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case got := <-done:
		g.answer(w, got)
	case <-timer.C:
		if g.REST {
			g.say(w, http.StatusGatewayTimeout, "Endpoint request timed out")
			return
		}
		g.say(w, http.StatusServiceUnavailable, "Service Unavailable")
	case <-r.Context().Done():
	}
}

// answer writes what a function has answered, and of a function that failed
// what a gateway says.
func (g *Gateway) answer(w http.ResponseWriter, got result) {
	var a struct {
		StatusCode        int
		Headers           map[string]string
		MultiValueHeaders map[string][]string
		Cookies           []string
		Body              string
		IsBase64Encoded   bool
	}
	err := got.err
	if err == nil {
		err = json.Unmarshal(got.body, &a)
	}
	body := []byte(a.Body)
	if err == nil && a.IsBase64Encoded {
		body, err = base64.StdEncoding.DecodeString(a.Body)
	}
	if err != nil || a.StatusCode == 0 {
		if g.REST {
			g.say(w, http.StatusBadGateway, "Internal server error")
			return
		}
		g.say(w, http.StatusInternalServerError, "Internal Server Error")
		return
	}
	h := w.Header()
	for name, value := range a.Headers {
		h.Set(name, value)
	}
	for name, values := range a.MultiValueHeaders {
		h[http.CanonicalHeaderKey(name)] = values
	}
	for _, cookie := range a.Cookies {
		h.Add("Set-Cookie", cookie)
	}
	w.WriteHeader(a.StatusCode)
	w.Write(body)
}

func (g *Gateway) say(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]string{"message": message})
}

// object is one of JSON.
type object map[string]any

func (g *Gateway) event(r *http.Request, body []byte) object {
	text, encoded := string(body), false
	if media := r.Header.Get("Content-Type"); len(body) > 0 && !strings.HasPrefix(media, "application/json") && !strings.HasPrefix(media, "text/") {
		text, encoded = base64.StdEncoding.EncodeToString(body), true
	}
	arn := ""
	if g.Who != nil {
		arn = g.Who(r)
	}
	r.Header.Set("Host", r.Host)
	var e object
	if g.REST {
		e = g.rest(r, arn)
	} else {
		e = g.http(r, arn)
	}
	e["body"], e["isBase64Encoded"] = text, encoded
	return e
}

func (g *Gateway) http(r *http.Request, arn string) object {
	headers := make(map[string]string, len(r.Header))
	for name, values := range r.Header {
		headers[strings.ToLower(name)] = strings.Join(values, ",")
	}
	stage, path := "$default", r.URL.Path
	if g.Stage != "" {
		stage, path = g.Stage, "/"+g.Stage+path
	}
	context := object{
		"stage": stage, "domainName": "test.execute-api.us-east-1.amazonaws.com", "requestId": "test=",
		"http": object{"method": r.Method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1"},
	}
	if arn != "" {
		context["authorizer"] = object{"iam": object{"userArn": arn, "cognitoIdentity": nil}}
	}
	return object{
		"version": "2.0", "routeKey": "$default", "rawPath": path, "rawQueryString": r.URL.RawQuery,
		"headers": headers, "requestContext": context,
	}
}

func (g *Gateway) rest(r *http.Request, arn string) object {
	query, _ := url.ParseQuery(r.URL.RawQuery)
	identity := object{"sourceIp": "127.0.0.1", "userArn": nil}
	if arn != "" {
		identity["userArn"] = arn
	}
	return object{
		"resource": "/{proxy+}", "path": r.URL.EscapedPath(), "httpMethod": r.Method,
		"headers": nil, "multiValueHeaders": r.Header, "multiValueQueryStringParameters": query,
		"requestContext": object{"stage": "test", "resourceId": "r1", "path": "/test" + r.URL.EscapedPath(), "identity": identity},
	}
}
