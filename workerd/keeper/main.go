//go:build linux

package keeper

import (
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"modulate/workerd/timerslack"
)

// Descriptors that a keeper is started with.
const (
	fdConn     = 3 // to its worker
	fdFolder   = 4
	fdListener = 5 // for adopters
	fdNursery  = 6 // to what forks for its scripts
	fdHold     = 7 // whatever its worker wants held for as long as it lives
)

// linger is how long after the end of its lease a keeper whose job is over
// waits for somebody to adopt it. A task that nobody has claimed since can
// still be settled.
const linger = 15 * time.Minute

// A keeper is one run of Main: one goroutine around poll(2).
type keeper struct {
	conn     int // -1: there is no worker
	listener int
	folder   int
	timer    int // CLOCK_BOOTTIME
	in, out  []byte
	buf      []byte // for whatever is read
	rights   []int  // descriptors that go with what is sent next
	nursery  nursery
	job      *job   // nil: idle
	box      *box   // nil: scripts run as they are
	files    [3]int // stdout, stderr, exit
}

// Main is a keeper's process: see [Program]. It returns the exit code.
func Main() int {
	runtime.LockOSThread() // capabilities are a thread's: see sandbox.Enter
	timerslack.Narrow()    // of what it starts; its runtime keeps that of its worker
	// As PID 1 it has no default actions to die of, but the runtime's own: a
	// script may send it whatever it likes.
	signal.Notify(make(chan os.Signal, 1))
	signal.Reset(unix.SIGCHLD, unix.SIGURG)
	debug.SetGCPercent(20)
	unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) // a script of the same user reads nothing here
	if os.Getpid() != 1 || unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC) != nil {
		return 2
	}
	k := &keeper{conn: fdConn, listener: fdListener, folder: fdFolder, nursery: nursery{socket: fdNursery}, buf: make([]byte, 64<<10)}
	if err := k.open(); err != nil {
		return 1
	}
	for k.needed() && k.turn() == nil {
	}
	k.giveUp()
	return 0
}

func (k *keeper) open() (err error) {
	for i, name := range []string{streamNames[0], streamNames[1], exitName} {
		if k.files[i], err = unix.Openat(k.folder, name, unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
			return err
		}
	}
	for _, fd := range []int{k.conn, k.listener} {
		if err := unix.SetNonblock(fd, true); err != nil {
			return err
		}
	}
	k.timer, err = unix.TimerfdCreate(unix.CLOCK_BOOTTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err == nil {
		k.tell(kindHello, (&Hello{}).pack())
		k.flush()
	}
	return err
}

// turn waits for something to happen and does what follows.
func (k *keeper) turn() error {
	k.arm()
	var set [6]unix.PollFd
	fds := append(set[:0],
		unix.PollFd{Fd: int32(k.conn), Events: unix.POLLIN}, // a negative number is ignored
		unix.PollFd{Fd: int32(k.listener), Events: unix.POLLIN},
		unix.PollFd{Fd: int32(k.timer), Events: unix.POLLIN},
	)
	if len(k.out) > 0 {
		fds[0].Events |= unix.POLLOUT
	}
	switch {
	case k.job != nil:
		fds = k.job.polls(fds, k.conn >= 0)
	case k.box != nil:
		fds = k.box.polls(fds)
	}
	if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
		return err
	}
	if fds[0].Revents != 0 && !k.hear() {
		k.hangUp()
	}
	if fds[1].Revents != 0 {
		k.accept()
	}
	if fds[2].Revents != 0 {
		unix.Read(k.timer, k.buf[:8])
	}
	if j := k.job; j != nil {
		k.work(j)
	} else if k.box != nil && k.box.work() {
		k.tellReady(k.box.cell)
	}
	k.flush()
	return nil
}

// giveUp gives back all that the keeper has of the host.
func (k *keeper) giveUp() {
	if k.box != nil {
		k.box.close()
		k.box = nil
	}
	unix.Close(fdHold)
}

