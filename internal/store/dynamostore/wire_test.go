package dynamostore_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
)

// A wire is what stands between a client and its emulator: it is given each
// request, and the way on.
type wire func(r request, on func(request) (*http.Response, error)) (*http.Response, error)

// request is one to DynamoDB.
type request struct {
	op   string // "PutItem"
	body map[string]any
}

// into puts w into a client, whose retries need not be waited for.
func (w wire) into(o *dynamodb.Options) {
	o.HTTPClient = &http.Client{Transport: wired{w, o.HTTPClient.(*http.Client).Transport}}
	o.Retryer = retry.NewStandard(func(o *retry.StandardOptions) { o.MaxBackoff = time.Millisecond })
}

type wired struct {
	wire
	http.RoundTripper
}

// RoundTrip is that of [http.RoundTripper].
func (w wired) RoundTrip(r *http.Request) (*http.Response, error) {
	sent, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	_, op, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	in := request{op: op}
	if err := json.Unmarshal(sent, &in.body); err != nil {
		return nil, err
	}
	return w.wire(in, func(in request) (*http.Response, error) {
		b, err := json.Marshal(in.body)
		if err != nil {
			return nil, err
		}
		r := r.Clone(r.Context())
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(b)), int64(len(b))
		res, err := w.RoundTripper.RoundTrip(r)
		if err == nil {
			res.Header.Del("X-Amz-Crc32") // wires may change the body
		}
		return res, err
	})
}

var errDropped = errors.New("the reply was dropped")

// drop loses a reply.
func drop(res *http.Response, err error) (*http.Response, error) {
	if err == nil {
		res.Body.Close()
	}
	return nil, errDropped
}

// say answers in DynamoDB's place.
func say(status int, body any) (*http.Response, error) {
	b, err := json.Marshal(body)
	return &http.Response{
		StatusCode: status, Header: http.Header{"Content-Type": {"application/x-amz-json-1.0"}},
		Body: io.NopCloser(bytes.NewReader(b)), ContentLength: int64(len(b)),
	}, err
}

// sayError answers with an exception.
func sayError(code string) (*http.Response, error) {
	return say(400, map[string]any{"__type": "com.amazonaws.dynamodb.v20120810#" + code, "message": "by the test"})
}

// canceled answers to a transaction with the reasons why it was cancelled.
func canceled(codes ...string) (*http.Response, error) {
	var reasons []map[string]any
	for _, code := range codes {
		reasons = append(reasons, map[string]any{"Code": code})
	}
	return say(400, map[string]any{
		"__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException", "CancellationReasons": reasons,
	})
}

// body reads an answer.
func body(res *http.Response) (m map[string]any, err error) {
	defer res.Body.Close()
	return m, json.NewDecoder(res.Body).Decode(&m)
}

// frozen is a wire whose indexes can stand still: as long as they do, a query
// is answered as it was before they did, and one that is new finds nothing.
type frozen struct {
	still atomic.Bool
	mu    sync.Mutex
	seen  map[string]map[string]any
}

func (f *frozen) wire(r request, on func(request) (*http.Response, error)) (*http.Response, error) {
	if r.op != "Query" || r.body["IndexName"] == nil {
		return on(r)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	question := fmt.Sprint(r.body)
	if f.still.Load() {
		if answer, ok := f.seen[question]; ok {
			return say(200, answer)
		}
		return say(200, map[string]any{"Items": []any{}, "Count": 0})
	}
	res, err := on(r)
	if err != nil {
		return nil, err
	}
	answer, err := body(res)
	if err != nil {
		return nil, err
	}
	if f.seen == nil {
		f.seen = map[string]map[string]any{}
	}
	f.seen[question] = answer
	return say(res.StatusCode, answer)
}

// A meter is a wire that sums up the write units that DynamoDB Local says were
// consumed: of the table under "", of an index under its name.
type meter struct {
	t     *testing.T
	mu    sync.Mutex
	units map[string]float64
}

func (m *meter) wire(r request, on func(request) (*http.Response, error)) (*http.Response, error) {
	r.body["ReturnConsumedCapacity"] = "INDEXES"
	res, err := on(r)
	if err != nil || r.op != "PutItem" {
		return res, err
	}
	b, err := io.ReadAll(res.Body)
	res.Body.Close()
	res.Body = io.NopCloser(bytes.NewReader(b))
	var answer struct {
		ConsumedCapacity struct {
			Table                  struct{ CapacityUnits float64 }
			GlobalSecondaryIndexes map[string]struct{ CapacityUnits float64 }
		}
	}
	if err := json.Unmarshal(b, &answer); err != nil {
		m.t.Error(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.units == nil {
		m.units = map[string]float64{}
	}
	m.units[""] += answer.ConsumedCapacity.Table.CapacityUnits
	for index, used := range answer.ConsumedCapacity.GlobalSecondaryIndexes {
		m.units[index] += used.CapacityUnits
	}
	return res, err
}

// take returns what was consumed since it was called before.
func (m *meter) take() map[string]float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	units := m.units
	m.units = nil
	return units
}
