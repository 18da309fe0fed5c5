// Package blob keeps what is too large for a record: scripts and inputs by
// their SHA-256, outputs by a key made of the promise's id and the attempt's
// version. It holds the port, the keys, and an implementation in memory.
//
// # Keys
//
//	sha256/<hex>                               scripts, stdin, files, inputs; refreshed by submit
//	out/<id>/<version>/result                  result.json as the script left it
//	out/<id>/<version>/artifacts               JSON array of the artifacts
//	out/<id>/<version>/artifact/<number>       an artifact, in the order of that array
//	log/<id>/<version>/<stream>/<offset>       a chunk of stdout or stderr, 20 digits of offset;
//	                                           chunks may overlap, with the same bytes
//	log/<id>/<version>/<stream>/<offset>.new   one behind the stream's head, for who followed
//	attempt/<id>/<number>                      an attempt that left its record, 10 digits of number
//
// Blobs are collected by age only, never by counting who names them.
package blob

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"modulate/internal/promise"
)

// The errors of Blobs. Any other means that the outcome is unknown.
var (
	// ErrNotFound: there is no blob with that key.
	ErrNotFound = errors.New("no such blob")
	// ErrMismatch: the content is not of the size or hash that was said;
	// nothing was kept.
	ErrMismatch = errors.New("the content is not what was announced")
	// ErrNoURL: these blobs have no address of their own; the caller serves
	// them.
	ErrNoURL = errors.New("blobs have no address of their own here")
	// ErrThrottled: there is no capacity for now. A later try may succeed.
	ErrThrottled = errors.New("the blobs have no capacity left for now")
	// ErrFull: there is no room; nothing was kept.
	ErrFull = errors.New("no room left for blobs")
	// ErrDeployment: what keeps the blobs is not there, or this program may not
	// use it. No try again helps before somebody has deployed or allowed what the
	// error says.
	ErrDeployment = errors.New("what keeps the blobs is not deployed, or not open to this program")
)

// Blobs keeps immutable bytes under keys.
//
// Consistency: what a Put has acknowledged, every later call sees, by
// whichever process.
// Durability: a Put that has returned nil survives the loss of power.
// A blob appears whole or not at all. Two Puts of one key carry the same
// bytes; the later one refreshes the age.
// Concurrency: all methods may be called at any time from any goroutine.
type Blobs interface {
	// Put keeps what src yields, which must be size bytes; if sum is not zero,
	// with that SHA-256. ErrMismatch, ErrFull.
	Put(ctx context.Context, key string, src io.Reader, size int64, sum promise.Hash) error

	// Get returns the content from offset on, which the caller closes.
	// ErrNotFound. An offset at or beyond the end yields nothing.
	Get(ctx context.Context, key string, offset int64) (io.ReadCloser, error)

	// Stat returns what is known of a blob without reading it. ErrNotFound.
	Stat(ctx context.Context, key string) (Info, error)

	// List returns the blobs whose keys start with prefix, in ascending order
	// of keys. The prefix holds a kind and an id at least, as "log/<id>/" does:
	// nobody has to be able to look through all blobs.
	List(ctx context.Context, prefix string) ([]Info, error)

	// Touch makes a blob as young as one just put. ErrNotFound.
	Touch(ctx context.Context, key string) error

	// Sign returns a request that reads (GET) or writes (PUT, with its size and
	// hash) the blob without further rights for 15 minutes, or ErrNoURL.
	Sign(ctx context.Context, method string, info Info) (*http.Request, error)

	// Collect removes the blobs last put or touched before that time, and
	// returns how many.
	Collect(ctx context.Context, before promise.Time) (int, error)
}

