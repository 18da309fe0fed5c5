//go:build !linux

package timerslack

// Widen does nothing: there is no such thing here.
func Widen(argv, env []string) {}

// Narrow does nothing.
func Narrow() {}