// needed reports whether anybody may still want something of this keeper.
func (k *keeper) needed() bool {
	switch j := k.job; {
	case k.conn >= 0:
		return true
	case j == nil:
		return false
	case j.over:
		return !j.Mortal && boottime() < j.Until+linger && k.findable()
	}
	return true
}

// findable reports whether an adopter could still come: the folder has not been
// removed.
func (k *keeper) findable() bool {
	var stat unix.Stat_t
	return unix.Fstat(k.folder, &stat) != nil || stat.Nlink > 0
}

// arm sets the timer to what comes next.
func (k *keeper) arm() {
	var next time.Duration
	if k.job != nil {
		next = k.job.next()
	}
	if k.job != nil && k.job.over && k.conn < 0 {
		next = min(next, boottime()+lookAround) // whether the folder is still there
	}
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(next))} // 0 disarms
	unix.TimerfdSettime(k.timer, unix.TFD_TIMER_ABSTIME, &spec, nil)
}

// hear takes in what the worker says. False: there is no worker any more.
func (k *keeper) hear() bool {
	for {
		n, err := unix.Read(k.conn, k.buf)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return true
		case err != nil || n == 0:
			return false
		}
		k.in = append(k.in, k.buf[:n]...)
		for {
			kind, body, rest, ok, err := cutFrame(k.in)
			if err != nil {
				return false
			}
			if k.in = rest; !ok {
				break
			}
			if !k.obey(kind, body) {
				return false
			}
		}
		if len(k.in) == 0 {
			k.in = nil
		}
	}
}

// obey does what a frame says. False: it cannot be.
func (k *keeper) obey(kind byte, body []byte) bool {
	u := unpacker{b: body}
	j := k.job
	switch {
	case kind == kindStart && j == nil:
		var s Start
		if s.unpack(body) != nil {
			return false
		}
		if k.box == nil {
			k.job = begin(s, k.files, &k.nursery)
		} else {
			k.job = k.box.begin(s, k.files)
		}
		k.job.out[0].unwanted, k.job.out[1].unwanted = !s.Stdout, !s.Stderr // what is started ahead has pipes for both
	case kind == kindBox && k.box == nil:
		return k.unbox(body)
	case kind == kindHold && k.box != nil && j == nil:
		var h Hold
		if h.unpack(body) != nil {
			return false
		}
		k.box.hold(h)
	case j == nil: // a word too late for a job that is done
	case kind == kindStdin:
		j.stdin.take(body)
	case kind == kindUntil:
		j.Until = u.dur()
	case kind == kindTook:
		if i := u.num(); i < 2 {
			j.out[i].took = int64(u.num())
		}
	case kind == kindStop:
		j.stop(Stopped, u.flag())
	case kind == kindDone && j.over:
		k.forget()
	default:
		return false
	}
	return !u.bad
}

// forget makes room for the next job.
func (k *keeper) forget() {
	for _, fd := range k.files {
		var stat unix.Stat_t
		if unix.Fstat(fd, &stat) == nil && stat.Size > 0 {
			unix.Ftruncate(fd, 0)
		}
	}
	if k.box != nil {
		k.job.cell.discard()
		k.box.park()
	}
	if k.job.Forked > 0 {
		k.nursery.prepare(k.files) // the next one is of the same kind, mostly
	}
	k.job = nil
	debug.FreeOSMemory() // some 300 µs, while the next interpreter starts; seldomer it comes to 4.5 MiB resident
}

// unbox begins to run scripts in sandboxes.
func (k *keeper) unbox(body []byte) bool {
	k.box = &box{}
	if k.box.Box.unpack(body) != nil {
		return false
	}
	if err := k.box.open(); err != nil {
		k.box.cell = &cell{err: err}
		return true
	}
	k.box.park()
	return true
}

