package runner

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"
)

const (
	firstBuffer = 4 << 10
	maxBuffer   = 64 << 10
	// afterDeath bounds how long a pipe is listened to when every process of
	// the script is dead: somebody else may hold its other end.
	afterDeath = 100 * time.Millisecond
	// maxLeft is more than a pipe may hold: fs.pipe-max-size is 1 MiB (pipe(7)).
	maxLeft = 2 << 20
	// stdinDelay bounds how long a source of stdin that does not return is
	// waited for.
	stdinDelay = time.Second
)

// Streams are the three standard streams of a script.
type streams struct {
	in  *input
	out [2]*output
	all []*os.File // the script's ends
}

// An input is fed to a script.
type input struct {
	src  io.Reader
	pipe *os.File
	done chan error
}

// An output is taken from a script.
type output struct {
	name string
	dst  io.Writer
	pipe *os.File
	late bool  // everything that should write to it is dead
	left int   // bytes that still came then
	err  error // of dst, the first
	done chan struct{}
}

func openStreams(job Job) (s *streams, err error) {
	s = &streams{}
	defer func() {
		if err != nil {
			s.closeChild()
			s.abandon()
			err = fmt.Errorf("opening the script's streams: %w", err)
		}
	}()
	if job.Stdin == nil {
		err = s.null(os.O_RDONLY)
	} else {
		var mine *os.File
		if mine, err = s.pipe(false); err == nil {
			s.in = &input{src: job.Stdin, pipe: mine, done: make(chan error, 1)}
		}
	}
	for i, dst := range []io.Writer{job.Stdout, job.Stderr} {
		if err != nil {
			break
		}
		if dst == nil {
			err = s.null(os.O_WRONLY)
			continue
		}
		var mine *os.File
		if mine, err = s.pipe(true); err == nil {
			s.out[i] = &output{name: [2]string{"stdout", "stderr"}[i], dst: dst, pipe: mine, done: make(chan struct{})}
		}
	}
	return s, err
}

// null gives the script the null device.
func (s *streams) null(flag int) error {
	f, err := os.OpenFile(os.DevNull, flag, 0)
	if err == nil {
		s.all = append(s.all, f)
	}
	return err
}

// pipe gives the script one end of a pipe, the writing one if so, and returns
// the other.
func (s *streams) pipe(writing bool) (mine *os.File, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	if writing {
		s.all = append(s.all, w)
		return r, nil
	}
	s.all = append(s.all, r)
	return w, nil
}

// child returns the descriptors of the script's ends, which block.
func (s *streams) child() []uintptr {
	fds := make([]uintptr, len(s.all))
	for i, f := range s.all {
		fds[i] = f.Fd()
	}
	return fds
}

// closeChild closes the script's ends here.
func (s *streams) closeChild() {
	for _, f := range s.all {
		f.Close()
	}
}

// abandon closes our ends when there is no script.
func (s *streams) abandon() {
	if s.in != nil {
		s.in.pipe.Close()
	}
	for _, o := range s.out {
		if o != nil {
			o.pipe.Close()
		}
	}
}

// begin lets the streams flow. fail is called when the source of stdin fails.
func (s *streams) begin(fail func(error)) {
	if s.in != nil {
		go s.in.feed(fail)
	}
	for _, o := range s.out {
		if o != nil {
			go o.take()
		}
	}
}

// end returns when all that the dead script wrote is taken, with what could
// not be delivered.
func (s *streams) end() error {
	var errs []error
	for _, o := range s.out {
		if o == nil {
			continue
		}
		o.pipe.SetReadDeadline(time.Now().Add(afterDeath)) // wakes the reader; it sets its own from then on
		<-o.done
		o.pipe.Close()
		errs = append(errs, o.err)
	}
	if s.in != nil {
		s.in.pipe.Close()
		select {
		case <-s.in.done:
		case <-time.After(stdinDelay):
		}
	}
	return errors.Join(errs...)
}

// feed writes the source to the script, which need not read it. Where the
// source fails the pipe stays open: the script must not take what it got for
// the whole.
func (in *input) feed(fail func(error)) {
	defer close(in.done)
	buf := make([]byte, firstBuffer)
	for {
		n, err := in.src.Read(buf)
		if n > 0 {
			if _, werr := in.pipe.Write(buf[:n]); werr != nil {
				return // it has closed its end, or ended
			}
		}
		if errors.Is(err, io.EOF) {
			in.pipe.Close()
			return
		}
		if err != nil {
			fail(err)
			return
		}
		if n == len(buf) && n < maxBuffer {
			buf = make([]byte, 2*n)
		}
	}
}

// take reads the pipe until every other end of it is closed, or everything
// that should write to it is dead and it is empty. It goes on reading when dst
// takes no more, so that the script is never stopped by that.
func (o *output) take() {
	defer close(o.done)
	buf := make([]byte, firstBuffer)
	for o.left < maxLeft {
		if o.late {
			o.pipe.SetReadDeadline(time.Now().Add(afterDeath))
		}
		n, err := o.pipe.Read(buf)
		if n > 0 && o.err == nil {
			if _, werr := o.dst.Write(buf[:n]); werr != nil {
				o.err = fmt.Errorf("delivering the script's %s: %w", o.name, werr)
			}
		}
		if o.late {
			o.left += n
		}
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded) && !o.late:
			o.late = true
		case errors.Is(err, syscall.EINTR):
		default:
			return
		}
		if n == len(buf) && n < maxBuffer {
			buf = make([]byte, 2*n)
		}
	}
}
