# Parked by Modulate to run a script as "python3 FLAGS SCRIPT ARGS" does; see package workerd/ahead.
fresh = dict(globals())  # of __main__
import sys
modules = set(sys.modules) - {"linecache"}  # -c imports it since Python 3.13
finders = set(sys.path_importer_cache)
beside = not getattr(sys.flags, "safe_path", sys.flags.isolated)  # imports look beside the script
if beside:
    del sys.path[0]  # what -c puts there
import posix
import time
import _ctypes

control = int(sys.argv[1])
library = _ctypes.dlopen(None, 2)  # RTLD_NOW: the process itself


class Int(_ctypes._SimpleCData):
    _type_ = "i"


class Bytes(_ctypes._SimpleCData):
    _type_ = "z"


class Address(_ctypes._SimpleCData):
    _type_ = "P"


class Object(_ctypes._SimpleCData):
    _type_ = "O"


def function(name, result, *arguments):
    """A function of the C library's or the interpreter's."""

    class Function(_ctypes.CFuncPtr):
        _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_PYTHONAPI
        _restype_, _argtypes_ = result, arguments

    return Function(_ctypes.dlsym(library, name))


clearenv = function("clearenv", Int)
fopen = function("fopen", Address, Bytes, Bytes)
importer = function("PyImport_GetImporter", Object, Object)
realpath = function("realpath", Bytes, Bytes, Address)


def forget():
    """Takes back what was imported here."""
    for name in set(sys.modules) - modules:
        del sys.modules[name]
    for name in set(sys.path_importer_cache) - finders:
        del sys.path_importer_cache[name]
    if beside:
        sys.path_importer_cache.pop(posix.getcwd(), None)


def settle(into):
    """Has what is forked from now on born in the namespaces of a process, by its pidfd, with no more rights than it had."""
    user = into[1:] == ["user"]
    if function("setns", Int)(int(into[0]), 0x20000000 | 0x10000000 * user):  # CLONE_NEWPID, _NEWUSER
        sys.exit("they cannot be entered")
    posix.close(int(into[0]))
    if user:  # whoever enters one has every capability there, and cannot be looked at
        none = b"\x22\x05\x08\x20" + bytes(4), bytes(24)  # _LINUX_CAPABILITY_VERSION_3
        if function("capset", Int)(*none) or function("prctl", Int)(4, 1):  # PR_SET_DUMPABLE
            sys.exit("their rights cannot be given up")


def fork(socket):
    """Forks for each script, and returns in it, with its streams and its session; the socket that it comes by."""
    while True:
        said, rights, _, _ = socket.recvmsg(1, 64)
        if not said:
            posix._exit(0)  # no script will come any more
        *streams, script = memoryview(rights[0][2]).cast("i")
        between = posix.fork()
        if not between:
            born = posix.fork()
            if born:  # and orphaned now: it is the child of its namespace's first process
                posix.write(script, b"%d" % born)
                posix._exit(0)
            posix.setsid()
            for fd, stream in enumerate(streams):
                posix.dup2(stream, fd)
                posix.close(stream)
            socket.close()
            return script
        posix.waitpid(between, 0)
        posix.write(script, b"\n")
        for fd in (*streams, script):
            posix.close(fd)


def receive(size):
    data = b""
    while len(data) < size:
        more = posix.read(control, size - len(data))
        if not more:
            posix._exit(0)  # no script will come
        data += more
    return data


def early(environ):
    """What takes effect while a process starts, the interpreter in it, or site."""
    names = b"LANG", b"LC_", b"LOCPATH", b"LD_", b"GLIBC_TUNABLES", b"MALLOC_"
    if not sys.flags.ignore_environment:
        names += (b"PYTHON",)
    if not sys.flags.no_site:
        names += (b"HOME",)
    return {name: value for name, value in environ.items() if name.startswith(names)}


def inhabit(environ):
    """Makes environ the process's. False: for this one it has to start anew."""
    ours, coerced = early(posix.environ), {}
    if sys.flags.utf8_mode and b"LC_CTYPE" in ours:  # by the interpreter (PEP 538)
        coerced[b"LC_CTYPE"] = ours.pop(b"LC_CTYPE")
    if ours != early(environ):
        return False
    environ = {**environ, **coerced}
    clearenv()
    posix.environ.clear()  # os.environ is made of it
    for name, value in environ.items():
        posix.putenv(name, value)
        posix.environ[name] = value
    time.tzset()
    return True


def decode(name):
    return name.decode(sys.getfilesystemencoding(), "surrogateescape")


def absolute(name):
    if sys.version_info < (3, 9) or name.startswith(b"/"):
        return name
    return posix.getcwdb() + b"/" + name


def begin(_):
    """Takes back the exception that led here. The script begins as it returns."""
    sys.excepthook = sys.__excepthook__
    for name in "last_type", "last_value", "last_traceback", "last_exc":
        sys.__dict__.pop(name, None)
    return Address(source)


class Argument:
    def __init__(self, from_param):
        self.from_param = from_param


class Ends(dict):
    """What comes of a script's end: 0 is exit 0; -1, an error that was printed, is left to the interpreter."""

    __missing__ = sys.exit


if sys.argv[2:]:
    import _socket

    if sys.argv[3:]:
        settle(sys.argv[3:])
    socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, control)
    del _socket
forget()
posix.write(control, b"%d\n" % posix.getpid())
if sys.argv[2:]:
    control = fork(socket)
    del socket
fields = receive(int.from_bytes(receive(4), "big")).split(b"\0")
posix.close(control)
directory, flags, count = fields[0], int(fields[1]), int(fields[2])
command, environ = fields[3 : 3 + count], {}
for entry in fields[3 + count :]:
    name, _, value = entry.partition(b"=")
    environ.setdefault(name, value)
posix.chdir(directory)
path = absolute(command[flags])
source = None
if inhabit(environ) and importer(decode(path)) is None:  # else it is a directory or an archive
    source = fopen(path, b"rbe")
if not source:
    posix.execve(command[0], command, environ)
words = [decode(word) for word in command]
sys.argv = words[flags:]
if hasattr(sys, "orig_argv"):
    sys.orig_argv = words
if beside:
    sys.path.insert(0, decode(realpath(command[flags], None).rpartition(b"/")[0] or b"/"))
sys.modules["__main__"] = type(sys)("__main__")  # and nothing here holds on to it
sys.modules["__main__"].__dict__.update(fresh)
# The call of run below counts as a level of recursion, of which the script has one less then.
if sys.version_info >= (3, 9):
    function("Py_LeaveRecursiveCall", None)()
else:  # a macro there; the field's place in 3.8 is final
    depth = Int.from_address(function("PyThreadState_Get", Address)() + 32)
    depth.value -= 1
run = function(
    "PyRun_AnyFileEx", Ends({-1: None}).__getitem__,
    Argument(begin), Argument(lambda _: Bytes(path)), Argument(lambda _: Int(1)),
)
# The interpreter calls run when this program has failed, and no frame is left of it.
sys.excepthook = run
raise Exception
