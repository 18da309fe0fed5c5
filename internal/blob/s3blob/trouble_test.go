package s3blob_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/s3"

	"modulate/internal/blob"
	"modulate/internal/blob/s3blob"
	"modulate/internal/emulator"
	"modulate/internal/promise"
)

// said answers every request with the next of answers, the last one for ever,
// and keeps what was sent.
type said struct {
	answers []answer
	bodies  [][]byte
}

type answer struct {
	status int
	body   string
}

func (s *said) Do(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return nil, err
		}
		s.bodies = append(s.bodies, body)
	}
	a := s.answers[0]
	if len(s.answers) > 1 {
		s.answers = s.answers[1:]
	}
	return &http.Response{
		StatusCode: a.status, Header: http.Header{}, Request: req, Body: io.NopCloser(strings.NewReader(a.body)),
	}, nil
}

// stub returns blobs of a bucket "outputs" about which S3 says that.
func stub(t *testing.T, wire *said) *s3blob.Blobs {
	cfg := emulator.Config(t, "http://127.0.0.1:1")
	cfg.HTTPClient = wire
	return s3blob.New(s3.NewFromConfig(cfg), "outputs")
}

// xml is an error as S3 writes it.
func xml(code, message string) string {
	return fmt.Sprintf("<Error><Code>%s</Code><Message>%s</Message><RequestId>1</RequestId></Error>", code, message)
}

func TestErrorsSayWhatToDo(t *testing.T) {
	for name, c := range map[string]struct {
		said answer
		is   error
		want []string
	}{
		"no bucket":     {answer{404, xml("NoSuchBucket", "The specified bucket does not exist")}, blob.ErrDeployment, []string{"no bucket outputs in us-east-1", "template.yaml"}},
		"access denied": {answer{403, xml("AccessDenied", "Access Denied")}, blob.ErrDeployment, []string{"the bucket outputs is denied", "role"}},
		"other region":  {answer{301, xml("PermanentRedirect", "use the other endpoint")}, blob.ErrDeployment, []string{"outputs is not in us-east-1", "region"}},
		"expired":       {answer{400, xml("ExpiredToken", "The provided token has expired.")}, nil, []string{"the bucket outputs", "has expired"}},
		"other content": {answer{400, xml("BadDigest", "The SHA256 you specified did not match")}, blob.ErrMismatch, []string{"log/p/1"}},
		"no key":        {answer{404, xml("NoSuchKey", "The specified key does not exist.")}, blob.ErrNotFound, []string{"log/p/1"}},
	} {
		t.Run(name, func(t *testing.T) {
			for call, err := range calls(t.Context(), stub(t, &said{answers: []answer{c.said}})) {
				if err == nil || c.is != nil && !errors.Is(err, c.is) {
					t.Fatalf("%s: got %v, want %v", call, err, c.is)
				}
				for _, part := range c.want {
					if !strings.Contains(err.Error(), part) {
						t.Errorf("%s: %q does not say %q", call, err, part)
					}
				}
			}
		})
	}
}

// calls are what every method that S3 answers with a body says about log/p/1.
func calls(ctx context.Context, b *s3blob.Blobs) map[string]error {
	_, get := b.Get(ctx, "log/p/1", 0)
	_, list := b.List(ctx, "log/p/1")
	return map[string]error{
		"Put": b.Put(ctx, "log/p/1", strings.NewReader("x"), 1, promise.Hash{}),
		"Get": get, "List": list, "Touch": b.Touch(ctx, "log/p/1"),
	}
}

// S3 answers a HEAD without a body.
func TestStatSaysWhatToDo(t *testing.T) {
	for status, want := range map[int]string{403: "the bucket outputs is denied", 301: "outputs is not in us-east-1"} {
		_, err := stub(t, &said{answers: []answer{{status, ""}}}).Stat(t.Context(), "k")
		if !errors.Is(err, blob.ErrDeployment) || !strings.Contains(err.Error(), want) {
			t.Errorf("%d: got %v, want %q", status, err, want)
		}
	}
}

func TestAMissingBucketIsNamed(t *testing.T) {
	client := s3.NewFromConfig(emulator.Config(t, emulator.AWS(t)))
	for call, err := range calls(t.Context(), s3blob.New(client, "not-deployed")) {
		if err == nil || errors.Is(err, blob.ErrNotFound) || !strings.Contains(err.Error(), "no bucket not-deployed") {
			t.Errorf("%s: got %v", call, err)
		}
	}
}

// A listing comes in pages.
func TestListReadsEveryPage(t *testing.T) {
	page := func(more bool, key string) answer {
		return answer{200, fmt.Sprintf("<ListBucketResult><IsTruncated>%v</IsTruncated><NextContinuationToken>next</NextContinuationToken>"+
			"<Contents><Key>%s</Key><Size>1</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents></ListBucketResult>", more, key)}
	}
	got, err := stub(t, &said{answers: []answer{page(true, "log/p/1"), page(false, "log/p/2")}}).List(t.Context(), "log/p/")
	if err != nil || len(got) != 2 || got[1].Key != "log/p/2" {
		t.Errorf("got %+v, %v", got, err)
	}
}
