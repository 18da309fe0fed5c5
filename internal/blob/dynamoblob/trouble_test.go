package dynamoblob_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"modulate/internal/blob"
	"modulate/internal/blob/dynamoblob"
	"modulate/internal/emulator"
	"modulate/internal/promise"
)

// said answers each request with the next, the last one for ever. A read that
// may be stale is an error.
type said []string

func (s *said) Do(req *http.Request) (*http.Response, error) {
	asked, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	_, call, _ := strings.Cut(req.Header.Get("X-Amz-Target"), ".")
	if read := call == "GetItem" || call == "Query"; read && !strings.Contains(string(asked), `"ConsistentRead":true`) {
		return nil, fmt.Errorf("a %s that may be stale: %s", call, asked)
	}
	body := (*s)[0]
	if len(*s) > 1 {
		*s = (*s)[1:]
	}
	status := http.StatusOK
	if strings.Contains(body, "__type") {
		status = http.StatusBadRequest
	}
	return &http.Response{
		StatusCode: status, Header: http.Header{"Content-Type": {"application/x-amz-json-1.0"}},
		Request: req, Body: io.NopCloser(strings.NewReader(body)),
	}, nil
}

// stub returns blobs of the table modulate-dev about which DynamoDB says that.
func stub(t *testing.T, bodies ...string) *dynamoblob.Blobs {
	cfg := emulator.Config(t, "http://127.0.0.1:1")
	cfg.HTTPClient = (*said)(&bodies)
	cfg.Retryer = func() aws.Retryer { return aws.NopRetryer{} }
	return dynamoblob.New(dynamodb.NewFromConfig(cfg), "modulate-dev", retention)
}

// calls are what every method says about log/p/1.
func calls(t *testing.T, b *dynamoblob.Blobs) map[string]error {
	_, get := b.Get(t.Context(), "log/p/1", 0)
	_, stat := b.Stat(t.Context(), "log/p/1")
	_, list := b.List(t.Context(), "log/p/1")
	return map[string]error{
		"Put": b.Put(t.Context(), "log/p/1", strings.NewReader("x"), 1, promise.Hash{}),
		"Get": get, "Stat": stat, "List": list, "Touch": b.Touch(t.Context(), "log/p/1"),
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	ours := []error{blob.ErrNotFound, blob.ErrThrottled, blob.ErrDeployment}
	for code, c := range map[string]struct {
		is   error // nil: none of ours
		want string
	}{
		"ResourceNotFoundException":              {blob.ErrDeployment, "no table modulate-dev in us-east-1; deploy the stage (template.yaml)"},
		"AccessDeniedException":                  {blob.ErrDeployment, "the table modulate-dev is denied"},
		"ProvisionedThroughputExceededException": {blob.ErrThrottled, "log/p/1 in the table modulate-dev"},
		"ExpiredTokenException":                  {nil, "the reason"},
	} {
		body := fmt.Sprintf(`{"__type":"com.amazonaws.dynamodb.v20120810#%s","message":"the reason"}`, code)
		for call, err := range calls(t, stub(t, body)) {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s, %s: got %v, want %q", code, call, err, c.want)
			}
			for _, sentinel := range ours {
				if errors.Is(err, sentinel) != (sentinel == c.is) {
					t.Errorf("%s, %s: got %v, which should be %v", code, call, err, c.is)
				}
			}
		}
	}
}

func TestAMissingTableIsNamed(t *testing.T) {
	for name, endpoint := range emulators {
		t.Run(name, func(t *testing.T) {
			b := dynamoblob.New(dynamodb.NewFromConfig(emulator.Config(t, endpoint(t))), "not-deployed", retention)
			for call, err := range calls(t, b) {
				if err == nil || errors.Is(err, blob.ErrNotFound) || !strings.Contains(err.Error(), "no table not-deployed") {
					t.Errorf("%s: got %v", call, err)
				}
			}
		})
	}
}

func TestListReadsEveryPage(t *testing.T) {
	page := `{"Items":[{"i":{"S":"log/p/%d"},"n":{"N":"1"},"w":{"N":"5"}}]%s}`
	b := stub(t, fmt.Sprintf(page, 1, `,"LastEvaluatedKey":{"p":{"S":"log/p/"},"i":{"S":"log/p/1"}}`), fmt.Sprintf(page, 2, ""))
	got, err := b.List(t.Context(), "log/p/")
	if err != nil || len(got) != 2 || got[1] != (blob.Info{Key: "log/p/2", Size: 1, Written: 5}) {
		t.Errorf("got %+v, %v", got, err)
	}
}

// A prefix that is no partition's would find nothing, whatever there is.
func TestListWantsAnID(t *testing.T) {
	for _, prefix := range []string{"", "log", "log/", "log/p"} {
		if _, err := stub(t, `{"Items":[]}`).List(t.Context(), prefix); err == nil {
			t.Errorf("%q was listed", prefix)
		}
	}
}
