package blob

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"modulate/internal/promise"
)

// Memory keeps blobs in this process, for tests and for a sim. The zero value
// is empty and ready.
type Memory struct {
	mu    sync.Mutex
	blobs map[string]held
}

type held struct {
	body    []byte // never changed
	written promise.Time
}

var _ Blobs = (*Memory)(nil)

// NewMemory returns blobs that hold nothing.
func NewMemory() *Memory { return &Memory{} }

// Put implements [Blobs].
func (m *Memory) Put(ctx context.Context, key string, src io.Reader, size int64, sum promise.Hash) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	body, err := io.ReadAll(Prove(src, size, sum))
	if err != nil {
		return fmt.Errorf("keeping %s: %w", key, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.blobs == nil {
		m.blobs = make(map[string]held)
	}
	m.blobs[key] = held{body, promise.TimeOf(time.Now())}
	return nil
}

// Get implements [Blobs].
func (m *Memory) Get(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	h, err := m.get(ctx, key)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(h.body[min(offset, int64(len(h.body))):])), nil
}

// Stat implements [Blobs].
func (m *Memory) Stat(ctx context.Context, key string) (Info, error) {
	h, err := m.get(ctx, key)
	if err != nil {
		return Info{}, err
	}
	return h.info(key), nil
}

// List implements [Blobs].
func (m *Memory) List(ctx context.Context, prefix string) ([]Info, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var found []Info
	for key, h := range m.blobs {
		if strings.HasPrefix(key, prefix) {
			found = append(found, h.info(key))
		}
	}
	slices.SortFunc(found, func(a, b Info) int { return cmp.Compare(a.Key, b.Key) })
	return found, nil
}

// Touch implements [Blobs].
func (m *Memory) Touch(ctx context.Context, key string) error {
	h, err := m.get(ctx, key)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	h.written = promise.TimeOf(time.Now())
	m.blobs[key] = h
	return nil
}

// Sign implements [Blobs]: there is no address.
func (m *Memory) Sign(context.Context, string, Info) (*http.Request, error) { return nil, ErrNoURL }

// Collect implements [Blobs].
func (m *Memory) Collect(ctx context.Context, before promise.Time) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for key, h := range m.blobs {
		if h.written < before {
			delete(m.blobs, key)
			n++
		}
	}
	return n, nil
}

func (m *Memory) get(ctx context.Context, key string) (held, error) {
	if err := ctx.Err(); err != nil {
		return held{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	h, ok := m.blobs[key]
	if !ok {
		return held{}, fmt.Errorf("%s: %w", key, ErrNotFound)
	}
	return h, nil
}

func (h held) info(key string) Info {
	return Info{Key: key, Size: int64(len(h.body)), SHA256: ContentSum(key), Written: h.written}
}

// ContentSum is the hash that a key made by [ContentKey] names; zero for every
// other key.
func ContentSum(key string) promise.Hash {
	digits, ok := strings.CutPrefix(key, "sha256/")
	sum, err := promise.ParseHash(digits)
	if !ok || err != nil || ContentKey(sum) != key {
		return promise.Hash{}
	}
	return sum
}
