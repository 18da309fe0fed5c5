package api

import (
	"crypto/rand"
	"strings"

	"github.com/oklog/ulid/v2"

	"modulate/internal/promise"
)

// NewID returns a fresh id for a top-level promise made at now: a ULID in
// lower case.
func NewID(now promise.Time) string {
	return strings.ToLower(ulid.MustNew(uint64(now), rand.Reader).String())
}
