package blob

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"

	"modulate/internal/promise"
)

// MaxSmall is how large a small blob is at the most, in bytes.
const MaxSmall = 8 << 10

// BySize keeps what is at most [MaxSmall] bytes in Small, and everything else
// in Large.
type BySize struct {
	Small, Large Blobs
	// Uploads: clients upload what is found by its hash by themselves, so that
	// it is in Large whatever its size.
	Uploads bool
}

var _ Rider = BySize{}

// Put implements [Blobs].
func (b BySize) Put(ctx context.Context, key string, src io.Reader, size int64, sum promise.Hash) error {
	return b.of(key, size).Put(ctx, key, src, size, sum)
}

// Ride implements [Rider].
func (b BySize) Ride(ctx context.Context, key string, body []byte, sum promise.Hash) (with context.Context, rides bool, err error) {
	return Ride(ctx, b.of(key, int64(len(body))), key, body, sum)
}

// Get implements [Blobs].
func (b BySize) Get(ctx context.Context, key string, offset int64) (src io.ReadCloser, err error) {
	err = b.find(key, func(in Blobs) error {
		src, err = in.Get(ctx, key, offset)
		return err
	})
	return src, err
}

// Stat implements [Blobs].
func (b BySize) Stat(ctx context.Context, key string) (info Info, err error) {
	err = b.find(key, func(in Blobs) error {
		info, err = in.Stat(ctx, key)
		return err
	})
	return info, err
}

// List implements [Blobs].
func (b BySize) List(ctx context.Context, prefix string) ([]Info, error) {
	small, err := b.Small.List(ctx, prefix)
	if err != nil {
		return nil, err
	}
	large, err := b.Large.List(ctx, prefix)
	if err != nil {
		return nil, err
	}
	all := append(small, large...)
	slices.SortFunc(all, func(a, b Info) int { return cmp.Compare(a.Key, b.Key) })
	return all, nil
}

// Touch implements [Blobs].
func (b BySize) Touch(ctx context.Context, key string) error {
	return b.find(key, func(in Blobs) error { return in.Touch(ctx, key) })
}

// Sign implements [Blobs]: it goes by the size in info.
func (b BySize) Sign(ctx context.Context, method string, info Info) (*http.Request, error) {
	return b.of(info.Key, info.Size).Sign(ctx, method, info)
}

// Collect implements [Blobs].
func (b BySize) Collect(ctx context.Context, before promise.Time) (int, error) {
	small, err := b.Small.Collect(ctx, before)
	large, err2 := b.Large.Collect(ctx, before)
	return small + large, errors.Join(err, err2)
}

// of returns where a blob of that size is kept.
func (b BySize) of(key string, size int64) Blobs {
	if size > MaxSmall || b.Uploads && isContent(key) {
		return b.Large
	}
	return b.Small
}

// find calls f where the blob of that key may be, until it is there. The bytes
// of a key never change, so it is in one place for ever.
func (b BySize) find(key string, f func(in Blobs) error) error {
	if !b.Uploads || !isContent(key) {
		if err := f(b.Small); !errors.Is(err, ErrNotFound) {
			return err
		}
	}
	return f(b.Large)
}
