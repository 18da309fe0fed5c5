// Package timerslack is about the timer slack of a thread: how much later than asked
// the kernel may wake it (PR_SET_TIMERSLACK(2const)), 50 µs unless somebody says
// otherwise.
//
// The Go runtime has a thread of its own that looks after all others each 20 µs
// while anything runs, or waits for the disk. A server that commits, starts
// scripts and waits wakes it forty times for each script, which is a sixth of
// what it spends: more than it gains, for what that thread finds can wait half a
// millisecond. It is there before a program's first line and inherits its slack,
// so that only who starts the program can give it another: see [Widen].
package timerslack
