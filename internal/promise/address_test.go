package promise

import (
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
	} {
		if got, ok := ParseAddress(s); ok != (want != Address{}) || ok && got != want {
			t.Errorf("%q: %+v, %v", s, got, ok)
		}
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
