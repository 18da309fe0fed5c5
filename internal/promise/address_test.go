package promise

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestAddresses(t *testing.T) {
	for s, want := range map[string]Address{
		"poll://any@gpu":      {Group: "gpu"},
		"poll://any@gpu/w":    {Group: "gpu", ID: "w"},
		"poll://uni@gpu/w":    {Group: "gpu", ID: "w", Only: true},
		"poll://any@a%20b":    {Group: "a b"},
		"poll://uni@gpu":      {},
		"poll://any@":         {},
		"poll://some@gpu":     {},
		"poll://any@gpu/w/x":  {},
		"http://example.com/": {},
		"":                    {},

		"poll://uni@g/" + strings.Repeat("x", maxAddress): {},
	} {
		if got, ok := ParseAddress(s); ok != (want != Address{}) || ok && got != want {
			t.Errorf("%q: %+v, %v", s, got, ok)
		}
	}
}

// TestListenersAreBounded: the record of a promise does not grow with every
// process that ever waited for it.
func TestListenersAreBounded(t *testing.T) {
	rec := stepped(t, Record{}, Create{Record: NewRemote("local", "a", 1_000_000, Protocol{})})
	for n := range 3 * MaxListeners {
		rec = stepped(t, rec, Listen{Address: fmt.Sprint("poll://uni@g/", n)})
	}
	has := rec.Protocol.Listeners
	if len(has) != MaxListeners || has[MaxListeners-1] != fmt.Sprint("poll://uni@g/", 3*MaxListeners-1) {
		t.Errorf("%d listeners, the last %s", len(has), has[len(has)-1])
	}
}

// stepped is Step at time 1, of what is not refused.
func stepped(t *testing.T, rec Record, ev Event) Record {
	t.Helper()
	next, _, err := Step(rec, ev, 1)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

// TestFarDeadline: a run's promise that is to live for ever does.
func TestFarDeadline(t *testing.T) {
	if _, _, at := (Schedule{Timeout: math.MaxInt64}).Run(1_700_000_000_000); at != math.MaxInt64 {
		t.Errorf("its deadline is %d", at)
	}
}

// TestStoredIDs: any id can be stored, comes back, and meets no other.
func TestStoredIDs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.StringN(1, 60, 200).Draw(t, "id")
		stored := EncodeID(id)
		if !ValidStoredID(stored) || DecodeID(stored) != id {
			t.Fatalf("%q is stored as %q and comes back as %q", id, stored, DecodeID(stored))
		}
		if ValidAnyID(id) && stored != id {
			t.Fatalf("%q is stored as %q", id, stored)
		}
	})
	for _, id := range []string{"", ".a", ":a", "a/b", "#worker", "ä"} {
		if ValidStoredID(id) {
			t.Errorf("%q may not name a record", id)
		}
	}
	if OriginOf("a.1:b") != "a.1" || OriginOf("a.1.2") != "a" || OriginOf("a") != "a" {
		t.Errorf("origins: %q %q", OriginOf("a.1:b"), OriginOf("a.1.2"))
	}
}
