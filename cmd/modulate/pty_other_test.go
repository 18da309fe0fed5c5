//go:build !linux

package main

// onPTY is there on Linux only; the scripts that use it ask for [linux].
func onPTY() { panic("onpty: no terminals here") }
