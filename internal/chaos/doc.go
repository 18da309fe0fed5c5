// Package chaos is tests only: real processes, kill -9 and SIGSTOP. They run
// the built programs on a store in a temporary directory, or on a stage of
// emulated AWS with a line to it that can be cut and throttled, take processes
// away from them in the middle of things, and then compare two witnesses: what
// the scripts wrote down outside the store, and what the store tells. One
// checker, called at the end of every test, says whether the guarantees of
// DESIGN.md held.
package chaos
