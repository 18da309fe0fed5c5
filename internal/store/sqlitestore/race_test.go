//go:build race

package sqlitestore_test

// watched says that the race detector watches. SQLite is ten times slower
// then, and what it could find it finds in fewer operations.
const watched = true
