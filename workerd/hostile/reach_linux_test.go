package hostile

import (
	"strings"

	"modulate/internal/promise"
)

// reach are scripts that want what is not theirs: the host's files, its
// network, what the worker does on their behalf.
var reach = []attack{
	{name: "network", cause: promise.CauseOK, script: `
for family, at in (
        (socket.AF_INET, ("169.254.169.254", 80)), (socket.AF_INET, ("169.254.170.2", 80)), (socket.AF_INET6, ("fd00:ec2::254", 80)),
        (socket.AF_INET, ("127.0.0.1", int(os.environ["PORT"]))), (socket.AF_INET, ("0.0.0.0", int(os.environ["PORT"]))),
        (socket.AF_INET, ("10.0.0.1", 80)), (socket.AF_INET, ("192.168.0.1", 80)), (socket.AF_INET, ("1.1.1.1", 53)),
        (socket.AF_UNIX, "\0" + "canary-5f0c" + "9d41")):
    with socket.socket(family, socket.SOCK_STREAM) as s:
        s.settimeout(1)
        try: s.connect(at); print(s.recv(100)); breach(str(at))
        except OSError: pass
with open("/proc/net/dev") as f:
    if len(f.readlines()) != 3: breach("interfaces")`},
	{name: "sockets of other families", cause: promise.CauseOK, script: `
for family in set(range(64)) - {1, 2, 10, 16}:  # 40 is AF_VSOCK, which reaches the hypervisor
    try: socket.socket(family, socket.SOCK_STREAM); breach(f"family {family}")
    except OSError: pass
for kind in (socket.SOCK_RAW,):
    try: socket.socket(socket.AF_INET, kind, 1); breach("raw")
    except OSError: pass`},
	{name: "the host's files", cause: promise.CauseOK, script: `
for name in (os.environ["SECRET"], "/etc/shadow", "/etc/machine-id", "/etc/ssh", "/etc/ssl/private", "/root/.bashrc", "/root/.aws", "/home",
             "/sys", "/sys/class/dmi", "/var/lib", "/var/log", "/run/systemd", "/run/docker.sock", "/mnt", "/srv", "/boot", "/.dockerenv",
             "/proc/1/root" + os.environ["SECRET"], "/proc/kcore", "/proc/kmsg", "/proc/self/root/../root/.bashrc"):
    try:
        print(os.listdir(name) if os.path.isdir(name) else open(name, "rb").read(100))
        breach(name)
    except OSError: pass
if set(os.listdir("/")) - {"bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "etc", "dev", "proc", "job", "tmp", "run", "var", "root", "signal", "opt"}:
    breach(str(os.listdir("/")))`},
	{name: "the system and the interpreter", cause: promise.CauseOK, script: `
places = [os.path.dirname(os.__file__), os.path.dirname(sys.executable), "/usr/bin", "/etc", "/", "/dev", "/run", "/var", "/job", "/opt", "/signal"]
for place in places:
    try: open(place + "/planted", "w"); breach(place)
    except OSError: pass
for name in (os.__file__, sys.executable, "/bin/sh", "/etc/passwd"):
    try: os.unlink(name); breach(name)
    except OSError: pass
    try: open(name, "ab"); breach(name)
    except OSError: pass`},
	{name: "who it runs on", cause: promise.CauseOK, script: `
print(socket.gethostname(), os.uname().nodename, open("/etc/passwd").read(), open("/etc/hosts").read())`, check: func(y *yard, _ promise.Record, seen string) {
		if strings.Contains(seen, y.hostname) {
			y.t.Errorf("the script knows the host's name %s", y.hostname)
		}
	}},
	{name: "plants in the output", cause: promise.CauseOK, script: `
os.chdir(os.environ["MODULATE_OUTPUT"])
os.symlink(os.environ["SECRET"], "link"); os.symlink("/root", "dir"); os.symlink("/etc/passwd", "result.json")
os.symlink("../../../../../../" + os.environ["SECRET"], "up")
os.symlink("loop", "loop")
os.mkfifo("fifo")
open("whole", "w").write("mine"); os.link("whole", "hard")
try: os.link("/etc/passwd", "passwd"); breach("hard link")
except OSError: pass
for kind in (stat.S_IFCHR, stat.S_IFBLK):
    try: os.mknod("node", 0o666 | kind, os.makedev(1, 5)); breach("device")
    except OSError: pass
socket.socket(socket.AF_UNIX).bind("socket")
open("closed", "w").write("x"); os.chmod("closed", 0)
open("last", "w").write("mine")`, check: func(y *yard, rec promise.Record, _ string) {
		y.wantArtifacts(rec, "closed", "last")
	}},
	{name: "strange names", cause: promise.CauseOK, script: `
os.chdir(os.environ["MODULATE_OUTPUT"])
for name in (b"new\nline", b"\x1b]0;owned\x07", b"\xff\xfe", b"back\bspace", b" ", b"-rf", b"x" * 255, b"..."): open(name, "w").write("x")`, check: func(y *yard, rec promise.Record, _ string) {
		y.wantArtifacts(rec, " ", "-rf", "...", strings.Repeat("x", 255))
	}},
	{name: "a deep directory", cause: promise.CauseOK, script: `
os.chdir(os.environ["MODULATE_OUTPUT"])
for _ in range(3000):
    os.mkdir("d"); os.chdir("d")`},
	{name: "an output that is not there", cause: promise.CauseOK, script: `
for f in (lambda: os.rmdir("/job/output"), lambda: os.rename("/job/output", "/job/tmp/o"), lambda: os.rename("/job/work", "/job/output")):
    try: f(); breach("moved the output")
    except OSError: pass
os.chmod("/job/tmp", 0) if os.stat("/job/tmp").st_uid == os.getuid() else None`},
	{name: "output swapped while it is read", cause: promise.CauseOK, script: `
os.chdir(os.environ["MODULATE_OUTPUT"])
open("a", "w").write("x")
if os.fork() == 0:
    os.setsid()
    while True:
        try: os.unlink("a"); os.symlink(os.environ["SECRET"], "a"); os.unlink("a"); open("a", "w").write("x")
        except OSError: pass`},
}
