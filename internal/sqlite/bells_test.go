package sqlite

import (
	"bytes"
	"errors"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// hears collects what a DB hears of its peers.
func hears(db *DB) <-chan Note {
	ch := make(chan Note, 10_000)
	db.Listen(func(n Note, ours bool) {
		if !ours {
			ch <- n
		}
	})
	return ch
}

// expect waits for a note, past others.
func expect(t *testing.T, ch <-chan Note, want Note) {
	t.Helper()
	over := time.After(patience)
	for {
		select {
		case n := <-ch:
			if n == want {
				return
			}
		case <-over:
			t.Fatalf("%+v was not heard", want)
		}
	}
}

// tell commits something that is told as n.
func tell(t *testing.T, db *DB, n Note) {
	t.Helper()
	err := db.Write(t.Context(), func(tx *Tx) error {
		tx.Note(n)
		return insert("x" + n.Name)(tx)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// met waits until db knows so many peers.
func met(t *testing.T, db *DB, peers int) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		db.bells.mu.Lock()
		have := len(db.bells.peers)
		db.bells.mu.Unlock()
		if have == peers {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d peers are known, want %d", have, peers)
		}
		<-time.After(time.Millisecond)
	}
}

func TestPeersHearOfCommits(t *testing.T) {
	path := file(t)
	a := open(t, path)
	if !a.Alone() {
		t.Error("not alone at first")
	}
	b := open(t, path)
	heardA, heardB := hears(a), hears(b)
	met(t, a, 1)
	met(t, b, 1)
	n := Note{Kind: Promise, Name: "P.1"}
	tell(t, a, n)
	expect(t, heardB, n)
	m := Note{Kind: Machine, Name: "gpu-a100", At: 1_700_000_000_123}
	tell(t, b, m)
	expect(t, heardA, m)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	tell(t, a, n) // finds that b is gone
	met(t, a, 0)
	if !a.Alone() {
		t.Error("not alone at the end")
	}
}

// What a process writes last is told too: a CLI that submits ends at once.
func TestTheLastWordIsHeard(t *testing.T) {
	path := file(t)
	a := open(t, path)
	heard := hears(a)
	n := Note{Kind: Machine, Name: "cpu"}
	for range 20 {
		b := open(t, path)
		met(t, b, 1)
		tell(t, b, n)
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		expect(t, heard, n)
	}
}

// Who is new is told that anything may have changed, because nobody told it
// before it was known.
func TestANewPeerIsToldEverything(t *testing.T) {
	a := open(t, file(t))
	sock, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(a.bells.dir, "1.new"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: filepath.Join(a.bells.dir, a.bells.name), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(Note{Kind: hello, Name: "1.new"}.append(nil)); err != nil {
		t.Fatal(err)
	}
	if err := sock.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	n, err := sock.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := buf[:n], (Note{Kind: Everything}).append(nil); !bytes.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestDeadPeersAreForgotten(t *testing.T) {
	path := file(t)
	a := open(t, path)
	address := filepath.Join(a.bells.dir, "1.dead")
	dead, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	b := open(t, path) // finds it alive
	met(t, b, 2)
	if err := dead.Close(); err != nil { // as kill -9 does, it leaves the socket's name
		t.Fatal(err)
	}
	heard := hears(a)
	n := Note{Kind: Promise, Name: "p"}
	tell(t, b, n)
	expect(t, heard, n)
	met(t, b, 1)
	for deadline := time.Now().Add(patience); ; {
		if _, err := os.Stat(address); errors.Is(err, os.ErrNotExist) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the dead socket is still there")
		}
		<-time.After(time.Millisecond)
	}
}

// A peer that is stopped does not hold anyone up, and learns all when it goes
// on.
func TestAStoppedPeerIsToldLater(t *testing.T) {
	path := file(t)
	a := open(t, path)
	stopped, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(a.bells.dir, "1.stopped"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer stopped.Close()
	if err := stopped.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	a.bells.meet("1.stopped", Note{Kind: Promise, Name: "greeting"})
	readUntil(t, stopped, Note{Kind: Promise, Name: "greeting"})
	long := Note{Kind: Promise, Name: strings.Repeat("p", 900)} // two fill a datagram
	for range 2 * maxNotes {
		a.bells.ring([]Note{long})
	}
	readUntil(t, stopped, Note{Kind: Everything}) // for what did not fit
	a.bells.ring([]Note{{Kind: Promise, Name: "last"}})
	readUntil(t, stopped, Note{Kind: Promise, Name: "last"})
}

// readUntil reads datagrams up to one that holds want.
func readUntil(t *testing.T, sock *net.UnixConn, want Note) {
	t.Helper()
	buf := make([]byte, 64<<10)
	for found := false; !found; {
		n, err := sock.Read(buf)
		if err != nil {
			t.Fatalf("waiting for %+v: %v", want, err)
		}
		if n > maxDatagram {
			t.Fatalf("a datagram of %d bytes", n)
		}
		parse(buf[:n], func(n Note) { found = found || n == want })
	}
}

func TestCloseDoesNotWaitForAStoppedPeer(t *testing.T) {
	db := open(t, file(t))
	stopped, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(db.bells.dir, "1.stopped"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer stopped.Close()
	db.bells.meet("1.stopped", Note{Kind: Everything})
	for range maxNotes {
		db.bells.ring([]Note{{Kind: Promise, Name: strings.Repeat("p", 900)}})
	}
	closed := make(chan error)
	go func() { closed <- db.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("Close waits")
	}
}

func TestNotesSurviveTheWire(t *testing.T) {
	want := []Note{
		{Kind: Promise, Name: "P.1:x"}, {Kind: Machine, Name: "gpu", At: 17}, {Kind: Everything}, {Kind: hello, Name: "12.ab"},
	}
	var b []byte
	for _, n := range want {
		b = n.append(b)
	}
	b = append(b, "garbage\n\nzof a newer peer\np12\n"...)
	var got []Note
	parse(b, func(n Note) { got = append(got, n) })
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("p0 a\nm17 cpu\n*0 \n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var again []byte
		parse(b, func(n Note) { again = n.append(again) })
		var third []byte
		parse(again, func(n Note) { third = n.append(third) })
		if !bytes.Equal(again, third) {
			t.Errorf("%q became %q", again, third)
		}
	})
}

// Processes with different ideas of where temporary files go meet all the same.
func TestBellsHangWhereThePathSays(t *testing.T) {
	path := "/srv/modulate/.modulate/store.db"
	if got, want := bellsDir(path), path+"-bells"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	long := "/" + strings.Repeat("x", 100) + "/store.db"
	dir := bellsDir(long)
	if !strings.HasPrefix(dir, "/tmp/modulate-") || dir != bellsDir(long) {
		t.Errorf("%s: got %s, want one directory below /tmp", long, dir)
	}
	if dir == bellsDir(long+"x") {
		t.Error("two files have one directory")
	}
}

func TestBellsBelowTmpHangOnlyInAPrivateDirectory(t *testing.T) {
	parent := t.TempDir()
	if err := os.Chmod(parent, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := private(parent, "/elsewhere/store.db"); err != nil {
		t.Errorf("a directory of ours alone: %v", err)
	}
	if err := os.Chmod(parent, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := private(parent, "/elsewhere/store.db"); err == nil {
		t.Error("a directory that others may read was taken")
	}
	if err := private(parent, filepath.Join(parent, "store.db")); err != nil {
		t.Errorf("the store's own directory: %v", err)
	}
}

func TestClosingLeavesNoBells(t *testing.T) {
	db := open(t, file(t))
	dir := db.bells.dir
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is left (%v)", dir, err)
	}
}
