//go:build linux

// Command modulate-keeper keeps one script alive without its worker, see
// package keeper. Workers start it: it is of no use by hand.
package main

import (
	"os"

	"modulate/workerd/keeper"
)

func main() { os.Exit(keeper.Main()) }
