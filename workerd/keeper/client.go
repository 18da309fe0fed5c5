//go:build linux

package keeper

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A frame is one that came.
type frame struct {
	kind byte
	body []byte
}

// ErrGone: the keeper is dead, and with it whatever it kept.
var ErrGone = errors.New("the script's keeper is dead")

// helloLimit bounds how long a keeper may take to answer who connects to it.
const helloLimit = 10 * time.Second

// A Client is a worker's end of a keeper. It does one job at a time: Begin or
// Resume, and Forget when its Run has ended.
type Client struct {
	*Folder
	conn *net.UnixConn
	cmd  *exec.Cmd // nil: another process has started it

	forker *forker // nil: it has no nursery

	hi   chan Hello    // the first thing that a keeper says
	gone chan struct{} // closed when the keeper has ended or hung up

	mu    sync.Mutex
	run   *Run    // nil: there is none
	early []frame // what an adopted keeper said of its job before Resume
	keep  bool    // there may be such

	dead atomic.Bool // nothing more is heard of it
	left atomic.Bool

	sending sync.Mutex
	out     []byte

	files []*os.File // that came, and are not told of yet; listen's own
	ready chan *Cell // the sandbox that waits, or that has the job
}

// A Cell is a sandbox that waits for its script, or has it. Close it when
// nothing more is laid into it or read from it.
type Cell struct {
	Ready
	Work, Output *os.File // its directories
}

// Close closes the directories.
func (c *Cell) Close() {
	for _, f := range []*os.File{c.Work, c.Output} {
		if f != nil {
			f.Close()
		}
	}
}

// Cell waits for the sandbox that the keeper makes ahead, or that an adopted
// job has, and is called once for each.
func (c *Client) Cell() (*Cell, error) {
	select {
	case cell := <-c.ready:
		if cell.Error != "" {
			return nil, errors.New(cell.Error)
		}
		return cell, nil
	case <-c.gone:
		return nil, ErrGone
	}
}

// AwaitCell waits for the sandbox that a new keeper makes ahead. An error says
// why it cannot be made.
func (c *Client) AwaitCell() error {
	select {
	case cell := <-c.ready:
		select {
		case c.ready <- cell:
		default: // there is word of another
			cell.Close()
		}
		if cell.Error != "" {
			return errors.New(cell.Error)
		}
		return nil
	case <-c.gone:
		return ErrGone
	}
}

// HasCell reports whether Cell would not wait.
func (c *Client) HasCell() bool { return len(c.ready) > 0 }

// Hold has the keeper make another sandbox than the one that Cell has told of,
// for something else than its interpreter.
func (c *Client) Hold(h Hold) { c.send(kindHold, h.pack()) }

// newReady takes note of a sandbox.
func (c *Client) newReady(body []byte) bool {
	cell := &Cell{}
	if cell.unpack(body) != nil {
		return false
	}
	switch {
	case cell.Error != "":
	case len(c.files) < 2: // what there was no room for is dropped (recvmsg(2), MSG_CTRUNC)
		cell.Error = "its directories did not come: this process has too many files open"
		for _, f := range c.files {
			f.Close()
		}
		c.files = nil
	default:
		cell.Work, cell.Output = c.files[0], c.files[1]
		c.files = c.files[2:]
	}
	select {
	case old := <-c.ready:
		old.Close()
	default:
	}
	c.ready <- cell
	return true
}

// receive reads from the connection, and takes in the descriptors that come.
func (c *Client) receive(buf []byte) (int, error) {
	var oob [64]byte // two descriptors: CMSG_SPACE is 24
	n, oobn, _, _, err := c.conn.ReadMsgUnix(buf, oob[:])
	if err == nil && n == 0 {
		err = io.EOF
	}
	messages, _ := unix.ParseSocketControlMessage(oob[:oobn])
	for i := range messages {
		fds, _ := unix.ParseUnixRights(&messages[i])
		for _, fd := range fds {
			c.files = append(c.files, os.NewFile(uintptr(fd), "sandbox"))
		}
	}
	return max(n, 0), err
}

func newClient(f *Folder, conn *net.UnixConn, cmd *exec.Cmd, n *forker) *Client {
	c := &Client{Folder: f, conn: conn, cmd: cmd, forker: n}
	c.start()
	return c
}

