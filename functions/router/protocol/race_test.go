//go:build race

package protocol

// watched says that the race detector watches. What it could find it finds in
// fewer operations.
const watched = true
