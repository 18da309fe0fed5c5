package s3blob

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"

	"modulate/internal/blob"
	"modulate/internal/promise"
)

// announced yields what src does, and holds the end back until it is proven to
// be what was announced: who reads anything else never has all of it.
type announced struct {
	src    io.Reader
	size   int64
	sum    promise.Hash            // zero: any
	stop   context.CancelCauseFunc // told why there is no end
	digest hash.Hash
	read   int64
	proven bool
}

func announce(src io.Reader, size int64, sum promise.Hash, stop context.CancelCauseFunc) *announced {
	return &announced{src: src, size: size, sum: sum, stop: stop, digest: sha256.New()}
}

// Read implements [io.Reader].
func (a *announced) Read(p []byte) (n int, err error) {
	if a.proven {
		return 0, io.EOF
	}
	if left := a.size - a.read; left > 0 {
		n, err = a.src.Read(p[:min(int64(len(p)), left)])
		a.read += int64(n)
		a.digest.Write(p[:n])
	}
	switch {
	case a.read == a.size:
		err = a.prove()
		a.proven = err == nil
	case err == io.EOF:
		err = fmt.Errorf("%w: %d bytes, not %d", blob.ErrMismatch, a.read, a.size)
	}
	if err != nil {
		a.stop(err)
		return 0, err
	}
	return n, nil
}

// prove checks what was read and that nothing follows.
func (a *announced) prove() error {
	var more [1]byte
	n, err := io.ReadFull(a.src, more[:])
	switch {
	case n > 0:
		return fmt.Errorf("%w: more than %d bytes", blob.ErrMismatch, a.size)
	case err != io.EOF:
		return err
	case !a.sum.IsZero() && promise.Hash(a.digest.Sum(nil)) != a.sum:
		return fmt.Errorf("%w: not of SHA-256 %s", blob.ErrMismatch, a.sum)
	}
	return nil
}