// tellReady tells of a sandbox that waits for its script, or has one.
func (k *keeper) tellReady(c *cell) {
	r := Ready{UID: k.box.number(), Parked: c.parked != nil}
	if c.err != nil {
		r.Error = c.err.Error()
	} else {
		k.rights = c.dirs[:]
	}
	k.tell(kindReady, r.pack())
}

// accept lets an adopter in, and tells it how far the job is.
func (k *keeper) accept() {
	fd, _, err := unix.Accept4(k.listener, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
	if err != nil {
		return
	}
	k.hangUp()
	k.conn = fd
	var h Hello
	if j := k.job; j != nil {
		h.Busy, h.Boxed, h.Until = true, j.cell != nil, j.Until
		h.Stdin, h.Feed = j.stdin.taken()
		j.told = [2]int64{}
		j.out[0].took, j.out[1].took = 0, 0
	}
	k.tell(kindHello, h.pack())
	if h.Boxed {
		k.tellReady(k.job.cell)
	}
	if k.job != nil && k.job.over {
		k.tellExit()
	}
}

// hangUp goes on without a worker.
func (k *keeper) hangUp() {
	if k.conn < 0 {
		return
	}
	if k.job == nil {
		k.giveUp() // before the connection's end, which tells that it is done
	}
	unix.Close(k.conn)
	k.conn, k.in, k.out, k.rights = -1, nil, nil, nil
	switch j := k.job; {
	case j == nil:
	case j.over:
		k.sync()
	case j.Mortal:
		j.stop(Stopped, false)
	}
}

// work sees to everything that may have happened to the job.
func (k *keeper) work(j *job) {
	if j.over {
		return
	}
	j.reap()
	j.watchTime()
	j.pump(k.buf, k.conn >= 0)
	if j.exited {
		j.finish(k.buf)
		k.writeExit()
	}
	if k.conn < 0 {
		return
	}
	if j.stdin.total != j.fed {
		j.fed = j.stdin.total
		k.tell(kindFed, binaryNum(j.fed))
	}
	if now := j.sizes(); now != j.told && (len(k.out) == 0 || j.over) {
		j.told = now
		var p packer
		p.num(uint64(now[0]))
		p.num(uint64(now[1]))
		k.tell(kindWrote, p)
	}
	if j.over {
		k.tellExit()
	}
}

func binaryNum(n uint64) (p packer) { p.num(n); return p }

// writeExit writes down how the job ended. It is synced where nobody is there
// to be told.
func (k *keeper) writeExit() {
	_, err := unix.Pwrite(k.files[2], sealed(k.job.exit.pack()), 0)
	if err == nil && k.conn < 0 {
		err = k.sync()
	}
	if err != nil {
		k.job.trouble(err)
	}
}

// sync brings what the job left to the disk.
func (k *keeper) sync() error {
	for _, fd := range k.files {
		if err := unix.Fdatasync(fd); err != nil {
			return err
		}
	}
	return nil
}

func (k *keeper) tellExit() { k.tell(kindExit, k.job.exit.pack()) }

// tell sends a frame, as soon as the worker takes it.
func (k *keeper) tell(kind byte, body []byte) { k.out = appendFrame(k.out, kind, body) }

// flush sends what the worker takes now. It never waits: a frozen worker must
// not freeze its keeper.
func (k *keeper) flush() {
	for len(k.out) > 0 && k.conn >= 0 {
		var rights []byte
		if k.rights != nil {
			rights = unix.UnixRights(k.rights...)
		}
		n, err := unix.SendmsgN(k.conn, k.out, rights, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return
		case err != nil:
			k.hangUp()
			return
		default:
			k.out, k.rights = k.out[n:], nil
		}
	}
	k.out = nil
}

// boottime is CLOCK_BOOTTIME: monotonic, and it goes on while the machine is
// suspended.
func boottime() time.Duration {
	var t unix.Timespec
	unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) // cannot fail (clock_gettime(2))
	return time.Duration(t.Nano())
}
