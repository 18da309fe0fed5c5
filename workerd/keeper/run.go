//go:build linux

package keeper

import (
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"time"
)

const (
	// tookEach is after how many bytes a keeper is told that they were read:
	// far less than it keeps without being told.
	tookEach = 1 << 20
	// feedMost is the most bytes of one frame of stdin.
	feedMost = 64 << 10
	// stdinDelay bounds how long a source of stdin that does not return is
	// waited for.
	stdinDelay = time.Second
)

// A Skipper is a writer that is told of bytes that nobody has any more: the
// stream goes on at offset to.
type Skipper interface{ Skip(to int64) }

// Streams are what a job reads from and writes to. A writer that is nil gets
// nothing.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
	Fail     func(error) // called when In fails
}

// A Run is a job as its worker sees it.
type Run struct {
	folder *Folder
	send   func(kind byte, body []byte)
	forget func()
	done   chan struct{} // closed when everything of the job is dead: exit or err is set
	exit   Exit
	err    error
	once   sync.Once
	copies sync.WaitGroup

	mu      sync.Mutex
	out     [2]*copier
	fed     uint64 // feed's own
	feeding chan uint64
	fedAll  chan struct{} // closed when In is read no more; nil: it is not read
}

// Begin starts a job. The keeper must be idle.
func (c *Client) Begin(s Start, with Streams) *Run {
	s.Stdin, s.Stdout, s.Stderr = with.In != nil, with.Out != nil, with.Err != nil
	r := c.newRun(with)
	if s.Forked > 0 {
		c.forker.forks++
	}
	c.send(kindStart, s.pack())
	r.feed(with, 0)
	return r
}

// Resume goes on with the job of a keeper that was adopted when it said h. The
// outputs are written from their first byte on; In is what follows h.Stdin.
func (c *Client) Resume(h Hello, with Streams) *Run {
	r := c.newRun(with)
	for i, o := range r.out {
		if o == nil {
			r.took(i, math.MaxInt64-Half) // whatever comes: nobody reads it
		}
	}
	if h.Feed {
		r.feed(with, h.Stdin)
	}
	return r
}

// Replay is Resume for a job that was over before its keeper ended: e is what
// the folder says of its end.
func (f *Folder) Replay(e Exit, with Streams) *Run {
	r := newRun(f, with)
	r.send, r.forget = func(byte, []byte) {}, func() {}
	r.exit = e
	r.wrote([2]int64{e.Stdout, e.Stderr})
	close(r.done)
	return r
}

func newRun(f *Folder, with Streams) *Run {
	r := &Run{folder: f, done: make(chan struct{}), feeding: make(chan uint64, 1)}
	for i, dst := range []io.Writer{with.Out, with.Err} {
		if dst != nil {
			r.out[i] = &copier{r: r, stream: i, dst: dst}
		}
	}
	return r
}

func (c *Client) newRun(with Streams) *Run {
	r := newRun(c.Folder, with)
	r.send, r.forget = c.send, func() { c.attach(nil) }
	c.attach(r)
	return r
}

// Done is closed when every process of the job is dead.
func (r *Run) Done() <-chan struct{} { return r.done }

// Wait returns how the job ended once all that it wrote has been delivered,
// and what could not be. ErrGone: its keeper is dead.
func (r *Run) Wait() (e Exit, delivery, err error) {
	<-r.done
	r.copies.Wait()
	if r.fedAll != nil {
		select {
		case <-r.fedAll:
		case <-time.After(stdinDelay):
		}
	}
	var errs []error
	for i, o := range r.out {
		if o != nil && o.err != nil {
			errs = append(errs, fmt.Errorf("delivering the script's %s: %w", streamNames[i], o.err))
		}
	}
	return r.exit, errors.Join(errs...), r.err
}

// Until moves the end of the lease, CLOCK_BOOTTIME.
func (r *Run) Until(t time.Duration) {
	var p packer
	p.dur(t)
	r.send(kindUntil, p)
}

// Stop ends the script: by SIGTERM and, after its grace, SIGKILL; or at once.
func (r *Run) Stop(gently bool) {
	var p packer
	p.flag(gently)
	r.send(kindStop, p)
}

