//go:build linux

package keeper

import "golang.org/x/sys/unix"

// A capture takes in one output of a script.
type capture struct {
	pipe     int // -1: there is none (any more)
	file     int
	unwanted bool  // by the worker that has started the script: it goes where /dev/null has it go
	size     int64 // bytes taken in
	took     int64 // of them, those that the worker has
	err      error // of the file: what follows is not kept
}

// room is how many bytes may be taken in. Without a worker nobody need wait
// for one: the ring goes round.
func (c *capture) room(worker bool) int64 {
	if !worker || c.unwanted {
		return ring
	}
	return min(ring, max(0, c.took+Half-c.size))
}

// read takes in what is there, up to limit bytes.
func (c *capture) read(buf []byte, limit int64) {
	for c.pipe >= 0 && limit > 0 {
		p := buf[:min(limit, int64(len(buf)))]
		n, err := unix.Read(c.pipe, p)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return
		case err != nil || n == 0:
			c.close()
			return
		}
		c.write(p[:n])
		if limit -= int64(n); n < len(p) {
			return // that was all for now
		}
	}
}

// write puts p where it belongs.
func (c *capture) write(p []byte) {
	for len(p) > 0 && c.err == nil && !c.unwanted {
		offset, room := place(c.size)
		n, err := unix.Pwrite(c.file, p[:min(room, int64(len(p)))], offset)
		if err == unix.EINTR {
			continue
		}
		if c.err = err; err == nil {
			c.size += int64(n)
			p = p[n:]
		}
	}
}

func (c *capture) close() {
	if c.pipe >= 0 {
		unix.Close(c.pipe)
		c.pipe = -1
	}
}

// A feed gives a script its stdin.
type feed struct {
	pipe  int    // -1: there is none (any more)
	rest  []byte // not written yet
	total uint64 // bytes written
	last  bool   // no more will come
}

// taken is how many bytes it was given, and whether more are of use.
func (f *feed) taken() (n uint64, more bool) {
	return f.total + uint64(len(f.rest)), f.pipe >= 0 && !f.last
}

// take gets the next bytes; none: that was all. One frame is on its way at a
// time: the next is sent when total says that this one was written.
func (f *feed) take(p []byte) {
	if len(p) == 0 {
		f.last = true
	}
	f.rest = append(f.rest, p...)
}

// waits reports whether there is something to write.
func (f *feed) waits() bool { return f.pipe >= 0 && len(f.rest) > 0 }

// flush writes what the script takes now. Once it has closed its end nobody
// wants the rest.
func (f *feed) flush() {
	for f.waits() {
		n, err := unix.Write(f.pipe, f.rest)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return
		case err != nil:
			f.close()
		default:
			f.total += uint64(n)
			f.rest = f.rest[n:]
		}
	}
	if f.last {
		f.close()
	}
}

func (f *feed) close() {
	if f.pipe >= 0 {
		unix.Close(f.pipe)
		f.pipe, f.rest = -1, nil
	}
}
