package sandbox

import "golang.org/x/sys/unix"

const (
	auditArch  = unix.AUDIT_ARCH_AARCH64
	foreignABI = 0xffffffff // it has none
)

// deniedHere are calls that this architecture alone has: none worth denying.
var deniedHere []uint32
