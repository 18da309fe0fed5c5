package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// A meter stands between the SDK and the wire, and counts what AWS bills: each
// try of each request, and what DynamoDB says that it consumed, by index. Each
// service has an emulator of its own.
type meter struct {
	wire              aws.HTTPClient
	dynamodb, sqs, s3 string // their URLs

	mu     sync.Mutex
	counts counts
	heard  chan struct{} // capacity 1: something was counted
}

// counts is how much there was of each thing that is billed.
type counts map[string]float64

// The things that are billed, beside those that capacity names: write units
// and read units, of the table and of each index.
const (
	sqsRequests = "sqs requests"
	emptyPolls  = "sqs receives of nothing" // of an idle worker, and billed to that
	s3Writes    = "s3 writes"
	s3Reads     = "s3 reads"
	apiRequests = "api requests"
)

// Do carries a request out and counts it by its answer.
func (m *meter) Do(r *http.Request) (*http.Response, error) {
	service, call, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	switch service {
	case "DynamoDB_20120810":
		least, err := askCapacity(r)
		if err != nil {
			return nil, err
		}
		return m.carry(r, m.dynamodb, func(body []byte) error { return m.capacity(call, body, least) })
	case "AmazonSQS":
		return m.carry(r, m.sqs, func(body []byte) error { return m.message(call, body) })
	default:
		return m.carry(r, m.s3, func([]byte) error {
			if r.Method == http.MethodHead || r.Method == http.MethodGet && !r.URL.Query().Has("list-type") {
				m.count(s3Reads, 1)
			} else {
				m.count(s3Writes, 1)
			}
			return nil
		})
	}
}

// carry sends a request to an emulator and has its answer counted.
func (m *meter) carry(r *http.Request, to string, count func(body []byte) error) (*http.Response, error) {
	at, err := url.Parse(to)
	if err != nil {
		return nil, err
	}
	r.URL.Host, r.Host = at.Host, at.Host
	resp, err := m.wire.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, count(body)
}

// message counts a request to SQS.
func (m *meter) message(call string, body []byte) error {
	var out struct{ Messages []json.RawMessage }
	if err := json.Unmarshal(body, &out); len(body) > 0 && err != nil {
		return fmt.Errorf("an answer of SQS: %w", err)
	}
	if call == "ReceiveMessage" && len(out.Messages) == 0 {
		m.count(emptyPolls, 1)
		return nil
	}
	m.count(sqsRequests, 1)
	m.count(call, 1)
	return nil
}

// askCapacity has DynamoDB say what a request consumes, and returns the least
// that AWS bills it with, where it says nothing: half a unit, or a whole one of
// what is written or read consistently.
func askCapacity(r *http.Request) (least float64, err error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return 0, err
	}
	var in map[string]json.RawMessage
	if err := json.Unmarshal(body, &in); err != nil {
		return 0, fmt.Errorf("a request to DynamoDB: %w", err)
	}
	least = 1
	if isRead(r.Header.Get("X-Amz-Target")) && string(in["ConsistentRead"]) != "true" {
		least = 0.5
	}
	in["ReturnConsumedCapacity"] = json.RawMessage(`"INDEXES"`)
	if body, err = json.Marshal(in); err != nil {
		return 0, err
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	r.ContentLength = int64(len(body))
	r.Header.Set("Content-Length", fmt.Sprint(len(body)))
	return least, nil
}

func isRead(call string) bool {
	return strings.HasSuffix(call, "GetItem") || strings.HasSuffix(call, "Query")
}

// units is what DynamoDB says of one table or index.
type units struct{ CapacityUnits float64 }

// consumed is what DynamoDB says of one table.
type consumed struct {
	units
	Table                  units
	GlobalSecondaryIndexes map[string]units
}

// capacity counts what a request consumed, or least.
func (m *meter) capacity(call string, body []byte, least float64) error {
	var out struct{ ConsumedCapacity json.RawMessage }
	if err := json.Unmarshal(body, &out); err != nil {
		return fmt.Errorf("an answer of DynamoDB: %w", err)
	}
	all := make([]consumed, 1)
	if json.Unmarshal(out.ConsumedCapacity, &all[0]) != nil { // one for each table, or nothing
		json.Unmarshal(out.ConsumedCapacity, &all)
	}
	kind := "write units of "
	if isRead(call) {
		kind = "read units of "
	}
	for _, c := range all {
		if c.CapacityUnits < least {
			c.Table.CapacityUnits = least
		}
		m.count(kind+"the table", c.Table.CapacityUnits)
		for index, u := range c.GlobalSecondaryIndexes {
			m.count(kind+"index "+index, u.CapacityUnits)
		}
	}
	m.count(call, 1)
	return nil
}

func (m *meter) count(what string, n float64) {
	m.mu.Lock()
	m.counts[what] += n
	m.mu.Unlock()
	select {
	case m.heard <- struct{}{}:
	default:
	}
}

// read returns what was counted so far.
func (m *meter) read() counts {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.counts)
}

// since returns what was counted after before, for each of n.
func (c counts) since(before counts, n float64) counts {
	each := counts{}
	for what, count := range c {
		if count > before[what] {
			each[what] = (count - before[what]) / n
		}
	}
	return each
}

// sum adds up what begins with prefix.
func (c counts) sum(prefix string) (n float64) {
	for what, count := range c {
		if strings.HasPrefix(what, prefix) {
			n += count
		}
	}
	return n
}

// Prices in dollars per million, us-east-1, as listed by AWS in 2026.
const (
	priceAPI     = 1.00  // a request to an HTTP API
	priceLambda  = 0.20  // an invocation
	priceCompute = 1.667 // a second of 128 MB on arm64
	priceWrite   = 0.625 // a write unit
	priceRead    = 0.125 // a read unit
	priceSQS     = 0.40  // a request
	priceS3Write = 5.00  // PUT, COPY, LIST
	priceS3Read  = 0.40  // GET, HEAD
)

// lambdaTime is what an invocation is taken to last, in seconds, beside its
// waits.
const lambdaTime = 0.01

// dollars is what c costs a million times.
func (c counts) dollars() float64 {
	return c[apiRequests]*(priceAPI+priceLambda+lambdaTime*priceCompute) +
		c.sum("write units")*priceWrite + c.sum("read units")*priceRead +
		c[sqsRequests]*priceSQS + c[s3Writes]*priceS3Write + c[s3Reads]*priceS3Read
}

// String lists what was counted.
func (c counts) String() string {
	var b strings.Builder
	for _, what := range slices.Sorted(maps.Keys(c)) {
		fmt.Fprintf(&b, "%s %.4g, ", what, c[what])
	}
	return strings.TrimSuffix(b.String(), ", ")
}
