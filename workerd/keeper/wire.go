//go:build linux

package keeper

import (
	"encoding/binary"
	"errors"
	"math"
	"time"

	"modulate/workerd/sandbox"
)

// maxFrame is the most bytes of one frame: arguments and environment of a
// script are the largest (execve(2) takes 128 KiB a string, some MiB in all).
const maxFrame = 8 << 20

// The kinds of frames.
const (
	kindStart byte = iota + 1 // Start
	kindStdin                 // bytes of the script's stdin; none: that was all
	kindUntil                 // CLOCK_BOOTTIME until which the script may run, in ns
	kindTook                  // stream, bytes of it that the worker has
	kindStop                  // 1: SIGTERM and grace; 0: at once
	kindDone                  // the job is known for good: be idle
	kindBox                   // Box: what scripts run in from now on
	kindHold                  // Hold: another sandbox than the one made ahead

	kindHello // Hello: to whoever connects
	kindWrote // bytes of stdout, of stderr so far
	kindFed   // bytes of stdin taken so far
	kindExit  // Exit
	kindReady // Ready, with two descriptors where there is no error
)

// A Start is a job for a keeper.
type Start struct {
	Path    string // of what is executed
	Forked  int    // words of Argv that are the command of the nursery, which is to fork for it; 0: it is executed
	Argv    []string
	Env     []string // all of it
	Dir     string   // working directory
	Stdin   bool     // it comes in frames; else it is empty
	Stdout  bool     // it is taken in; else nobody reads it
	Stderr  bool
	Timeout time.Duration // 0: none
	Grace   time.Duration // between SIGTERM and SIGKILL
	Until   time.Duration // CLOCK_BOOTTIME when the lease is over; 0: there is none
	Mortal  bool          // the script dies with the connection
}

// A Box is what the scripts of a keeper run in.
type Box struct {
	Config  sandbox.Config
	Group   string   // name of the keeper's cgroup; "": there are none
	Park    []string // command of the interpreter that waits in each sandbox made ahead; see package ahead
	Program []byte   // what it runs
	Env     []string // and its environment
}

// A Hold is what the next sandbox starts, once it may.
type Hold struct {
	Argv, Env []string
	Devices   []string // device files that it sees, beside those of the Box
}

// A Ready says that a sandbox waits for its script.
type Ready struct {
	UID    int    // of the script, 0: the worker's own
	Parked bool   // an interpreter waits in it: see Box.Park
	Error  string // why there is none; "": there is
}

// A Hello says how far a job is.
type Hello struct {
	Busy  bool          // there is a job
	Boxed bool          // it runs in a sandbox: a Ready follows
	Stdin uint64        // bytes of stdin that it has got so far
	Feed  bool          // it wants more of them
	Until time.Duration // Start.Until, as it is now
}

// An End says how a job ended.
type End uint8

// The ends of a job.
const (
	Exited     End = iota // by itself; Exit.Status has how
	TimedOut              // by Start.Timeout
	Stopped               // by its worker
	LeaseOver             // nobody extended its lease
	NotStarted            // Exit.Errno says why
)

// An Exit is how a job ended and what it used.
type Exit struct {
	End            End
	Status         uint32 // wait(2)'s
	Errno          uint32
	Wall, CPU      time.Duration
	MaxRSS         int64  // KiB
	Stdout, Stderr int64  // bytes that were written
	DiskFull       bool   // nothing is left of the sandbox's room for files
	OOMKills       int64  // processes that the kernel killed for the sandbox's memory
	Trouble        string // with the spool; "": none
}

// errFrame: the other side does not speak this protocol.
var errFrame = errors.New("a frame that cannot be read")

// A packer writes the body of a frame.
type packer []byte

func (p *packer) num(n uint64)        { *p = binary.AppendUvarint(*p, n) }
func (p *packer) dur(d time.Duration) { p.num(uint64(d)) }
func (p *packer) str(s string)        { p.num(uint64(len(s))); *p = append(*p, s...) }
func (p *packer) flag(b bool) {
	if b {
		p.num(1)
	} else {
		p.num(0)
	}
}

func (p *packer) list(all []string) {
	p.num(uint64(len(all)))
	for _, s := range all {
		p.str(s)
	}
}

// An unpacker reads the body of a frame. What is not there reads as zero, and
// bad is set.
type unpacker struct {
	b   []byte
	bad bool
}

func (u *unpacker) num() uint64 {
	n, size := binary.Uvarint(u.b)
	if size <= 0 {
		u.b, u.bad = nil, true
		return 0
	}
	u.b = u.b[size:]
	return n
}

func (u *unpacker) dur() time.Duration { return time.Duration(u.num()) }
func (u *unpacker) flag() bool         { return u.num() != 0 }

func (u *unpacker) str() string {
	n := u.num()
	if n > uint64(len(u.b)) {
		u.b, u.bad = nil, true
		return ""
	}
	s := string(u.b[:n])
	u.b = u.b[n:]
	return s
}

func (u *unpacker) list() []string {
	n := u.num()
	if n > uint64(len(u.b)) { // each has a byte at least
		u.b, u.bad = nil, true
		return nil
	}
	all := make([]string, 0, n)
	for range n {
		all = append(all, u.str())
	}
	return all
}

// err is errFrame where something was missing.
func (u *unpacker) err() error {
	if u.bad {
		return errFrame
	}
	return nil
}