// Forget makes the keeper idle. The job must be done.
func (r *Run) Forget() {
	r.forget()
	r.send(kindDone, nil)
}

// heed does what the keeper says about the job.
func (r *Run) heed(kind byte, body []byte) bool {
	u := unpacker{b: body}
	switch kind {
	case kindWrote:
		r.wrote([2]int64{int64(u.num()), int64(u.num())})
	case kindFed:
		select {
		case <-r.feeding: // it has not been looked at
		default:
		}
		r.feeding <- u.num()
	case kindExit:
		if r.exit.unpack(body) != nil {
			return false
		}
		r.wrote([2]int64{r.exit.Stdout, r.exit.Stderr})
		r.once.Do(func() { close(r.done) })
	default:
		return false
	}
	return !u.bad
}

// lost is the end of a job whose keeper has died or was given up.
func (r *Run) lost() {
	r.once.Do(func() {
		r.wrote([2]int64{r.folder.written(0), r.folder.written(1)})
		r.err = ErrGone
		close(r.done)
	})
}

// wrote lets the outputs flow up to those sizes.
func (r *Run) wrote(sizes [2]int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, o := range r.out {
		if o == nil || sizes[i] <= o.end {
			continue
		}
		o.end = sizes[i]
		if !o.busy {
			o.busy = true
			r.copies.Go(o.copy)
		}
	}
}

// A copier delivers one output.
type copier struct {
	r      *Run
	stream int
	dst    io.Writer
	at     int64 // bytes delivered
	told   int64 // of them, those that the keeper knows of
	err    error // of dst, the first; what follows is dropped
	buf    []byte

	end  int64 // bytes that are there; under r.mu
	busy bool  // likewise: copy runs
}

// copy delivers what there is.
func (o *copier) copy() {
	for {
		o.r.mu.Lock()
		end := o.end
		if o.busy = o.at < end; !o.busy {
			o.r.mu.Unlock()
			return
		}
		o.r.mu.Unlock()
		for o.at < end {
			o.step(end)
		}
	}
}

// step delivers one piece.
func (o *copier) step(end int64) {
	if kept := max(Half, end-ring); o.at >= Half && o.at < kept {
		if s, ok := o.dst.(Skipper); ok {
			s.Skip(kept)
		}
		o.at = kept
	}
	if want := int(min(64<<10, end-o.at)); len(o.buf) < want {
		o.buf = make([]byte, max(want, 4<<10))
	}
	n, err := o.r.folder.read(o.stream, o.buf, o.at, end)
	if n > 0 && o.err == nil {
		_, o.err = o.dst.Write(o.buf[:n])
	}
	if o.at += int64(n); err != nil {
		o.at = end
		if o.err == nil {
			o.err = err
		}
	}
	if o.at-o.told >= tookEach {
		o.told = o.at
		o.r.took(o.stream, o.at)
	}
}

// took tells the keeper up to where it need not keep a stream any more.
func (r *Run) took(stream int, at int64) {
	var p packer
	p.num(uint64(stream))
	p.num(uint64(at))
	r.send(kindTook, p)
}

// feed sends the stdin, from number at on, one frame after the other: the next
// when the script has taken the one before.
func (r *Run) feed(with Streams, at uint64) {
	if with.In == nil {
		return
	}
	r.fedAll = make(chan struct{})
	go func() {
		defer close(r.fedAll)
		buf := make([]byte, 4<<10)
		for {
			n, err := with.In.Read(buf)
			if n > 0 {
				r.send(kindStdin, buf[:n])
			}
			if errors.Is(err, io.EOF) {
				r.send(kindStdin, nil)
				return
			}
			if err != nil {
				with.Fail(err)
				return
			}
			if at += uint64(n); !r.awaitFed(at) {
				return
			}
			if n == len(buf) && n < feedMost {
				buf = make([]byte, 2*n)
			}
		}
	}()
}

// awaitFed returns when the script has taken that many bytes of its stdin.
// False: it takes no more.
func (r *Run) awaitFed(at uint64) bool {
	for r.fed < at {
		select {
		case r.fed = <-r.feeding:
		case <-r.done:
			return false
		}
	}
	return true
}
