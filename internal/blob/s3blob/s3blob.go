// Package s3blob is the port of blobs on one bucket of Amazon S3. The key of a
// blob is the key of its object; its age is that of the object. The bucket
// belongs to the stage's stack (template.yaml), whose lifecycle rule removes
// what is old.
//
// S3 keeps the SHA-256 that a blob was announced with, and refuses other
// content. Ages are in whole seconds.
package s3blob

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"

	"modulate/internal/blob"
	"modulate/internal/promise"
)

const (
	// signedFor is how long a signed request is good.
	signedFor = 15 * time.Minute
	// inMemory is how large a blob may be, in bytes, to be read before it is
	// sent: then it can be sent again. A larger one is read as it is sent.
	inMemory = 1 << 20
)

// Blobs implements [blob.Blobs] on a bucket.
type Blobs struct {
	client *s3.Client
	bucket string
}

var _ blob.Blobs = (*Blobs)(nil)

// New returns the blobs in a bucket.
func New(client *s3.Client, bucket string) *Blobs {
	own := s3.New(client.Options(), func(o *s3.Options) {
		// A checksum of the SDK's own would need a source that it can read
		// twice; Put proves the content itself.
		o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		o.DisableLogOutputChecksumValidationSkipped = true
	})
	return &Blobs{client: own, bucket: bucket}
}

// Put implements [blob.Blobs], by one request of 5 GiB at most (a limit of
// S3). What is not as announced never reaches S3 whole.
func (b *Blobs) Put(ctx context.Context, key string, src io.Reader, size int64, sum promise.Hash) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	in := &s3.PutObjectInput{Bucket: &b.bucket, Key: &key, ContentLength: &size, ChecksumSHA256: checksum(sum)}
	options := []func(*s3.Options){s3.WithAPIOptions(v4.SwapComputePayloadSHA256ForUnsignedPayloadMiddleware)}
	in.Body = watched{blob.Prove(src, size, sum), stop}
	if size <= inMemory {
		whole, err := io.ReadAll(in.Body)
		if err != nil {
			return fmt.Errorf("keeping %s: %w", key, err)
		}
		in.Body = bytes.NewReader(whole)
	} else {
		options = append(options, func(o *s3.Options) { o.Retryer = aws.NopRetryer{} }) // src is read only once
	}
	_, err := b.client.PutObject(ctx, in, options...)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return b.explain("keeping", key, err)
}

// Get implements [blob.Blobs].
func (b *Blobs) Get(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	in := &s3.GetObjectInput{Bucket: &b.bucket, Key: &key}
	if offset > 0 {
		in.Range = aws.String(fmt.Sprintf("bytes=%d-", offset))
	}
	out, err := b.client.GetObject(ctx, in)
	if code(err) == "InvalidRange" { // there is nothing from offset on
		return http.NoBody, nil
	}
	if err != nil {
		return nil, b.explain("reading", key, err)
	}
	return out.Body, nil
}

// Stat implements [blob.Blobs]. S3 does not say whether it is the blob that is
// missing or the bucket: ErrNotFound for both.
func (b *Blobs) Stat(ctx context.Context, key string) (blob.Info, error) {
	out, err := b.client.HeadObject(ctx, &s3.HeadObjectInput{
		Bucket: &b.bucket, Key: &key, ChecksumMode: types.ChecksumModeEnabled,
	})
	if err != nil {
		return blob.Info{}, b.explain("finding", key, err)
	}
	info := describe(key, out.ContentLength, out.LastModified)
	if sum, err := base64.StdEncoding.DecodeString(aws.ToString(out.ChecksumSHA256)); err == nil {
		copy(info.SHA256[:], sum)
	}
	return info, nil
}

// List implements [blob.Blobs].
func (b *Blobs) List(ctx context.Context, prefix string) ([]blob.Info, error) {
	pages := s3.NewListObjectsV2Paginator(b.client, &s3.ListObjectsV2Input{Bucket: &b.bucket, Prefix: &prefix})
	var found []blob.Info
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, b.explain("listing", prefix, err)
		}
		for _, o := range page.Contents {
			found = append(found, describe(aws.ToString(o.Key), o.Size, o.LastModified))
		}
	}
	return found, nil
}

// Touch implements [blob.Blobs]. S3 lets an object be copied onto itself when
// that replaces its metadata, of which there are none.
func (b *Blobs) Touch(ctx context.Context, key string) error {
	_, err := b.client.CopyObject(ctx, &s3.CopyObjectInput{
		Bucket: &b.bucket, Key: &key, CopySource: aws.String(url.PathEscape(b.bucket + "/" + key)),
		MetadataDirective: types.MetadataDirectiveReplace,
	})
	return b.explain("refreshing", key, err)
}