// A Rider is Blobs that may lie in the file of a store, where one commit carries
// a blob and the record that names it.
type Rider interface {
	Blobs

	// Ride has body, which nobody changes any more, kept under key with what is
	// written under the context that it returns. Once that store has acknowledged
	// such a write, the blob is as if it was put; neither is durable without the
	// other, and what keeps the blob from being kept fails the write. A write that
	// was refused keeps nothing. Before that Stat does not find it, and whether
	// Get does is open. ErrMismatch where it is not of that SHA-256.
	//
	// Blobs over others are a Rider whatever those are. Where the key's are none,
	// rides is false: it was put, by a Put like any, and stays whatever becomes of
	// the write.
	Ride(ctx context.Context, key string, body []byte, sum promise.Hash) (with context.Context, rides bool, err error)
}

// Ride is that of [Rider], for Blobs that may be none: then it is their Put.
func Ride(ctx context.Context, b Blobs, key string, body []byte, sum promise.Hash) (with context.Context, rides bool, err error) {
	if r, ok := b.(Rider); ok {
		return r.Ride(ctx, key, body, sum)
	}
	return ctx, false, b.Put(ctx, key, bytes.NewReader(body), int64(len(body)), sum)
}

// Info describes a blob. SHA256 is zero where it is not known.
type Info struct {
	Key     string
	Size    int64 // bytes
	SHA256  promise.Hash
	Written promise.Time // last put or touched
}

// ContentKey is the key of what is found by its hash.
func ContentKey(sum promise.Hash) string { return "sha256/" + sum.String() }

// ResultKey is the key of an attempt's result.
func ResultKey(id string, version uint64) string {
	return fmt.Sprintf("out/%s/%d/result", id, version)
}

// ArtifactsKey is the key of the list of an attempt's artifacts.
func ArtifactsKey(id string, version uint64) string {
	return fmt.Sprintf("out/%s/%d/artifacts", id, version)
}

// ArtifactKey is the key of the n-th (from 0) artifact of an attempt.
func ArtifactKey(id string, version uint64, n int) string {
	return fmt.Sprintf("out/%s/%d/artifact/%d", id, version, n)
}

// LogPrefix is what the keys of a stream's chunks start with.
func LogPrefix(id string, version uint64, stream string) string {
	return fmt.Sprintf("log/%s/%d/%s/", id, version, stream)
}

// LogKey is the key of the chunk of a stream that starts at offset.
func LogKey(id string, version uint64, stream string, offset int64) string {
	return LogKeyAt(LogPrefix(id, version, stream), offset)
}

// LogKeyAt is the key of the chunk that starts at offset in the stream of that
// prefix.
func LogKeyAt(prefix string, offset int64) string { return fmt.Sprintf("%s%020d", prefix, offset) }

// NewestKeyAt is the key of the chunk that starts at offset, behind the stream's
// head, and was shipped to a follower. What is shipped at the end has keys of
// its own, so that no key has two contents.
func NewestKeyAt(prefix string, offset int64) string { return LogKeyAt(prefix, offset) + newestEnd }

const newestEnd = ".new"

// IsNewest reports whether a key is one of NewestKeyAt.
func IsNewest(key string) bool { return strings.HasSuffix(key, newestEnd) }

// LogOffset is where the chunk with that key starts in its stream; -1: it is no
// chunk's key.
func LogOffset(key string) int64 {
	name := strings.TrimSuffix(key[strings.LastIndexByte(key, '/')+1:], newestEnd)
	offset, err := strconv.ParseInt(name, 10, 64)
	if err != nil || offset < 0 {
		return -1
	}
	return offset
}

// LogEnd returns up to where the chunks of a stream, in ascending order, hold it
// without a gap.
func LogEnd(chunks []Info) (end int64) {
	for _, c := range chunks {
		if start := LogOffset(c.Key); start >= 0 && start <= end {
			end = max(end, start+c.Size)
		}
	}
	return end
}

// AttemptKey is the key of an attempt that left its record.
func AttemptKey(id string, number uint32) string {
	return fmt.Sprintf("attempt/%s/%010d", id, number)
}
