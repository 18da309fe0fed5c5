//go:build race

package dynamostore_test

// watched says that the race detector watches. What it could find it finds in
// fewer operations.
const watched = true
