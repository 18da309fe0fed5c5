package blob_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"modulate/internal/blob"
	"modulate/internal/blob/blobtest"
	"modulate/internal/promise"
)

func TestBySize(t *testing.T) {
	for _, uploads := range []bool{false, true} {
		t.Run(fmt.Sprintf("uploads=%t", uploads), func(t *testing.T) {
			blobtest.Run(t, func(*testing.T) blob.Blobs {
				return blob.BySize{Small: blob.NewMemory(), Large: blob.NewMemory(), Uploads: uploads}
			})
		})
	}
}

func TestBySizeKeepsUploadsAndWhatIsLargeApart(t *testing.T) {
	content := blob.ContentKey(promise.Hash{1})
	for _, c := range []struct {
		key   string
		size  int
		small bool
		here  bool // and where nobody uploads
	}{
		{blob.ResultKey("p", 1), 0, true, true},
		{blob.LogKey("p", 1, "stdout", 0), blob.MaxSmall, true, true},
		{blob.LogKey("p", 1, "stdout", 0), blob.MaxSmall + 1, false, false},
		{blob.AttemptKey("p", 1), 100, true, true},
		{content, 1, false, true},
		{content, blob.MaxSmall + 1, false, false},
	} {
		for uploads, want := range map[bool]bool{true: c.small, false: c.here} {
			small, large := blob.NewMemory(), blob.NewMemory()
			b := blob.BySize{Small: small, Large: large, Uploads: uploads}
			body := strings.Repeat("x", c.size)
			if err := b.Put(t.Context(), c.key, strings.NewReader(body), int64(c.size), promise.Hash{}); err != nil {
				t.Fatal(err)
			}
			_, err := small.Stat(t.Context(), c.key)
			_, err2 := large.Stat(t.Context(), c.key)
			if want != (err == nil) || want != errors.Is(err2, blob.ErrNotFound) {
				t.Errorf("%s of %d bytes, uploads %t: small %v, large %v", c.key, c.size, uploads, err, err2)
			}
		}
	}
}

// away is a store that answers nothing.
type away struct{ blob.Blobs }

var errAway = errors.New("away")

func (away) Get(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	return nil, errAway
}

// What the small store does not answer must not read as missing.
func TestBySizeTellsAwayFromMissing(t *testing.T) {
	b := blob.BySize{Small: away{blob.NewMemory()}, Large: blob.NewMemory()}
	if _, err := b.Get(t.Context(), blob.ResultKey("p", 1), 0); !errors.Is(err, errAway) {
		t.Errorf("got %v, want %v", err, errAway)
	}
}

// addressed is a store whose blobs have an address.
type addressed struct{ blob.Blobs }

func (addressed) Sign(ctx context.Context, method string, info blob.Info) (*http.Request, error) {
	return http.NewRequest(method, "https://bucket/"+info.Key, nil)
}

func TestBySizeSignsWhatIsLarge(t *testing.T) {
	b := blob.BySize{Small: blob.NewMemory(), Large: addressed{blob.NewMemory()}, Uploads: true}
	for _, c := range []struct {
		info blob.Info
		want error
	}{
		{blob.Info{Key: blob.ArtifactKey("p", 1, 0), Size: 1}, blob.ErrNoURL},
		{blob.Info{Key: blob.ArtifactKey("p", 1, 0), Size: blob.MaxSmall + 1}, nil},
		{blob.Info{Key: blob.ContentKey(promise.Hash{1}), Size: 1}, nil},
	} {
		if _, err := b.Sign(t.Context(), http.MethodGet, c.info); !errors.Is(err, c.want) {
			t.Errorf("%+v: got %v, want %v", c.info, err, c.want)
		}
	}
}
