package promise

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
)

// MaxID is the longest id of a top-level promise, and MaxChildID that of an
// attached one, in bytes.
const (
	MaxID      = 128
	MaxChildID = 900
)

// ValidID reports whether id names a top-level promise: one to [MaxID] of
// letters, digits, '_' and '-', the first a letter or a digit.
func ValidID(id string) bool { return len(id) <= MaxID && validSegment(id) }

// ValidChildID reports whether id names a promise attached directly below
// parent: the parent's id, a dot, and one more segment.
func ValidChildID(parent, id string) bool {
	rest, ok := strings.CutPrefix(id, parent+".")
	return ok && len(id) <= MaxChildID && validSegment(rest)
}

// ValidAnyID reports whether id names a top-level or an attached promise.
func ValidAnyID(id string) bool {
	top, rest, attached := strings.Cut(id, ".")
	if !attached {
		return ValidID(id)
	}
	if !ValidID(top) || len(id) > MaxChildID {
		return false
	}
	for seg := range strings.SplitSeq(rest, ".") {
		if !validSegment(seg) {
			return false
		}
	}
	return true
}

func validSegment(s string) bool {
	for i := range len(s) {
		c := s[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || c != '_' && c != '-') {
			return false
		}
	}
	return s != ""
}

// ValidMachine reports whether name is `[a-z][a-z0-9-]{0,39}`.
func ValidMachine(name string) bool {
	for i := range len(name) {
		c := name[i]
		if !(c >= 'a' && c <= 'z' || i > 0 && (c >= '0' && c <= '9' || c == '-')) {
			return false
		}
	}
	return name != "" && len(name) <= 40
}

// ChildID is the id of the n-th child (from 1) that a parent submits without
// an id of its own.
func ChildID(parent string, n int) string { return parent + "." + strconv.Itoa(n) }

// DetachedID is the id of the n-th detached child (from 1) that a parent
// submits. It is a top-level id: where the parent's id is not, or the whole
// gets too long, characters are replaced and a hash of the true name follows.
func DetachedID(parent string, n int) string {
	name := "detached_" + parent + "_" + strconv.Itoa(n)
	if ValidID(name) {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	suffix := "_" + hex.EncodeToString(sum[:8])
	safe := strings.Map(func(r rune) rune {
		if r == '.' || r == ':' {
			return '_'
		}
		return r
	}, name)
	return safe[:min(len(safe), MaxID-len(suffix))] + suffix
}
