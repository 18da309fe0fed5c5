package promise

import (
	"strings"
	"testing"
)

func TestIDs(t *testing.T) {
	long := strings.Repeat("a", MaxID)
	for _, c := range []struct {
		id       string
		top, any bool
	}{
		{"a", true, true},
		{"01jd3v-x_Y", true, true},
		{long, true, true},
		{long + "a", false, false},
		{"", false, false},
		{"-a", false, false},
		{"_a", false, false},
		{"a b", false, false},
		{"a/b", false, false},
		{"ä", false, false},
		{"a:1", false, false},
		{"a.1", false, true},
		{"a.1.x-y", false, true},
		{"a.", false, false},
		{".1", false, false},
		{"a..1", false, false},
		{"a.-1", false, false},
		{long + strings.Repeat(".1", (MaxChildID-MaxID)/2), false, true},
		{long + strings.Repeat(".1", (MaxChildID-MaxID)/2) + "1", false, false},
		{long + "a.1", false, false},
	} {
		if got := ValidID(c.id); got != c.top {
			t.Errorf("ValidID(%q) = %v", c.id, got)
		}
		if got := ValidAnyID(c.id); got != c.any {
			t.Errorf("ValidAnyID(%q) = %v", c.id, got)
		}
	}
}

func TestChildIDs(t *testing.T) {
	for _, c := range []struct {
		parent, id string
		ok         bool
	}{
		{"a", ChildID("a", 1), true},
		{"a.1", ChildID("a.1", 12), true},
		{"a", "a.x", true},
		{"a", "a.1.2", false}, // not directly
		{"a", "ab.1", false},
		{"a", "a", false},
		{"a", "a.", false},
		{"a", "a:1", false},
	} {
		if got := ValidChildID(c.parent, c.id); got != c.ok {
			t.Errorf("ValidChildID(%q, %q) = %v", c.parent, c.id, got)
		}
	}
}

func TestDetachedIDs(t *testing.T) {
	if got, want := DetachedID("a", 1), "detached_a_1"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	// "a.1" and "a_1" must not meet, nor must two that are cut alike.
	long := strings.Repeat("a", MaxID)
	seen := map[string]string{}
	for _, parent := range []string{"a.1", "a_1", "a.1.2", "a.1_2", "a_1.2", long, long + ".1", long + ".2"} {
		for n := 1; n <= 20; n++ {
			id := DetachedID(parent, n)
			if !ValidID(id) {
				t.Errorf("DetachedID(%q, %d) = %q is no id of its own", parent, n, id)
			}
			if other := seen[id]; other != "" {
				t.Errorf("%s and %s share %s", parent, other, id)
			}
			seen[id] = parent
			if strings.ContainsAny(parent, ".:") || len(parent) > 100 {
				if i := strings.LastIndexByte(id, '_'); len(id)-i != 17 {
					t.Errorf("%s does not end in 16 digits", id)
				}
			}
		}
	}
}

// FuzzIDs looks for an id that is accepted and not made of what ids are made
// of, and for a child's id that its parent would not recognise.
func FuzzIDs(f *testing.F) {
	for _, id := range []string{"", "a", "a.1", "a..1", "detached_a_1", "A-b_9.x", strings.Repeat("a", MaxID), "a\x00"} {
		f.Add(id)
	}
	const segment = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"
	f.Fuzz(func(t *testing.T, id string) {
		if ValidID(id) && !ValidAnyID(id) {
			t.Errorf("%q is a top-level id and none", id)
		}
		if !ValidAnyID(id) {
			return
		}
		for part := range strings.SplitSeq(id, ".") {
			if part == "" || strings.Trim(part, segment) != "" || strings.ContainsAny(part[:1], "_-") {
				t.Errorf("%q is accepted", id)
			}
		}
		if child := ChildID(id, 7); len(child) <= MaxChildID && !ValidChildID(id, child) {
			t.Errorf("%q is no child of %q", child, id)
		}
		if !ValidID(DetachedID(id, 7)) {
			t.Errorf("DetachedID(%q, 7) = %q", id, DetachedID(id, 7))
		}
	})
}

func TestMachines(t *testing.T) {
	for name, ok := range map[string]bool{
		"cpu": true, "gpu-a100": true, "a": true, strings.Repeat("a", 40): true,
		"": false, "1a": false, "-a": false, "GPU": false, "a_b": false, "a.b": false, strings.Repeat("a", 41): false,
	} {
		if got := ValidMachine(name); got != ok {
			t.Errorf("ValidMachine(%q) = %v", name, got)
		}
	}
}

// TestNames reads back every name that is written.
func TestNames(t *testing.T) {
	for s := Pending; s <= TimedOut; s++ {
		if got, ok := ParseState(s.String()); !ok || got != s {
			t.Errorf("%v reads back as %v, %v", s, got, ok)
		}
	}
	for p := Never; p <= Exponential; p++ {
		if got, ok := ParsePolicy(p.String()); !ok || got != p {
			t.Errorf("%v reads back as %v, %v", p, got, ok)
		}
	}
	n, h := Nonce{1, 0xfe}, Hash{2, 0xfd}
	if got, err := ParseNonce(n.String()); err != nil || got != n {
		t.Errorf("%v reads back as %v, %v", n, got, err)
	}
	if got, err := ParseHash(h.String()); err != nil || got != h {
		t.Errorf("%v reads back as %v, %v", h, got, err)
	}
	for _, bad := range []string{"", "xx", strings.Repeat("x", 32), strings.Repeat("x", 64), strings.Repeat("0", 33)} {
		if _, err := ParseNonce(bad); err == nil {
			t.Errorf("%q is read as a nonce", bad)
		}
		if _, err := ParseHash(bad); err == nil {
			t.Errorf("%q is read as a hash", bad)
		}
	}
	if _, ok := ParseState("done"); ok {
		t.Error("there is a state named done")
	}
}
