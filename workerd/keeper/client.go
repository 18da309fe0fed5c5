//go:build linux

package keeper

import (
	"errors"
	"fmt"
	"net"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"
)

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

	hi   chan Hello    // the first thing that a keeper says
	gone chan struct{} // closed when the keeper has ended or hung up
	run  atomic.Pointer[Run]
	dead atomic.Bool // nothing more is heard of it
	left atomic.Bool

	sending sync.Mutex
	out     []byte
}

func newClient(f *Folder, conn *net.UnixConn, cmd *exec.Cmd) *Client {
	c := &Client{Folder: f, conn: conn, cmd: cmd, hi: make(chan Hello, 1), gone: make(chan struct{})}
	go c.listen()
	return c
}

// Adopt connects to the keeper of a folder that another process has started,
// and says how far its job is. ErrGone: it is dead; the folder stays open.
func Adopt(f *Folder) (*Client, Hello, error) {
	var conn *net.UnixConn
	err := byShortPath(f.Dir, func(short string) (err error) {
		conn, err = net.DialUnix("unix", nil, &net.UnixAddr{Name: short, Net: "unix"})
		return err
	})
	if err != nil {
		return nil, Hello{}, fmt.Errorf("%w: %w", ErrGone, err)
	}
	c := newClient(f, conn, nil)
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
		return Hello{}, fmt.Errorf("%w: it does not answer", ErrGone)
	}
}

// Alive reports whether the keeper has not ended, as far as is known.
func (c *Client) Alive() bool { return !c.dead.Load() }

// Close ends the connection. A keeper that is idle, or whose job is mortal,
// ends then, and Close returns when it has. Its folder stays.
func (c *Client) Close() {
	c.conn.Close()
	<-c.gone
	c.Folder.Close()
}

// Leave gives the keeper up whatever it does, for an adopter.
func (c *Client) Leave() {
	c.left.Store(true)
	c.Close()
}

// listen takes in what the keeper says until it hangs up.
func (c *Client) listen() {
	defer close(c.gone)
	var in []byte
	buf := make([]byte, 4<<10)
	for {
		n, err := c.conn.Read(buf)
		if in = append(in, buf[:n]...); !c.heed(&in) || err != nil {
			break
		}
	}
	c.conn.Close()
	c.dead.Store(true)
	if r := c.run.Load(); r != nil {
		r.lost()
	}
	if c.cmd != nil && !c.left.Load() {
		c.cmd.Wait() // it has ended, or ends now that nobody is connected
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
		} else if r := c.run.Load(); r != nil && !r.heed(kind, body) {
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
