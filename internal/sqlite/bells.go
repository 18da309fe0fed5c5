package sqlite

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
)

// bells tells the other processes on a file what changed. Each process binds a
// datagram socket in a directory that follows from the file's path; what it
// finds there are its peers. A new process says hello to them, and everyone
// who hears it knows it from then on, and tells it that anything may have
// changed until then. Nothing is sent while there is no peer or no change.
//
// A peer that is dead refuses, and its socket is removed. One that is slow or
// stopped is told later, by one goroutine a peer that waits for it.
type bells struct {
	dir  string
	name string // of our socket
	sock *net.UnixConn
	hear func(Note)

	mu     sync.Mutex
	peers  map[string]*peer
	closed bool
	work   sync.WaitGroup
}

// maxSocketPath is what fits everywhere into a socket's address, in bytes.
const maxSocketPath = 103

// maxDatagram is what fits everywhere into a datagram, in bytes.
const maxDatagram = 2000

// hang binds our socket, and says hello to those that are there.
func hang(path string, hear func(Note)) (*bells, error) {
	var random [4]byte
	rand.Read(random[:]) // never fails
	b := &bells{
		name:  strconv.Itoa(os.Getpid()) + "." + hex.EncodeToString(random[:]),
		hear:  hear,
		peers: make(map[string]*peer),
	}
	if err := b.bind(path); err != nil {
		return nil, fmt.Errorf("binding the socket by which processes on one store wake each other: %w"+
			" (put the store on a file system that has unix sockets)", err)
	}
	b.work.Go(b.listen)
	entries, err := os.ReadDir(b.dir)
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	for _, e := range entries {
		if e.Name() != b.name {
			b.meet(e.Name(), Note{Kind: hello, Name: b.name})
		}
	}
	return b, nil
}

// bind makes the directory and our socket in it.
func (b *bells) bind(path string) error {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	b.dir = bellsDir(path)
	var err error
	for range 10 { // a peer that ends may remove the directory meanwhile
		if err = os.MkdirAll(b.dir, 0o700); err != nil {
			return err
		}
		if err = private(filepath.Dir(b.dir), path); err != nil {
			return err
		}
		b.sock, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(b.dir, b.name), Net: "unixgram"})
		if !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return err
}

// bellsDir is where the processes on a file bind their sockets: beside the
// file, as FILE-bells; where that path is too long for a socket's address, in
// a directory of ours below /tmp. It depends on nothing but the path, so that
// all of them meet.
func bellsDir(path string) string {
	beside := path + "-bells"
	if len(beside)+len("/4194304.01234567") <= maxSocketPath {
		return beside
	}
	sum := sha256.Sum256([]byte(path))
	return filepath.Join("/tmp", "modulate-"+strconv.Itoa(os.Getuid()), hex.EncodeToString(sum[:8]))
}

// private makes sure that dir is ours alone, where it is not the store's own:
// anybody may make one below /tmp before us.
func private(dir, path string) error {
	if dir == filepath.Dir(path) {
		return nil
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || info.Mode().Perm()&0o077 != 0 || !ok || int(owner.Uid) != os.Getuid() {
		return fmt.Errorf("%s is not a directory of yours alone", dir)
	}
	return nil
}

// Close removes our socket, and waits for every goroutine to end.
func (b *bells) Close() error {
	b.mu.Lock()
	b.closed = true
	for _, p := range b.peers {
		p.end()
	}
	b.mu.Unlock()
	err := os.Remove(filepath.Join(b.dir, b.name))
	err = errors.Join(err, b.sock.Close())
	b.work.Wait()
	_ = os.Remove(b.dir) // unless others are in it
	return err
}

func (b *bells) alone() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.peers) == 0
}

// ring tells every peer.
func (b *bells) ring(notes []Note) {
	if len(notes) == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.peers {
		p.tell(notes...)
	}
}

// meet makes a peer of the process behind a socket, and tells it n first.
func (b *bells) meet(name string, n Note) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || name == b.name || filepath.Base(name) != name {
		return
	}
	p, known := b.peers[name]
	if !known {
		p = newPeer(filepath.Join(b.dir, name))
		b.peers[name] = p
		b.work.Go(func() {
			if p.run() {
				b.forget(name, p)
			}
		})
	}
	p.tell(n)
}

// forget drops a peer that is dead, and its socket.
func (b *bells) forget(name string, p *peer) {
	b.mu.Lock()
	if !b.closed { // else Close has ended it
		delete(b.peers, name)
		p.end()
	}
	b.mu.Unlock()
	_ = os.Remove(p.address)
}

// listen hears what peers tell, until our socket is closed.
func (b *bells) listen() {
	buf := make([]byte, 64<<10)
	for {
		n, err := b.sock.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		parse(buf[:n], func(n Note) {
			if n.Kind == hello {
				b.meet(n.Name, Note{Kind: Everything})
				return
			}
			b.hear(n)
		})
	}
}
