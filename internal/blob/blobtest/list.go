package blobtest

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"modulate/internal/blob"
	"modulate/internal/promise"
)

// tricky are keys that a careless path or order confuses.
func tricky() []string {
	long := strings.Repeat("a", 900)
	all := []string{
		"log/p/1/stdout/00000000000000000000", "log/p/1/stdout/00000000000000000512",
		"log/p/10/stdout/00000000000000000000", "log/p.1/1/stdout/00000000000000000000",
		"log/P/1/stdout/00000000000000000000", "log/" + long + "/1/stdout/0", "log/" + long + "a/1/stdout/0",
		"out/" + strings.ToUpper(long), "out/" + long, "out/" + long[:200], "out/" + long[:200] + "/x", "out/" + long[:201],
	}
	for _, name := range []string{
		"a", "A", "a/b", "a/B", "a/b/c", "a.b", "a.b/c", "a-b", "a0", "a+", "a~", "a%2f", "^a", "aa",
		"x/.", "x/..", "x/...", "x/.y", "ü", "con", "a b", "a\nb",
	} {
		all = append(all, name, "out/p/"+name)
	}
	return all
}

func list(t *testing.T, b blob.Blobs) {
	all := tricky()
	for i, key := range all {
		put(t, b, key, strings.Repeat("x", i))
	}
	prefixes := append(tricky(), "log/p/", "log/p/1", "log/p/1/", "log/p/1/stdout/", "log/p/1/stdout/000",
		"out/p/", "out/p/x/", "out/p/nothing", "nothing/p/", "a/b/c/d", "a/b/", "log/"+strings.Repeat("a", 900)+"/")
	for _, prefix := range prefixes {
		if !listable(prefix) {
			continue
		}
		var want []string
		for _, key := range all {
			if strings.HasPrefix(key, prefix) {
				want = append(want, key)
			}
		}
		slices.Sort(want)
		if got := keys(t, b, prefix); !slices.Equal(got, want) {
			t.Errorf("List(%q)\n got %q\nwant %q", prefix, got, want)
		}
	}
	infos, err := b.List(t.Context(), "out/p/")
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range infos {
		if want := int64(slices.Index(all, i.Key)); i.Size != want || i.Written == 0 {
			t.Errorf("List: %+v, want size %d", i, want)
		}
	}
}

func listLog(t *testing.T, b blob.Blobs) {
	offsets := []int64{0, 9, 10, 99, 1 << 20, 1 << 40}
	for _, o := range []int64{3, 5, 1, 0, 4, 2} {
		put(t, b, blob.LogKey("p", 1, "stdout", offsets[o]), "x")
		put(t, b, blob.LogKey("p", 1, "stderr", offsets[o]), "y")
	}
	got := keys(t, b, blob.LogPrefix("p", 1, "stdout"))
	for i, o := range offsets {
		if i >= len(got) || got[i] != blob.LogKey("p", 1, "stdout", o) {
			t.Fatalf("chunks %q, want those of %d in order", got, offsets)
		}
	}
}

func keysStayApart(t *testing.T, b blob.Blobs) {
	for _, key := range tricky() {
		put(t, b, key, "content of "+key)
	}
	for _, key := range tricky() {
		if got := get(t, b, key, 0); got != "content of "+key {
			t.Errorf("%q holds %q", key, got)
		}
	}
}

// model compares random operations with a map.
func (m Medium) model(t *testing.T, b blob.Blobs) {
	rnd := rand.New(rand.NewPCG(1, 2))
	all := tricky()
	want := map[string]string{}
	for range 300 {
		key := all[rnd.IntN(len(all))]
		switch rnd.IntN(4) {
		case 0:
			want[key] = "content of " + key
			put(t, b, key, want[key])
		case 1:
			if body, ok := want[key]; !ok {
				absent(t, b, key)
			} else if got := get(t, b, key, 3); got != body[3:] {
				t.Fatalf("%q from 3 on is %q, want %q", key, got, body[3:])
			}
		case 2:
			prefix := key[:rnd.IntN(len(key)+1)]
			if !listable(prefix) {
				continue
			}
			var held []string
			for k := range want {
				if strings.HasPrefix(k, prefix) {
					held = append(held, k)
				}
			}
			slices.Sort(held)
			if got := keys(t, b, prefix); !slices.Equal(got, held) {
				t.Fatalf("List(%q)\n got %q\nwant %q", prefix, got, held)
			}
		case 3:
			if !m.Expires && rnd.IntN(20) == 0 {
				n, err := b.Collect(t.Context(), promise.TimeOf(time.Now())+1)
				if n != len(want) || err != nil {
					t.Fatalf("Collect = %d, %v, want %d", n, err, len(want))
				}
				clear(want)
			}
		}
	}
}
