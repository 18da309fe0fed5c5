package lambdatest

import "syscall"

// dieWithParent lets a program end with the test that has started it.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
