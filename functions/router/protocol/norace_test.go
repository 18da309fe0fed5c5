//go:build !race

package protocol

const watched = false
