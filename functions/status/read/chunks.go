package read

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"modulate/internal/api"
	"modulate/internal/blob"
)

// stored is what the blobs hold of a stream from q.offset on. Its chunks are
// listed, but for what a script that runs has added to what is known already:
// the next chunk's name says where it starts, and it is asked for by that (a
// list costs twelve times as much: aws.amazon.com/s3/pricing). What only who
// followed has seen is no part of what is kept.
func (rd *reader) stored(ctx context.Context, prefix string, q logQuery) (part, error) {
	if edge, ok := rd.edges.get(prefix); ok && q.running && !q.whole && edge <= q.offset {
		return rd.added(ctx, prefix, edge, q.offset)
	}
	chunks, err := rd.Engine.Blobs.List(ctx, prefix)
	if err != nil {
		return part{}, fmt.Errorf("listing %s: %w", prefix, err)
	}
	if q.kept {
		chunks = slices.DeleteFunc(chunks, func(c blob.Info) bool { return blob.IsNewest(c.Key) })
	}
	p, err := rd.readChunks(ctx, chunks, q.offset)
	if q.running {
		rd.edges.set(prefix, p.size)
	}
	return p, err
}

// added reads up to a page from offset on of the chunks that follow the one
// that ends at edge, which is not beyond offset.
func (rd *reader) added(ctx context.Context, prefix string, edge, offset int64) (part, error) {
	p := part{offset: offset, next: offset}
	for {
		key := blob.LogKeyAt(prefix, edge)
		if edge >= api.MaxLog/2 {
			key = blob.NewestKeyAt(prefix, edge)
		}
		body, err := rd.readChunk(ctx, key, 0, api.MaxLogPage+1)
		if errors.Is(err, blob.ErrNotFound) {
			err = nil
		}
		if err != nil {
			return part{}, err
		}
		end := edge + int64(len(body))
		if len(body) == 0 || int64(len(p.body))+end-p.next > api.MaxLogPage {
			break
		}
		if end > p.next {
			p.body = append(p.body, body[p.next-edge:]...)
			p.next = end
		}
		edge = end
	}
	rd.edges.set(prefix, edge)
	p.size = edge
	return p, nil
}

// readChunks reads up to a page from offset on. It stops before a gap, where
// the stream was cut; a read that starts in one goes on behind it. A page ends
// where a chunk does, if it can.
func (rd *reader) readChunks(ctx context.Context, chunks []blob.Info, offset int64) (part, error) {
	p := part{offset: offset, next: offset}
	for _, c := range chunks {
		p.size = max(p.size, blob.LogOffset(c.Key)+c.Size)
	}
	for _, c := range chunks {
		start := blob.LogOffset(c.Key)
		end := start + c.Size
		switch {
		case start < 0 || end <= p.next:
			continue
		case len(p.body) > 0 && (start > p.next || int64(len(p.body))+end-p.next > api.MaxLogPage):
			return p, nil
		case start > p.next:
			p.offset, p.next = start, start
		}
		body, err := rd.readChunk(ctx, c.Key, p.next-start, min(api.MaxLogPage, end-p.next))
		if errors.Is(err, blob.ErrNotFound) {
			return part{}, api.Fail(blob.ErrNotFound, "offset", "the output from byte %d on is not kept any more", start)
		}
		if err != nil {
			return part{}, err
		}
		p.body = append(p.body, body...)
		p.next += int64(len(body))
	}
	return p, nil
}

func (rd *reader) readChunk(ctx context.Context, key string, from, most int64) ([]byte, error) {
	src, err := rd.Engine.Blobs.Get(ctx, key, from)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", key, err)
	}
	defer src.Close()
	body, err := io.ReadAll(io.LimitReader(src, most))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", key, err)
	}
	return body, nil
}

// maxEdges bounds how many streams' edges are remembered.
const maxEdges = 4096

// edges remembers up to where chunks were seen of streams that are followed. A
// stream that it does not know is listed.
type edges struct {
	mu sync.Mutex
	at map[string]int64
}

func (e *edges) get(prefix string) (edge int64, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	edge, ok = e.at[prefix]
	return edge, ok
}

func (e *edges) set(prefix string, edge int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.at == nil || len(e.at) >= maxEdges {
		e.at = make(map[string]int64)
	}
	e.at[prefix] = edge
}