// Sign implements [blob.Blobs]. A GET answers with an attachment, so that no
// browser shows what a script left.
func (b *Blobs) Sign(ctx context.Context, method string, info blob.Info) (*http.Request, error) {
	var signed *v4.PresignedHTTPRequest
	var err error
	switch method {
	case http.MethodGet:
		signed, err = s3.NewPresignClient(b.client).PresignGetObject(ctx, &s3.GetObjectInput{
			Bucket: &b.bucket, Key: &info.Key, ResponseContentDisposition: aws.String("attachment"),
		}, s3.WithPresignExpires(signedFor))
	case http.MethodPut:
		signed, err = s3.NewPresignClient(b.client).PresignPutObject(ctx, &s3.PutObjectInput{
			Bucket: &b.bucket, Key: &info.Key, ContentLength: &info.Size, ChecksumSHA256: checksum(info.SHA256),
		}, s3.WithPresignExpires(signedFor))
	default:
		return nil, fmt.Errorf("signing a %s of %s: want GET or PUT", method, info.Key)
	}
	if err != nil {
		return nil, b.explain("signing", info.Key, err)
	}
	req, err := http.NewRequestWithContext(ctx, signed.Method, signed.URL, nil)
	if err != nil {
		return nil, fmt.Errorf("signing %s: %w", info.Key, err)
	}
	req.Header = signed.SignedHeader
	req.Header.Del("Host") // the URL has it
	if method == http.MethodPut {
		req.ContentLength = info.Size // net/http goes by this, others by the header
	}
	return req, nil
}

// Collect implements [blob.Blobs]. It removes nothing: looking through a bucket
// is billed by the thousand keys, and the bucket's lifecycle rule removes what
// is old for nothing.
func (b *Blobs) Collect(ctx context.Context, before promise.Time) (int, error) { return 0, ctx.Err() }

// explain turns what S3 says about a key into the port's errors, and what an
// operator can mend into words.
func (b *Blobs) explain(doing, key string, err error) error {
	if err == nil {
		return nil
	}
	switch code(err) {
	case "NoSuchKey", "NotFound":
		return fmt.Errorf("%s: %w", key, blob.ErrNotFound)
	case "BadDigest", "XAmzContentChecksumMismatch":
		return fmt.Errorf("%s %s: %w: %w", doing, key, blob.ErrMismatch, err)
	case "NoSuchBucket":
		return fmt.Errorf("%s %s: %w: there is no bucket %s in %s; deploy the stage (template.yaml) or name its bucket: %w",
			doing, key, blob.ErrDeployment, b.bucket, b.client.Options().Region, err)
	case "SlowDown":
		return fmt.Errorf("%s %s in the bucket %s: %w: %w", doing, key, b.bucket, blob.ErrThrottled, err)
	case "PermanentRedirect", "AuthorizationHeaderMalformed", "MovedPermanently":
		return fmt.Errorf("%s %s: %w: the bucket %s is not in %s; choose the region of the stage: %w",
			doing, key, blob.ErrDeployment, b.bucket, b.client.Options().Region, err)
	case "AccessDenied", "Forbidden":
		return fmt.Errorf("%s %s: %w: access to the bucket %s is denied; the role of this program must allow it there: %w",
			doing, key, blob.ErrDeployment, b.bucket, err)
	}
	return fmt.Errorf("%s %s in the bucket %s: %w", doing, key, b.bucket, err)
}

// code is what S3 calls an error; "" if it is not one of S3's.
func code(err error) string {
	var api smithy.APIError
	if !errors.As(err, &api) {
		return ""
	}
	return api.ErrorCode()
}

func describe(key string, size *int64, written *time.Time) blob.Info {
	return blob.Info{
		Key: key, Size: aws.ToInt64(size), SHA256: blob.ContentSum(key), Written: promise.TimeOf(aws.ToTime(written)),
	}
}

// watched is a source whose error stops what reads it. Of an upload that was cut
// off, the SDK and net/http each have a word of their own.
type watched struct {
	io.Reader
	stop context.CancelCauseFunc
}

func (w watched) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	if err != nil && err != io.EOF {
		w.stop(err)
	}
	return n, err
}

// checksum is a hash as S3 writes it; nil for none.
func checksum(sum promise.Hash) *string {
	if sum.IsZero() {
		return nil
	}
	return aws.String(base64.StdEncoding.EncodeToString(sum[:]))
}
