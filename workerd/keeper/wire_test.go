//go:build linux

package keeper

import (
	"bytes"
	"reflect"
	"testing"
	"time"
)

// What is packed is what is unpacked, and what is cut off is refused.
func TestWire(t *testing.T) {
	start := Start{
		Path: "/bin/sh", Forked: 2, Argv: []string{"sh", "", "a b"}, Env: []string{"A=1"}, Dir: "/tmp", Stdin: true, Stderr: true,
		Timeout: time.Hour, Grace: time.Second, Until: 1 << 60, Mortal: true,
	}
	exit := Exit{
		End: LeaseOver, Status: 9, Errno: 2, Wall: 1, CPU: 2, MaxRSS: 1 << 40, Stdout: 1 << 50, Stderr: 3, Trouble: "disk full",
	}
	hello := Hello{Busy: true, Stdin: 1 << 40, Feed: true}
	type message interface {
		pack() []byte
		unpack([]byte) error
	}
	for _, c := range [][2]message{{&start, &Start{}}, {&exit, &Exit{}}, {&hello, &Hello{}}} {
		body := c[0].pack()
		if err := c[1].unpack(body); err != nil || !reflect.DeepEqual(c[0], c[1]) {
			t.Errorf("%+v came back as %+v, %v", c[0], c[1], err)
		}
		for n := range body {
			if c[1].unpack(body[:n]) == nil {
				t.Errorf("%d of the %d bytes of %T pass", n, len(body), c[0])
			}
		}
	}
}

// A byte of a stream has one place, and the last ring bytes have different
// ones.
func TestPlace(t *testing.T) {
	for _, at := range []int64{0, Half - 1, Half, Half + 5, Half + ring - 1, Half + ring, Half + 3*ring + 7} {
		offset, room := place(at)
		if next, _ := place(at + 1); room > 1 && next != offset+1 || room < 1 {
			t.Errorf("byte %d is at %d with room for %d, the next one at %d", at, offset, room, next)
		}
		if again, _ := place(at + ring); at >= Half && again != offset {
			t.Errorf("byte %d is not where byte %d was", at+ring, at)
		}
		if offset >= Half+ring {
			t.Errorf("byte %d is at %d, beyond the file", at, offset)
		}
	}
}

// What was not written whole is not taken for whole.
func TestSealed(t *testing.T) {
	note := []byte("a note")
	whole := sealed(note)
	if got := unsealed(append(whole, "what stood there before"...)); !bytes.Equal(got, note) {
		t.Errorf("got %q", got)
	}
	for n := range whole {
		if got := unsealed(whole[:n]); got != nil {
			t.Errorf("%d bytes give %q", n, got)
		}
	}
	whole[9]++
	if got := unsealed(whole); got != nil {
		t.Errorf("another byte gives %q", got)
	}
}

// Whatever comes over the wire is a frame, not whole, or refused.
func FuzzFrame(f *testing.F) {
	f.Add(appendFrame(appendFrame(nil, kindDone, nil), kindStop, []byte{1}))
	f.Add([]byte{255, 255, 255, 255, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		for {
			kind, body, rest, ok, err := cutFrame(b)
			if err != nil || !ok {
				return
			}
			if again := appendFrame(nil, kind, body); !bytes.Equal(again, b[:len(b)-len(rest)]) {
				t.Fatalf("%q is not what was read", again)
			}
			(&Start{}).unpack(body)
			(&Exit{}).unpack(body)
			(&Hello{}).unpack(body)
			b = rest
		}
	})
}
