//go:build race

package sim

// racing: coroutines are some 20 times slower under the race detector, which
// has little to find where only one actor runs at a time. `make test` plays
// the full number without it.
const racing = true
