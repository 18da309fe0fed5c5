package cloud

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"modulate/internal/account"
	"modulate/internal/blob"
	"modulate/internal/emulator"
)

func TestMain(m *testing.M) { emulator.Main(m) }

func TestOpenRefuses(t *testing.T) {
	for _, tt := range []struct{ stage, region, says string }{
		{"Prod", "us-east-1", `stage "Prod": want a lower-case letter`},
		{"", "us-east-1", `stage ""`},
		{"dlq", "us-east-1", "neither dlq nor sdk"},
		{"prod", "", "set AWS_REGION"},
	} {
		_, err := Open(t.Context(), Config{Stage: tt.stage, Bucket: "b", AWS: aws.Config{Region: tt.region}})
		if err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%q in %q: %v, want %s", tt.stage, tt.region, err, tt.says)
		}
	}
}

// A stage has its names from its stage, account and region.
func TestNames(t *testing.T) {
	cfg := emulator.Config(t, emulator.AWS(t))
	c, err := Open(t.Context(), Config{Stage: "prod", AWS: cfg})
	if err != nil || c.Table != "modulate-prod" || c.Bucket != "modulate-prod-000000000000-us-east-1" || c.Engine.Alarm != MinLease {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := Open(t.Context(), Config{Stage: "prod", AWS: away(cfg)}); err == nil || !strings.Contains(err.Error(), "asking which account") {
		t.Errorf("nobody answers: %v", err)
	}
}

// away is where nobody listens.
func away(cfg aws.Config) aws.Config {
	cfg = cfg.Copy()
	cfg.BaseEndpoint = aws.String("http://127.0.0.1:1")
	cfg.RetryMaxAttempts = 1
	return cfg
}

// What is missing is named, with what to deploy.
func TestCheck(t *testing.T) {
	cfg := emulator.Config(t, emulator.AWS(t))
	table, stage := emulator.Table(t, dynamodb.NewFromConfig(cfg)), emulator.Queues(t, sqs.NewFromConfig(cfg), "cpu")
	bucket := emulator.Bucket(t, s3.NewFromConfig(cfg, func(o *s3.Options) { o.UsePathStyle = true }))
	for _, tt := range []struct {
		name, table, bucket, machine string
		says, hint                   string // "": all is there
	}{
		{"all there", table, bucket, "cpu", "", ""},
		{"no machine asked for", table, bucket, "", "", ""},
		{"no table", "modulate-none", bucket, "cpu", "there is no table modulate-none in us-east-1", "sam deploy --config-env " + stage},
		{"no bucket", table, "modulate-none", "cpu", "there is no bucket modulate-none in us-east-1", "sam deploy"},
		{"no queue", table, bucket, "gpu", "there is no queue for machine gpu of stage " + stage + " in us-east-1", "infra/machine.yaml"},
	} {
		c, err := Open(t.Context(), Config{Stage: stage, Table: tt.table, Bucket: tt.bucket, AWS: cfg})
		if err != nil {
			t.Fatal(err)
		}
		err = c.Check(t.Context(), tt.machine)
		if tt.says == "" {
			if err != nil {
				t.Errorf("%s: %v", tt.name, err)
			}
			continue
		}
		var trouble *account.Trouble
		if !errors.As(err, &trouble) || !errors.Is(err, account.ErrMissing) || trouble.Text != tt.says || !strings.Contains(trouble.Hint, tt.hint) {
			t.Errorf("%s: %v (%+v)", tt.name, err, trouble)
		}
	}
	c, err := Open(t.Context(), Config{Stage: stage, Table: table, Bucket: bucket, AWS: away(cfg)})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Check(t.Context(), "cpu"); err == nil || errors.Is(err, account.ErrMissing) {
		t.Errorf("nobody answers: %v", err)
	}
}

// saying is AWS in which one service refuses everything.
type saying struct {
	aws.HTTPClient
	service string // dynamodb, s3, sqs
	status  int
	code    string // "": no body
}

// Do is that of [aws.HTTPClient].
func (s saying) Do(req *http.Request) (*http.Response, error) {
	if !strings.Contains(req.Header.Get("Authorization"), "/"+s.service+"/") {
		return s.HTTPClient.Do(req)
	}
	body := ""
	if s.code != "" {
		body = `{"__type":"x#` + s.code + `","message":"by the test"}`
	}
	return &http.Response{
		StatusCode: s.status, Header: http.Header{"Content-Type": {"application/x-amz-json-1.0"}}, Request: req,
		Body: io.NopCloser(strings.NewReader(body)),
	}, nil
}

// What AWS refuses is said; that it has no capacity is borne with, and hides
// nothing that is worse.
func TestCheckRefused(t *testing.T) {
	cfg := emulator.Config(t, emulator.AWS(t))
	table, stage := emulator.Table(t, dynamodb.NewFromConfig(cfg)), emulator.Queues(t, sqs.NewFromConfig(cfg), "cpu")
	bucket := emulator.Bucket(t, s3.NewFromConfig(cfg, func(o *s3.Options) { o.UsePathStyle = true }))
	cfg.Retryer = func() aws.Retryer { return aws.NopRetryer{} }
	for name, tt := range map[string]struct {
		aws       saying
		machine   string
		kind      error // of the Trouble; nil: it is none
		throttled bool
	}{
		"bucket denied":               {saying{service: "s3", status: 403}, "cpu", account.ErrDenied, false},
		"bucket elsewhere":            {saying{service: "s3", status: 301}, "cpu", account.ErrRegion, false},
		"bucket fails":                {saying{service: "s3", status: 500}, "cpu", nil, false},
		"bucket busy":                 {saying{service: "s3", status: 503}, "cpu", nil, true},
		"table busy":                  {saying{service: "dynamodb", status: 400, code: "ThrottlingException"}, "cpu", nil, true},
		"queue busy":                  {saying{service: "sqs", status: 403, code: "RequestThrottled"}, "cpu", nil, true},
		"queue denied":                {saying{service: "sqs", status: 403, code: "AccessDenied"}, "cpu", nil, false},
		"table busy, queue not there": {saying{service: "dynamodb", status: 400, code: "ThrottlingException"}, "gpu", account.ErrMissing, false},
	} {
		cfg := cfg.Copy()
		tt.aws.HTTPClient = cfg.HTTPClient
		cfg.HTTPClient = tt.aws
		c, err := Open(t.Context(), Config{Stage: stage, Table: table, Bucket: bucket, AWS: cfg})
		if err != nil {
			t.Fatal(err)
		}
		err = c.Check(t.Context(), tt.machine)
		var trouble *account.Trouble
		if err == nil || errors.As(err, &trouble) != (tt.kind != nil) || Throttled(err) != tt.throttled || tt.kind != nil && trouble.Kind != tt.kind {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// Small outputs are items of the table, large ones objects of the bucket.
func TestBlobs(t *testing.T) {
	cfg := emulator.Config(t, emulator.AWS(t))
	objects := s3.NewFromConfig(cfg, func(o *s3.Options) { o.UsePathStyle = true })
	bucket := emulator.Bucket(t, objects)
	c, err := Open(t.Context(), Config{Stage: "prod", Table: emulator.Table(t, dynamodb.NewFromConfig(cfg)), Bucket: bucket, AWS: cfg})
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{10, blob.MaxSmall + 1} {
		key := blob.ResultKey("p", uint64(size))
		if err := c.Blobs.Put(t.Context(), key, strings.NewReader(strings.Repeat("x", size)), int64(size), [32]byte{}); err != nil {
			t.Fatal(err)
		}
		if info, err := c.Blobs.Stat(t.Context(), key); err != nil || info.Size != int64(size) {
			t.Errorf("%d bytes: %+v, %v", size, info, err)
		}
	}
	list, err := objects.ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: &bucket})
	if err != nil || len(list.Contents) != 1 {
		t.Errorf("%d objects, %v; want the large one", len(list.Contents), err)
	}
}

// A function is opened by its environment.
func TestOpenFunction(t *testing.T) {
	for name, value := range map[string]string{
		"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
	} {
		t.Setenv(name, value)
	}
	env := map[string]string{"MODULATE_STAGE": "prod", "MODULATE_BUCKET": "b"}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := OpenFunction(ctx, func(name string) string { return env[name] }, slog.New(slog.DiscardHandler))
	if err != nil || c.Stage != "prod" || c.Table != "modulate-prod" || c.Bucket != "b" {
		t.Errorf("%+v, %v", c, err)
	}
	delete(env, "MODULATE_STAGE")
	if _, err := OpenFunction(ctx, func(name string) string { return env[name] }, nil); err == nil || !strings.Contains(err.Error(), "MODULATE_STAGE is not set") {
		t.Errorf("without a stage: %v", err)
	}
}
