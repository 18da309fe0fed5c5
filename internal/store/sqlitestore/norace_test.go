//go:build !race

package sqlitestore_test

const watched = false
