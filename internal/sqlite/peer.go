package sqlite

import (
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// lastWord is how long a process that closes the file waits for a peer that
// takes nothing.
const lastWord = 100 * time.Millisecond

// maxNotes is how many notes wait for a slow peer before they become one that
// says everything.
const maxNotes = 1000

// peer is another process on the file, as we tell it what changed.
type peer struct {
	address string
	ready   chan struct{} // capacity 1: there is something to tell
	ended   chan struct{} // closed by end

	mu    sync.Mutex
	notes []Note
	conn  *net.UnixConn
}

func newPeer(address string) *peer {
	return &peer{address: address, ready: make(chan struct{}, 1), ended: make(chan struct{})}
}

// tell leaves notes for the peer; it does not block.
func (p *peer) tell(notes ...Note) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.notes = append(p.notes, notes...)
	if len(p.notes) > maxNotes {
		p.notes = append(p.notes[:0], Note{Kind: Everything})
	}
	select {
	case p.ready <- struct{}{}:
	default:
	}
}

// end makes run return once it has delivered what there is, or soon. It is
// called once.
func (p *peer) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.ended)
	if p.conn != nil {
		_ = p.conn.SetWriteDeadline(time.Now().Add(lastWord)) // closed: run has returned
	}
}

// run delivers notes. It reports true when the peer is dead, false when end
// was called.
func (p *peer) run() (dead bool) {
	defer p.hangUp()
	for {
		over := false
		select {
		case <-p.ready:
		case <-p.ended:
			over = true // with the notes that are left
		}
		for datagram := p.next(); len(datagram) > 0; datagram = p.next() {
			if err := p.deliver(datagram); err != nil {
				return !errors.Is(err, os.ErrDeadlineExceeded)
			}
		}
		if over {
			return false
		}
	}
}

func (p *peer) hangUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn != nil {
		p.conn.Close()
	}
}

// deliver sends one datagram, waiting for room as long as it takes. It fails
// when the peer is dead, and with os.ErrDeadlineExceeded when end was called
// and the time for the last word is over.
func (p *peer) deliver(datagram []byte) error {
	for wait := time.Millisecond; ; wait = min(2*wait, time.Second) {
		conn, err := p.dial()
		if err == nil {
			_, err = conn.Write(datagram) // waits while the peer's queue is full
		}
		switch {
		case err == nil, errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, os.ErrNotExist),
			errors.Is(err, syscall.ENOTCONN), errors.Is(err, syscall.ECONNRESET):
			return err
		}
		select { // no descriptor is left; or a full queue is an error here (ENOBUFS)
		case <-time.After(wait):
		case <-p.ended:
			return os.ErrDeadlineExceeded
		}
	}
}

// dial returns the connection, which it makes at first.
func (p *peer) dial() (*net.UnixConn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn != nil {
		return p.conn, nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: p.address, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	select {
	case <-p.ended:
		_ = conn.SetWriteDeadline(time.Now().Add(lastWord)) // it is new
	default:
	}
	p.conn = conn
	return conn, nil
}

// next takes as many notes as fit into a datagram.
func (p *peer) next() (datagram []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	taken := 0
	for _, n := range p.notes {
		more := n.append(datagram)
		if len(more) > maxDatagram && taken > 0 {
			break
		}
		datagram = more
		taken++
	}
	rest := copy(p.notes, p.notes[taken:])
	clear(p.notes[rest:])
	p.notes = p.notes[:rest]
	return datagram
}
