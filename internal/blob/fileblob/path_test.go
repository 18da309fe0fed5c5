package fileblob

import (
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestKeyPath(t *testing.T) {
	long := strings.Repeat("a", 300)
	for key, want := range map[string]string{
		"sha256/0f":         "sha256/0f~",
		"log/Ab.1/2/stdout": "log/^ab.1/2/stdout~",
		"a":                 "a~",
		"a/b":               "a/b~",
		"a//b":              "a/%/b~",
		"a/":                "a/~",
		"../../x":           "%2e./%2e./x~",
		"x/.":               "x/%2e~",
		"/etc":              "%/etc~",
		"a+~%":              "a%2b%7e%25~",
		"ü":                 "%c3%bc~",
		long:                long[:200] + "+/" + long[:100] + "~",
		long + "/x":         long[:200] + "+/" + long[:100] + "/x~",
		long[:200] + "..":   long[:200] + "+/%2e.~",
	} {
		if got, err := keyPath(key); got != want || err != nil {
			t.Errorf("keyPath(%q) = %q, %v, want %q", key, got, err, want)
		}
	}
	for _, key := range []string{"", strings.Repeat("a", maxKey+1)} {
		if got, err := keyPath(key); err == nil {
			t.Errorf("keyPath of %d bytes = %q, want an error", len(key), got)
		}
	}
}

// No two keys share a path, whatever the file system thinks of case, and no
// path leaves the root or exceeds a name's length.
func TestKeyPathProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		alphabet := rapid.SampledFrom([]string{"a", "b", "A", "B", ".", "/", "%", "~", "+", "^", "2", "e", "\x00", "ß", strings.Repeat("x", 99)})
		gen := rapid.Map(rapid.SliceOfN(alphabet, 1, 12), func(s []string) string { return strings.Join(s, "") })
		a, b := gen.Draw(t, "a"), gen.Draw(t, "b")
		pa, err := keyPath(a)
		if err != nil {
			t.Fatal(err)
		}
		pb, err := keyPath(b)
		if err != nil {
			t.Fatal(err)
		}
		if strings.EqualFold(pa, pb) != (a == b) {
			t.Fatalf("%q and %q: %s and %s", a, b, pa, pb)
		}
		if !filepath.IsLocal(pa) || filepath.Clean(pa) != pa {
			t.Fatalf("%q: %s", a, pa)
		}
		var key string
		for _, entry := range strings.Split(pa, "/") {
			n, ok := parseName(entry)
			if !ok || len(entry) > maxPiece+1 {
				t.Fatalf("%q: %s: bad name %s", a, pa, entry)
			}
			key += n.text
			if n.whole && !n.file {
				key += "/"
			}
		}
		if key != a {
			t.Fatalf("%q came back as %q from %s", a, key, pa)
		}
	})
}
