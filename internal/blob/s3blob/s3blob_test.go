package s3blob_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/s3"

	"modulate/internal/blob"
	"modulate/internal/blob/blobtest"
	"modulate/internal/blob/s3blob"
	"modulate/internal/emulator"
)

func TestMain(m *testing.M) { emulator.Main(m) }

var buckets atomic.Int64

// open returns an empty bucket of its own.
func open(t *testing.T) *s3blob.Blobs {
	t.Helper()
	client := s3.NewFromConfig(emulator.Config(t, emulator.AWS(t)))
	bucket := fmt.Sprintf("bucket-%d", buckets.Add(1))
	if _, err := client.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &bucket}); err != nil {
		t.Fatal(err)
	}
	return s3blob.New(client, bucket)
}

func TestBlobs(t *testing.T) {
	blobtest.RunOn(t, blobtest.Medium{Seconds: true, Expires: true}, func(t *testing.T) blob.Blobs { return open(t) })
}
