package hostile

import (
	"syscall"

	"modulate/internal/promise"
)

// resources are scripts that take all there is.
var resources = []attack{
	{name: "fork bomb", cause: promise.CauseTimeout, script: `
while True:
    try: os.fork()
    except OSError: pass`},
	{name: "thread bomb", cause: promise.CauseExit, script: `
import threading
while True: threading.Thread(target=threading.Event().wait, daemon=True).start()`},
	{name: "zombies", cause: promise.CauseOK, script: `
for _ in range(1000):
    try:
        if os.fork() == 0: os._exit(0)
    except OSError: break`},
	{name: "memory bomb", cause: promise.CauseOutOfMemory, script: `
all = []
while True: all.append(bytearray(1 << 20))`},
	{name: "memory bomb in a child", cause: promise.CauseOutOfMemory, script: `
if os.fork() == 0:
    all = []
    while True: all.append(bytearray(1 << 20))
sys.exit(1 if os.wait()[1] else 0)`},
	{name: "shared memory bomb", cause: promise.CauseOutOfMemory, script: `
libc.shmat.restype = ctypes.c_void_p
while True:
    at = libc.shmat(libc.shmget(0, 16 << 20, 0o1600), None, 0)
    if at is None or at == 2**64 - 1: sys.exit(3)
    ctypes.memset(at, 1, 16 << 20)`},
	{name: "disk flood", cause: promise.CauseDiskFull, script: `
with open("flood", "wb", 0) as f:
    while True: f.write(bytes(1 << 20))`},
	{name: "disk flood of the output", cause: promise.CauseDiskFull, script: `
os.chdir(os.environ["MODULATE_OUTPUT"])
for n in range(10000):
    with open(f"flood{n}", "wb", 0) as f:
        while f.tell() < 1 << 20: f.write(bytes(64 << 10))`},
	{name: "flood of /dev/shm", cause: promise.CauseExit, script: `
with open("/dev/shm/flood", "wb", 0) as f:
    while True:
        if f.write(bytes(1 << 20)) < 1 << 20: raise OSError("it is full")`},
	{name: "a million files", cause: promise.CauseOutOfMemory, or: promise.CauseTimeout, script: `
for n in range(1000000): open(str(n), "wb").close()`},
	{name: "sparse file of 1 TB", cause: promise.CauseExit, script: `
with open(os.environ["MODULATE_OUTPUT"] + "/sparse", "wb") as f: f.truncate(1 << 40)
breach("1 TB")`},
	{name: "100 MB of output", cause: promise.CauseOK, script: `
for _ in range(100): sys.stdout.buffer.write(b"x" * (1 << 20))`, check: func(y *yard, rec promise.Record, _ string) {
		if out := rec.Outcome.Stdout; out.Size != 100<<20 || out.Cut < 80<<20 {
			y.t.Errorf("%d bytes of output, %d of them cut", out.Size, out.Cut)
		}
	}},
	{name: "all descriptors", cause: promise.CauseExit, script: `
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
while True: os.open("/dev/null", os.O_RDONLY)`},
	{name: "busy loop", cause: promise.CauseTimeout, script: `
while True: pass`, check: func(y *yard, rec promise.Record, _ string) {
		if cpu := rec.Outcome.Usage.CPU; cpu > rec.Call.Timeout*3/2 {
			y.t.Errorf("used %v of processors in %v", cpu, rec.Call.Timeout)
		}
	}},
	{name: "busy on every processor", cause: promise.CauseTimeout, script: `
for _ in range(2): os.fork()
while True: pass`, check: func(y *yard, rec promise.Record, _ string) {
		if cpu := rec.Outcome.Usage.CPU; cpu > rec.Call.Timeout*3/2 {
			y.t.Errorf("used %v of processors in %v", cpu, rec.Call.Timeout)
		}
	}},
	{name: "priorities and limits", cause: promise.CauseOK, script: `
def attempt(what, f, *args):
    try: f(*args)
    except (OSError, ValueError): return
    breach(what)
attempt("nice", os.nice, -5)
attempt("realtime", os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(50))
for which in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE):
    attempt("rlimit", resource.setrlimit, which, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))`},
	{name: "segmentation fault", cause: promise.CauseSignal, signal: syscall.SIGSEGV, script: `
ctypes.string_at(0)`},
}

// streams are scripts that do to their inputs and outputs what programs rarely
// do.
var streams = []attack{
	{name: "closed output", cause: promise.CauseOK, script: `
os.close(1); os.close(2); os.close(0)
os._exit(0)`},
	{name: "hung stdin", cause: promise.CauseOK, script: `
if sys.stdin.read() != "": breach("input")`},
	{name: "terminal escapes", cause: promise.CauseOK, script: `
sys.stdout.buffer.write(b"\x1b]0;owned\x07\x1b[2J\x9b31m\x00\xff")`, check: func(y *yard, rec promise.Record, _ string) {
		if out := string(rec.Outcome.Stdout.Tail); out != "\x1b]0;owned\x07\x1b[2J\x9b31m\x00\xff" {
			y.t.Errorf("output is not kept exactly: %q", out)
		}
	}},
	{name: "a terminal's input", cause: promise.CauseOK, script: `
import fcntl
for fd in (0, 1, 2):
    try: fcntl.ioctl(fd, 0x5412, b"x")
    except OSError: pass
    else: breach("TIOCSTI")
try: open("/dev/tty")
except OSError: pass
else: breach("a terminal")`},
}
