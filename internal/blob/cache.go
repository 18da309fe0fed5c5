package blob

import (
	"bytes"
	"container/list"
	"context"
	"io"
	"strings"
	"sync"
	"time"

	"modulate/internal/promise"
)

// What a [Cache] holds at the most.
const (
	cacheContent = 256 << 10        // of one content; a larger one is not kept
	cacheEntry   = 512              // bytes that an entry takes beside its content
	cacheBelief  = 10 * time.Minute // how long a blob is taken to be there
)

// A Cache spares requests to Blobs that bill or wait for each one: it remembers small
// contents, which their keys name for ever, and for ten minutes that a content
// is there, which is nothing beside the months that blobs are kept.
type Cache struct {
	Blobs
	limit int // bytes that it holds at most

	mu      sync.Mutex
	entries map[string]*list.Element
	recent  *list.List // of *cached, the latest used first
	bytes   int
}

var _ Rider = (*Cache)(nil)

// cached is what is known of one content.
type cached struct {
	info Info
	at   time.Time // when info was true; zero: it is not known
	body []byte    // nil: not kept
}

// put notes that the content was put now.
func (e *cached) put(size int64, sum promise.Hash) {
	e.at = time.Now()
	e.info = Info{Key: e.info.Key, Size: size, SHA256: sum, Written: promise.TimeOf(e.at)}
}

// NewCache returns a Cache of inner that holds at most limit bytes.
func NewCache(inner Blobs, limit int) *Cache {
	return &Cache{Blobs: inner, limit: limit, entries: make(map[string]*list.Element), recent: list.New()}
}

// Put is that of [Blobs].
func (c *Cache) Put(ctx context.Context, key string, src io.Reader, size int64, sum promise.Hash) error {
	var body bytes.Buffer
	if size <= cacheContent && isContent(key) {
		src = io.TeeReader(src, &body)
	}
	if err := c.Blobs.Put(ctx, key, src, size, sum); err != nil {
		return err
	}
	c.learn(key, func(e *cached) {
		e.put(size, sum)
		if int64(body.Len()) == size && size > 0 { // it was read, and to its end
			e.body = body.Bytes()
		}
	})
	return nil
}

// Ride is that of [Rider]. That a content which rides is there is not taken for
// known: no write has carried it yet.
func (c *Cache) Ride(ctx context.Context, key string, body []byte, sum promise.Hash) (with context.Context, rides bool, err error) {
	if with, rides, err = Ride(ctx, c.Blobs, key, body, sum); err != nil {
		return with, rides, err
	}
	c.learn(key, func(e *cached) {
		if !rides {
			e.put(int64(len(body)), sum)
		}
		if len(body) > 0 && len(body) <= cacheContent {
			e.body = body
		}
	})
	return with, rides, nil
}

// Get is that of [Blobs].
func (c *Cache) Get(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	if e, ok := c.look(key); ok && e.body != nil {
		return io.NopCloser(bytes.NewReader(e.body[min(offset, int64(len(e.body))):])), nil
	}
	src, err := c.Blobs.Get(ctx, key, offset)
	if err != nil || offset > 0 || !isContent(key) {
		return src, err
	}
	body, err := io.ReadAll(io.LimitReader(src, cacheContent+1))
	if err != nil || len(body) > cacheContent {
		return rest{io.MultiReader(bytes.NewReader(body), failing{err}, src), src}, nil
	}
	if err := src.Close(); err != nil {
		return nil, err
	}
	c.learn(key, func(e *cached) { e.body = body })
	return io.NopCloser(bytes.NewReader(body)), nil
}

// rest reads what was read ahead and what follows.
type rest struct {
	io.Reader
	io.Closer
}

// failing yields an error, or nothing.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	return 0, io.EOF
}

// Stat is that of [Blobs].
func (c *Cache) Stat(ctx context.Context, key string) (Info, error) {
	if e, ok := c.look(key); ok && time.Since(e.at) < cacheBelief {
		return e.info, nil
	}
	info, err := c.Blobs.Stat(ctx, key)
	if err == nil {
		c.learn(key, func(e *cached) { e.info, e.at = info, time.Now() })
	}
	return info, err
}

// Touch is that of [Blobs].
func (c *Cache) Touch(ctx context.Context, key string) error {
	c.learn(key, func(e *cached) { e.at = time.Time{} })
	return c.Blobs.Touch(ctx, key)
}

// Collect is that of [Blobs].
func (c *Cache) Collect(ctx context.Context, before promise.Time) (int, error) {
	c.mu.Lock()
	clear(c.entries)
	c.recent.Init()
	c.bytes = 0
	c.mu.Unlock()
	return c.Blobs.Collect(ctx, before)
}

// look returns what is known of a content.
func (c *Cache) look(key string) (e cached, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, ok := c.entries[key]
	if !ok {
		return cached{}, false
	}
	c.recent.MoveToFront(at)
	return *at.Value.(*cached), true
}

// learn changes what is known of a content, and forgets what was not used for
// the longest time where that is too much.
func (c *Cache) learn(key string, change func(*cached)) {
	if !isContent(key) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	at := c.entries[key]
	if at == nil {
		at = c.recent.PushFront(&cached{info: Info{Key: key}})
		c.entries[key] = at
		c.bytes += cacheEntry
	}
	e := at.Value.(*cached)
	c.bytes -= len(e.body)
	change(e)
	c.bytes += len(e.body)
	c.recent.MoveToFront(at)
	for c.bytes > c.limit {
		last := c.recent.Remove(c.recent.Back()).(*cached)
		delete(c.entries, last.info.Key)
		c.bytes -= cacheEntry + len(last.body)
	}
}

// isContent reports whether the key names its content.
func isContent(key string) bool { return strings.HasPrefix(key, "sha256/") }
