package blob

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"io"

	"modulate/internal/promise"
)

// Prove returns a reader of src that holds the end back until it is proven to
// be what was announced, and ends with ErrMismatch otherwise: who reads
// anything else never has all of it. A sum of zero is any.
func Prove(src io.Reader, size int64, sum promise.Hash) io.Reader {
	return &prover{src: src, size: size, sum: sum, digest: sha256.New()}
}

type prover struct {
	src    io.Reader
	size   int64
	sum    promise.Hash
	digest hash.Hash
	read   int64
	proven bool
}

// Read implements [io.Reader].
func (v *prover) Read(p []byte) (n int, err error) {
	if v.proven {
		return 0, io.EOF
	}
	if left := v.size - v.read; left > 0 {
		n, err = v.src.Read(p[:min(int64(len(p)), left)])
		v.read += int64(n)
		v.digest.Write(p[:n])
	}
	switch {
	case v.read == v.size:
		err = v.end()
		v.proven = err == nil
	case err == io.EOF:
		err = fmt.Errorf("%w: %d bytes, not %d", ErrMismatch, v.read, v.size)
	}
	if err != nil {
		return 0, err
	}
	return n, nil
}

// end checks what was read and that nothing follows.
func (v *prover) end() error {
	var more [1]byte
	n, err := io.ReadFull(v.src, more[:])
	switch {
	case n > 0:
		return fmt.Errorf("%w: more than %d bytes", ErrMismatch, v.size)
	case err != io.EOF:
		return err
	case !v.sum.IsZero() && promise.Hash(v.digest.Sum(nil)) != v.sum:
		return fmt.Errorf("%w: not of SHA-256 %s", ErrMismatch, v.sum)
	}
	return nil
}