func (c *Client) start() {
	c.hi, c.gone, c.ready = make(chan Hello, 1), make(chan struct{}), make(chan *Cell, 1)
	go c.listen()
}

// attach makes r the job of which the keeper speaks, nil: there is none.
func (c *Client) attach(r *Run) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.run = r
	for _, f := range c.early {
		r.heed(f.kind, f.body) // what is wrong with one is wrong with the next
	}
	c.early, c.keep = nil, false
	if r != nil && c.dead.Load() { // it was so before the job was there
		r.lost()
	}
}

// pass hands what the keeper says of its job on.
func (c *Client) pass(kind byte, body []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.run != nil {
		return c.run.heed(kind, body)
	}
	if c.keep {
		c.early = append(c.early, frame{kind, slices.Clone(body)})
	}
	return true
}

// Adopt connects to the keeper of a folder that another process has started,
// and says how far its job is. ErrGone: it is dead. The folder stays open.
func Adopt(f *Folder) (*Client, Hello, error) {
	var conn *net.UnixConn
	err := byShortPath(f.Dir, func(short string) (err error) {
		conn, err = net.DialUnix("unix", nil, &net.UnixAddr{Name: short, Net: "unix"})
		return err
	})
	if err != nil {
		return nil, Hello{}, fmt.Errorf("%w: %w", ErrGone, err)
	}
	c := &Client{Folder: f, conn: conn, keep: true}
	c.start()
	h, err := c.await()
	if err != nil {
		conn.Close()
		<-c.gone
		return nil, h, err
	}
	return c, h, nil
}

// await returns the keeper's first word.
func (c *Client) await() (Hello, error) {
	timer := time.NewTimer(helloLimit)
	defer timer.Stop()
	select {
	case h := <-c.hi:
		return h, nil
	case <-c.gone:
		return Hello{}, ErrGone
	case <-timer.C:
		return Hello{}, errors.New("the script's keeper does not answer")
	}
}

// Alive reports whether the keeper has not ended, as far as is known.
func (c *Client) Alive() bool { return !c.dead.Load() }

// Close ends the connection. A keeper that is idle, or whose job is mortal,
// ends then, and Close returns when it has. Its folder stays.
func (c *Client) Close() {
	c.conn.CloseWrite()
	c.conn.SetReadDeadline(time.Now().Add(helloLimit))
	c.end()
}

// end closes what is left once nothing more is heard.
func (c *Client) end() {
	<-c.gone
	select {
	case cell := <-c.ready:
		cell.Close()
	default:
	}
	c.Folder.Close()
}

// Leave gives the keeper up whatever it does, for an adopter.
func (c *Client) Leave() {
	c.left.Store(true)
	c.conn.Close()
	c.end()
}

// listen takes in what the keeper says until it hangs up.
func (c *Client) listen() {
	defer close(c.gone)
	var in []byte
	buf := make([]byte, 4<<10)
	for {
		n, err := c.receive(buf)
		if in = append(in, buf[:n]...); !c.heed(&in) || err != nil {
			break
		}
	}
	c.conn.Close()
	for _, f := range c.files {
		f.Close()
	}
	c.mu.Lock()
	c.dead.Store(true)
	if c.run != nil {
		c.run.lost()
	}
	c.mu.Unlock()
	switch {
	case c.cmd == nil:
	case c.left.Load(): // it goes on
		c.cmd.Process.Release()
		c.forker.leave()
	default:
		c.cmd.Wait() // it has ended, or ends now that nobody is connected
		c.forker.end()
	}
}

// heed does what the whole frames in in say, and leaves the rest.
func (c *Client) heed(in *[]byte) bool {
	for {
		kind, body, rest, ok, err := cutFrame(*in)
		if err != nil {
			return false
		}
		if !ok {
			*in = append((*in)[:0:0], rest...)
			return true
		}
		*in = rest
		if kind == kindHello {
			var h Hello
			if h.unpack(body) != nil {
				return false
			}
			c.hi <- h // once a connection
		} else if kind == kindReady {
			if !c.newReady(body) {
				return false
			}
		} else if !c.pass(kind, body) {
			return false
		}
	}
}

// send sends a frame. A keeper always reads; one that is dead is found out by
// listen.
func (c *Client) send(kind byte, body []byte) {
	c.sending.Lock()
	defer c.sending.Unlock()
	c.out = appendFrame(c.out[:0], kind, body)
	c.conn.Write(c.out)
}
