package dispatch

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"modulate/internal/api"
	"modulate/internal/blob"
	"modulate/internal/promise"
)

const (
	// refreshAfter is how old what a submission names may be; what is older it
	// makes young again. It is far below half of how long blobs are kept, so
	// that no promise outlives what it names.
	refreshAfter = 15 * 24 * time.Hour
	// inlineInput is how many bytes of input stay in the record.
	inlineInput = 256
)

// checkBlobs finds everything that the draft names by its hash.
func (d *dispatcher) checkBlobs(ctx context.Context, draft *draft) error {
	if draft.sub.Script.Source == nil {
		info, err := d.find(ctx, "script.sha256", draft.rec.Call.Script)
		switch {
		case err != nil:
			return err
		case info.Size == 0:
			return api.Invalid("script.sha256", "the script is empty")
		case info.Size > api.MaxScript:
			return api.Fail(api.ErrTooLarge, "script.sha256", "the script is %d bytes: at most %d", info.Size, api.MaxScript)
		}
	}
	if sum := draft.rec.Call.Stdin; !sum.IsZero() {
		if _, err := d.find(ctx, "stdin", sum); err != nil {
			return err
		}
	}
	for i, f := range draft.input.Files {
		info, err := d.find(ctx, fmt.Sprintf("files.%d.sha256", i), f.SHA256)
		if err != nil {
			return err
		}
		if info.Size != f.Size {
			return api.Invalid(fmt.Sprintf("files.%d.size", i), "%s is said to be %d bytes, but what was uploaded is %d", f.Name, f.Size, info.Size)
		}
	}
	return nil
}

// find returns what is known of an upload, and keeps it from growing old.
func (d *dispatcher) find(ctx context.Context, where string, sum promise.Hash) (blob.Info, error) {
	info, err := d.fresh(ctx, blob.ContentKey(sum))
	if errors.Is(err, blob.ErrNotFound) {
		return info, api.Invalid(where, "nothing with sha256 %s was uploaded: upload it first (POST /v1/blobs)", sum)
	}
	return info, err
}

// fresh returns what is known of a blob, refreshed if it is old.
func (d *dispatcher) fresh(ctx context.Context, key string) (blob.Info, error) {
	info, err := d.Engine.Blobs.Stat(ctx, key)
	if err == nil && d.Engine.Time().Sub(info.Written) > refreshAfter {
		err = d.Engine.Blobs.Touch(ctx, key)
	}
	if err != nil {
		return info, fmt.Errorf("looking for blob %s: %w", key, err)
	}
	return info, nil
}

// content is bytes that are kept under their hash.
type content struct {
	sum  promise.Hash
	body []byte
}

// missing returns what the draft brings, the record cannot hold and is not
// kept yet: of the script's source and a large input.
func (d *dispatcher) missing(ctx context.Context, draft *draft) ([]content, error) {
	var brought, missing []content
	if source := draft.sub.Script.Source; source != nil {
		brought = append(brought, content{draft.rec.Call.Script, []byte(*source)})
	}
	if inputSize(draft.input) <= inlineInput {
		draft.rec.Call.Input = draft.input
	} else {
		body, err := json.Marshal(draft.input) // as the engine reads it; its maps are sorted
		if err != nil {
			return nil, fmt.Errorf("writing the call's input: %w", err)
		}
		draft.rec.Call.InputBlob = sha256.Sum256(body)
		brought = append(brought, content{draft.rec.Call.InputBlob, body})
	}
	for _, c := range brought {
		_, err := d.fresh(ctx, blob.ContentKey(c.sum))
		switch {
		case errors.Is(err, blob.ErrNotFound):
			missing = append(missing, c)
		case err != nil:
			return nil, err
		}
	}
	return missing, nil
}

// inputSize is about how many bytes of a record an input takes.
func inputSize(in promise.Input) (n int) {
	for _, arg := range in.Args {
		n += len(arg)
	}
	for name, value := range in.Env {
		n += len(name) + len(value)
	}
	for name, value := range in.Tags {
		n += len(name) + len(value)
	}
	for _, f := range in.Files {
		n += len(f.Name) + len(f.SHA256) + 8
	}
	return n
}

// askBlob answers where to put content that is not there yet.
func (d *dispatcher) askBlob(r *api.Request, q api.BlobRequest) (api.Answer, error) {
	sum, err := checkBlob(q.SHA256, q.Size)
	if err != nil {
		return api.Answer{}, err
	}
	key := blob.ContentKey(sum)
	info, err := d.fresh(r.Context(), key)
	switch {
	case err == nil && info.Size != q.Size:
		return api.Answer{}, api.Invalid("size", "size %d: what has this sha256 is %d bytes", q.Size, info.Size)
	case err == nil:
		return api.Answer{Body: api.BlobUpload{}}, nil
	case !errors.Is(err, blob.ErrNotFound):
		return api.Answer{}, err
	}
	signed, err := d.Engine.Blobs.Sign(r.Context(), http.MethodPut, blob.Info{Key: key, Size: q.Size, SHA256: sum})
	up := api.BlobUpload{URL: "/v1/blobs/" + sum.String(), Headers: map[string]string{"Content-Type": "application/octet-stream"}}
	switch {
	case err == nil:
		up = api.BlobUpload{URL: signed.URL.String(), Headers: make(map[string]string)}
		for name, values := range signed.Header {
			up.Headers[name] = strings.Join(values, ", ")
		}
	case !errors.Is(err, blob.ErrNoURL):
		return api.Answer{}, fmt.Errorf("signing an upload: %w", err)
	}
	return api.Answer{Status: http.StatusCreated, Body: up}, nil
}

// putBlob takes content, where the blobs have no address of their own.
func (d *dispatcher) putBlob(r *api.Request) (api.Answer, error) {
	if r.ContentLength < 0 {
		return api.Answer{}, api.Invalid("Content-Length", "the upload has no Content-Length: say how many bytes come")
	}
	sum, err := checkBlob(r.PathValue("sha256"), r.ContentLength)
	if err != nil {
		return api.Answer{}, err
	}
	info := blob.Info{Key: blob.ContentKey(sum), Size: r.ContentLength, SHA256: sum}
	if _, err := d.Engine.Blobs.Sign(r.Context(), http.MethodPut, info); !errors.Is(err, blob.ErrNoURL) {
		return api.Answer{}, api.Fail(api.ErrRoute, "", "uploads do not go through here: ask POST /v1/blobs for their URL")
	}
	err = d.Engine.Blobs.Put(r.Context(), info.Key, r.Body, info.Size, sum)
	if errors.Is(err, blob.ErrMismatch) {
		return api.Answer{}, api.Fail(blob.ErrMismatch, "body", "the %d bytes that came do not have the sha256 %s; nothing was kept", info.Size, sum)
	}
	return api.Answer{Status: http.StatusNoContent}, err
}

// checkBlob reads the hash and checks the size of an upload.
func checkBlob(sha string, size int64) (promise.Hash, error) {
	sum, err := promise.ParseHash(sha)
	switch {
	case err != nil:
		return sum, api.Invalid("sha256", "%v", err)
	case size < 0:
		return sum, api.Invalid("size", "size %d: want the number of bytes", size)
	case size > api.MaxBlob:
		return sum, api.Fail(api.ErrTooLarge, "size", "the upload is %d bytes: at most %d", size, api.MaxBlob)
	}
	return sum, nil
}
