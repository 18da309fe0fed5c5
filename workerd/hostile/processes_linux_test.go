package hostile

import (
	"syscall"

	"modulate/internal/promise"
)

// processes are scripts that outlive, kill or look into others.
var processes = []attack{
	{name: "double-forked daemons", cause: promise.CauseOK, script: `
for _ in range(5):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.environ.clear()
            signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
            while True: time.sleep(1)
        os._exit(0)
for _ in range(5): os.wait()`},
	{name: "SIGTERM ignored", cause: promise.CauseTimeout, script: `
for s in range(1, 65):
    try: signal.signal(s, signal.SIG_IGN)
    except OSError: pass
while True: time.sleep(1)`},
	{name: "stopped", cause: promise.CauseTimeout, script: `
os.kill(os.getpid(), signal.SIGSTOP)`},
	{name: "kill(-1)", cause: promise.CauseOK, script: `
try: os.kill(-1, signal.SIGKILL)
except ProcessLookupError: pass`},
	{name: "kill the keeper", cause: promise.CauseOK, script: `
for pid in {1, os.getppid()} - {0}:
    for s in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGABRT):
        try: os.kill(pid, s)
        except OSError: pass
        else: breach("signalled the keeper") if os.getuid() >= 1_900_000_000 else None`},
	{name: "others' memory", cause: promise.CauseOK, script: `
for pid in [p for p in os.listdir("/proc") if p.isdigit() and int(p) != os.getpid()]:
    for name in ("mem", "environ", "maps", "root/etc/shadow", "cwd", "fd"):
        try:
            at = f"/proc/{pid}/{name}"
            print(os.listdir(at) if name in ("cwd", "fd") else open(at, "rb").read(1000))
            breach(at)
        except OSError: pass`},
	{name: "its own memory", cause: promise.CauseOK, script: `
buf = ctypes.create_string_buffer(b"before")
with open("/proc/self/mem", "r+b", 0) as mem:
    mem.seek(ctypes.addressof(buf)); mem.write(b"after!")
print(buf.value)`},
	{name: "processes of the host", cause: promise.CauseOK, script: `
pids = [int(p) for p in os.listdir("/proc") if p.isdigit()]
if set(pids) - {1, os.getpid()}: breach(f"sees processes {pids}")`},
	{name: "environment and descriptors", cause: promise.CauseOK, script: `
for name in ("/proc/self/environ", "/proc/1/environ", "/proc/1/cmdline"):
    try: print(open(name, "rb").read())
    except OSError: pass
fds = sorted(int(f) for f in os.listdir("/proc/self/fd"))
if fds != [0, 1, 2, 3]: breach(f"descriptors {fds}")
allowed = {"HOME", "PATH", "PWD", "TMPDIR", "LC_CTYPE", "SECRET", "PORT"}
more = [n for n in os.environ if n not in allowed and not n.startswith("MODULATE_")]
if more: breach(f"environment {more}")`},
	{name: "setuid", cause: promise.CauseOK, script: `
for name in ("/usr/bin/su", "/usr/bin/mount", "/usr/bin/passwd", "/usr/bin/newgrp"):
    if os.path.exists(name): subprocess.run([name], stdin=subprocess.DEVNULL, timeout=3)
for f in (os.setuid, os.setgid, os.seteuid):
    try: f(0)
    except OSError: pass
    else: breach("root")
sh = os.environ["TMPDIR"] + "/sh"
shutil.copy("/bin/sh", sh); os.chmod(sh, 0o6755)
out = subprocess.run([sh, "-p", "-c", "id -u"], capture_output=True, text=True).stdout.strip()
if out != str(os.getuid()): breach("setuid " + out)
caps = [l.split()[1] for l in open("/proc/self/status") if l.startswith("Cap")]
if any(int(c, 16) for c in caps): breach(f"capabilities {caps}")`},
	{name: "another architecture's calls", cause: promise.CauseSignal, signal: syscall.SIGSYS, amd64: true, script: `
import mmap
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # int 0x80: getpid of i386
ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
breach("int 0x80")`},
}

// kernel are scripts that call what kernels have been broken by.
var kernel = []attack{
	{name: "ptrace", cause: promise.CauseOK, script: `
denied("ptrace", 101, 16, 1, 0, 0)
denied("ptrace", 101, 0, 0, 0, 0)
denied("process_vm_readv", 310, 1, 0, 0, 0, 0, 0)
denied("pidfd_getfd", 438, 0, 0, 0)`},
	{name: "mount", cause: promise.CauseOK, script: `
denied("mount", 165, b"none", b"/job/tmp", b"tmpfs", 0, 0)
denied("umount", 166, b"/proc", 2)
denied("chroot", 161, b"/job")
denied("pivot_root", 155, b"/job", b"/job/tmp")
denied("open_tree", 428, -100, b"/", 1)
denied("fsopen", 430, b"tmpfs", 0)
denied("move_mount", 429, -1, b"", -1, b"", 0)
denied("mount_setattr", 442, -100, b"/", 0, 0, 0)`},
	{name: "unshare", cause: promise.CauseOK, script: `
for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000, 0x08000000, 0x04000000, 0x02000000, 0x80):
    denied("unshare", 272, flag)
    if flag != 0x80 and call(56, flag | 17, 0, 0, 0, 0)[0] >= 0: breach("clone")
if call(435, 0, 0)[1] != errno.ENOSYS: breach("clone3")
denied("setns", 308, 0, 0)
import threading
t = threading.Thread(target=print); t.start(); t.join()  # what is no namespace still works`},
	{name: "io_uring", cause: promise.CauseOK, script: `
params = ctypes.create_string_buffer(256)
denied("io_uring_setup", 425, 8, params)`},
	{name: "bpf", cause: promise.CauseOK, script: `
denied("bpf", 321, 0, ctypes.create_string_buffer(128), 128)
denied("perf_event_open", 298, ctypes.create_string_buffer(128), 0, -1, -1, 0)
denied("userfaultfd", 323, 1)`},
	{name: "keyctl", cause: promise.CauseOK, script: `
denied("keyctl", 250, 0, -3, 0)
denied("add_key", 248, b"user", b"k", b"v", 1, -3)
denied("request_key", 249, b"user", b"k", 0, 0)`},
	{name: "the machine", cause: promise.CauseOK, script: `
denied("reboot", 169, 0xfee1dead, 672274793, 0, 0)
denied("kexec_load", 246, 0, 0, 0, 0)
denied("init_module", 175, 0, 0, b"")
denied("swapon", 167, b"/job/x", 0)
denied("syslog", 103, 3, ctypes.create_string_buffer(16), 16)
denied("settimeofday", 164, ctypes.create_string_buffer(16), 0)
denied("sethostname", 170, b"owned", 5)
denied("open_by_handle_at", 304, -100, ctypes.create_string_buffer(64), 0)
for name in ("kernel/core_pattern", "kernel/hostname", "vm/drop_caches", "kernel/modprobe"):
    try: open("/proc/sys/" + name, "w").write("x"); breach(name)
    except OSError: pass
try: open("/proc/sysrq-trigger", "w").write("h"); breach("sysrq")
except OSError: pass`},
	{name: "devices", cause: promise.CauseOK, script: `
for name in os.listdir("/dev"):
    if name not in {"core", "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero"}:
        breach("/dev/" + name)
for at in ("/job/work/sda", "/job/output/kmsg"):
    try: os.mknod(at, 0o660 | stat.S_IFBLK, os.makedev(254, 0)); breach("mknod")
    except OSError: pass`},
}
