package main

import (
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
)

// A stub answers as AWS would, at once, and keeps nothing: DynamoDB and SQS by
// the JSON protocol, whatever else is asked as S3.
type stub struct {
	url    string
	server *http.Server
	asked  atomic.Int64 // requests
}

func startStub() (*stub, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &stub{url: "http://" + l.Addr().String()}
	s.server = &http.Server{Handler: s}
	go s.server.Serve(l) // until it is closed
	return s, nil
}

func (s *stub) close() { s.server.Close() }

// env is what a function finds that is to work against the stub.
func (s *stub) env() []string {
	return []string{
		"AWS_ENDPOINT_URL=" + s.url, "AWS_REGION=us-east-1", "AWS_ACCESS_KEY_ID=bench", "AWS_SECRET_ACCESS_KEY=bench",
		"MODULATE_STAGE=bench", "MODULATE_BUCKET=bench",
	}
}

// ServeHTTP answers.
func (s *stub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.asked.Add(1)
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	_, operation, json := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	if !json {
		if r.Method == http.MethodHead {
			w.WriteHeader(http.StatusNotFound)
		}
		return
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.0")
	io.WriteString(w, s.answer(operation, body))
}

func (s *stub) answer(operation string, body []byte) string {
	queue := s.url + "/000000000000/modulate-bench-cpu"
	switch operation {
	case "ListQueues":
		return `{"QueueUrls":["` + queue + `"]}`
	case "GetQueueUrl":
		return `{"QueueUrl":"` + queue + `"}`
	case "SendMessage":
		var in struct{ MessageBody string }
		if err := json.Unmarshal(body, &in); err != nil {
			return "{}"
		}
		sum := md5.Sum([]byte(in.MessageBody)) // the SDK looks at it
		return `{"MessageId":"m","MD5OfMessageBody":"` + hex.EncodeToString(sum[:]) + `"}`
	case "Query":
		return `{"Items":[],"Count":0,"ScannedCount":0}`
	}
	return "{}"
}

// call makes n plain requests.
func (s *stub) call(n int) error {
	for range n {
		r, err := http.NewRequest(http.MethodPost, s.url, strings.NewReader("{}"))
		if err != nil {
			return err
		}
		r.Header.Set("X-Amz-Target", "bench.PutItem")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			return err
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	return nil
}