func (s *Start) pack() []byte {
	var p packer
	p.str(s.Path)
	p.num(uint64(s.Forked))
	p.list(s.Argv)
	p.list(s.Env)
	p.str(s.Dir)
	p.flag(s.Stdin)
	p.flag(s.Stdout)
	p.flag(s.Stderr)
	p.dur(s.Timeout)
	p.dur(s.Grace)
	p.dur(s.Until)
	p.flag(s.Mortal)
	return p
}

func (s *Start) unpack(b []byte) error {
	u := unpacker{b: b}
	*s = Start{
		Path: u.str(), Forked: int(u.num()), Argv: u.list(), Env: u.list(), Dir: u.str(), Stdin: u.flag(), Stdout: u.flag(), Stderr: u.flag(),
		Timeout: u.dur(), Grace: u.dur(), Until: u.dur(), Mortal: u.flag(),
	}
	if s.Forked < 0 || len(s.Argv) <= s.Forked {
		u.bad = true
	}
	return u.err()
}

func (h *Hello) pack() []byte {
	var p packer
	p.flag(h.Busy)
	p.flag(h.Boxed)
	p.num(h.Stdin)
	p.flag(h.Feed)
	p.dur(h.Until)
	return p
}

func (h *Hello) unpack(b []byte) error {
	u := unpacker{b: b}
	*h = Hello{Busy: u.flag(), Boxed: u.flag(), Stdin: u.num(), Feed: u.flag(), Until: u.dur()}
	return u.err()
}

func (e *Exit) pack() []byte {
	var p packer
	p.num(uint64(e.End))
	p.num(uint64(e.Status))
	p.num(uint64(e.Errno))
	p.dur(e.Wall)
	p.dur(e.CPU)
	p.num(uint64(e.MaxRSS))
	p.num(uint64(e.Stdout))
	p.num(uint64(e.Stderr))
	p.flag(e.DiskFull)
	p.num(uint64(e.OOMKills))
	p.str(e.Trouble)
	return p
}

func (e *Exit) unpack(b []byte) error {
	u := unpacker{b: b}
	*e = Exit{
		End: End(u.num()), Status: uint32(u.num()), Errno: uint32(u.num()), Wall: u.dur(), CPU: u.dur(),
		MaxRSS: int64(u.num()), Stdout: int64(u.num()), Stderr: int64(u.num()), DiskFull: u.flag(), OOMKills: int64(u.num()), Trouble: u.str(),
	}
	return u.err()
}

func (b *Box) pack() []byte {
	var p packer
	c := b.Config
	p.str(string(c.Level))
	p.flag(c.Egress)
	p.list(c.Prefixes)
	p.list(c.Devices)
	p.str(c.CLI)
	p.num(uint64(len(c.Mounts)))
	for _, m := range c.Mounts {
		p.str(m.Source)
		p.str(m.Target)
		p.flag(m.Writable)
	}
	for _, n := range []uint64{uint64(c.Limits.Memory), math.Float64bits(c.Limits.CPU), uint64(c.Limits.PIDs), uint64(c.Limits.Scratch)} {
		p.num(n)
	}
	p.str(b.Group)
	p.list(b.Park)
	p.str(string(b.Program))
	p.list(b.Env)
	return p
}

func (b *Box) unpack(body []byte) error {
	u := unpacker{b: body}
	*b = Box{Config: sandbox.Config{
		Level: sandbox.Level(u.str()), Egress: u.flag(), Prefixes: u.list(), Devices: u.list(), CLI: u.str(),
	}}
	for range min(u.num(), uint64(len(u.b))) {
		b.Config.Mounts = append(b.Config.Mounts, sandbox.Mount{Source: u.str(), Target: u.str(), Writable: u.flag()})
	}
	b.Config.Limits = sandbox.Limits{
		Memory: int64(u.num()), CPU: math.Float64frombits(u.num()), PIDs: int64(u.num()), Scratch: int64(u.num()),
	}
	b.Group, b.Park, b.Program, b.Env = u.str(), u.list(), []byte(u.str()), u.list()
	return u.err()
}

func (h *Hold) pack() []byte {
	var p packer
	p.list(h.Argv)
	p.list(h.Env)
	p.list(h.Devices)
	return p
}

func (h *Hold) unpack(b []byte) error {
	u := unpacker{b: b}
	*h = Hold{Argv: u.list(), Env: u.list(), Devices: u.list()}
	return u.err()
}

func (r *Ready) pack() []byte {
	var p packer
	p.num(uint64(r.UID))
	p.flag(r.Parked)
	p.str(r.Error)
	return p
}

func (r *Ready) unpack(b []byte) error {
	u := unpacker{b: b}
	*r = Ready{UID: int(u.num()), Parked: u.flag(), Error: u.str()}
	return u.err()
}

// appendFrame appends a frame to b.
func appendFrame(b []byte, kind byte, body []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(1+len(body)))
	return append(append(b, kind), body...)
}

// cutFrame takes the first frame from b. ok is false while it is not whole.
func cutFrame(b []byte) (kind byte, body, rest []byte, ok bool, err error) {
	if len(b) < 4 {
		return 0, nil, b, false, nil
	}
	n := binary.LittleEndian.Uint32(b)
	if n == 0 || n > maxFrame {
		return 0, nil, nil, false, errFrame
	}
	if uint32(len(b)-4) < n {
		return 0, nil, b, false, nil
	}
	return b[4], b[5 : 4+n], b[4+n:], true, nil
}
