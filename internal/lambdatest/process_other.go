//go:build !linux

package lambdatest

import "syscall"

// dieWithParent is Linux's; elsewhere a Function is to be closed.
func dieWithParent() *syscall.SysProcAttr { return nil }
