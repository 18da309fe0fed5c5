package sandbox

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// filter returns the seccomp program of a sandbox: it denies what no script
// needs and what kernels have been broken by. All else is allowed, for scripts
// are other people's programs. It begins to hold before setpriv runs, which
// sets ids and capabilities: those calls pass.
//
// Denied calls fail with EPERM, so that programs which merely try go on. Only
// clone3, whose flags no filter can see, claims not to exist: libraries fall
// back to clone. What calls as another architecture is killed.
func filter() []byte {
	p := program{
		{unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, 0, 0, offsetArch},
		{unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, 1, 0, auditArch},
		give(unix.SECCOMP_RET_KILL_PROCESS),
		{unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, 0, 0, offsetNumber},
		{unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, 0, 1, foreignABI},
		give(deny(unix.EPERM)),
		{unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, 0, 1, unix.SYS_CLONE3},
		give(deny(unix.ENOSYS)),
	}
	for _, list := range [][]uint32{denied, deniedHere} {
		for _, number := range list {
			p = append(p, instruction{unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, 0, 1, number}, give(deny(unix.EPERM)))
		}
	}
	p.unless(unix.SYS_CLONE, 0, instruction{unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, 0, 1, newNamespaces})
	p.unless(unix.SYS_UNSHARE, 0, instruction{unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, 0, 1, newNamespaces | unix.CLONE_NEWTIME})
	// These put characters into the input of whoever has the terminal.
	p.unless(unix.SYS_IOCTL, 1, instruction{unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, 0, 1, unix.TIOCSTI})
	// A keeper that is not root has the script's uid, and is process 1 there.
	p.unless(unix.SYS_PRLIMIT64, 0, instruction{unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, 0, 1, 1})
	p.families()
	return p.bytes()
}

// denied are calls of every architecture.
var denied = []uint32{
	// Mounts and namespaces.
	unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_SETNS, unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT,
	unix.SYS_FSOPEN, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_FSPICK, unix.SYS_MOUNT_SETATTR, unix.SYS_OPEN_TREE_ATTR, unix.SYS_OPEN_BY_HANDLE_AT,
	// Other processes' memory and descriptors.
	unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PIDFD_GETFD, unix.SYS_KCMP,
	// Large parts of the kernel that are entered from here alone.
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD, unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
	unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_FANOTIFY_INIT, unix.SYS_LOOKUP_DCOOKIE,
	// The machine itself.
	unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD, unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_REBOOT,
	unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_ACCT, unix.SYS_QUOTACTL, unix.SYS_QUOTACTL_FD, unix.SYS_SYSLOG, unix.SYS_VHANGUP,
	unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_CLOCK_ADJTIME, unix.SYS_ADJTIMEX, unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME,
}

// newNamespaces are the flags of clone(2) that make one. The lowest byte is a
// signal there, so that CLONE_NEWTIME is for unshare alone.
const newNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET

// allowedFamilies are those of sockets: the last is how the standard library
// learns of interfaces. AF_VSOCK is of no network namespace and reaches the
// hypervisor.
var allowedFamilies = []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}

// The fields of struct seccomp_data (linux/seccomp.h). Both architectures are
// little-endian: the first half of an argument is its lower.
const (
	offsetNumber = 0
	offsetArch   = 4
	offsetArgs   = 16
)

// An instruction is a struct sock_filter (linux/filter.h).
type instruction struct {
	Code   uint16
	JT, JF uint8
	K      uint32
}

type program []instruction

func give(action uint32) instruction { return instruction{unix.BPF_RET | unix.BPF_K, 0, 0, action} }

func deny(err unix.Errno) uint32 { return unix.SECCOMP_RET_ERRNO | uint32(err) }

// unless denies a call if the test holds of the lower half of an argument.
func (p *program) unless(number uint32, argument int, test instruction) {
	*p = append(*p,
		instruction{unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, 0, 4, number},
		instruction{unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, 0, 0, uint32(offsetArgs + 8*argument)},
		test, give(deny(unix.EPERM)), give(unix.SECCOMP_RET_ALLOW))
}

// families ends the program: of sockets only some families, of the rest all.
func (p *program) families() {
	n := uint8(len(allowedFamilies))
	*p = append(*p,
		instruction{unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, 0, n + 2, unix.SYS_SOCKET},
		instruction{unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, 0, 0, offsetArgs})
	for i, family := range allowedFamilies {
		*p = append(*p, instruction{unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, n - uint8(i), 0, family})
	}
	*p = append(*p, give(deny(unix.EAFNOSUPPORT)), give(unix.SECCOMP_RET_ALLOW))
}

func (p program) bytes() []byte {
	var b bytes.Buffer
	binary.Write(&b, binary.NativeEndian, p) // fixed sizes into memory: it cannot fail
	return b.Bytes()
}
