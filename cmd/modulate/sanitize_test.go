package main

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"
)

// clean returns what a sanitizer makes of the parts, written one by one.
func clean(t testing.TB, parts ...string) string {
	t.Helper()
	var out bytes.Buffer
	s := newSanitizer(&out)
	for _, part := range parts {
		if n, err := s.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatalf("Write(%q) = %d, %v", part, n, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestSanitizer(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"plain":             {"a\tb\nc", "a\tb\nc"},
		"other alphabets":   {"déjà vu → 日本語 🙂", "déjà vu → 日本語 🙂"},
		"colour":            {"\x1b[1;31mred\x1b[0m", "red"},
		"cursor":            {"a\x1b[2J\x1b[1;1Hb", "ab"},
		"title":             {"a\x1b]0;owned\x07b", "ab"},
		"title by ST":       {"a\x1b]0;owned\x1b\\b", "ab"},
		"link":              {"\x1b]8;;http://x\x1b\\text\x1b]8;;\x1b\\", "text"},
		"DCS":               {"a\x1bP1$r0m\x1b\\b", "ab"},
		"APC, PM, SOS":      {"a\x1b_x\x1b\\b\x1b^x\x1b\\c\x1bXx\x1b\\d", "abcd"},
		"C1 CSI":            {"a\u009b31mb", "ab"},
		"C1 OSC":            {"a\u009d0;t\u009cb", "ab"},
		"C1 others":         {"a\u0085\u0084b", "ab"},
		"raw C1":            {"a\x9b31mb", "a\ufffd31mb"},
		"charset":           {"a\x1b(0b\x1b)Bc", "abc"},
		"reset":             {"a\x1bcb", "ab"},
		"save, restore":     {"a\x1b7b\x1b8c", "abc"},
		"bell, backspace":   {"a\x07\x08b\x7fc", "abc"},
		"carriage return":   {"50%\r100%\r\ndone\r\n", "50%\n100%\ndone\n"},
		"unended string":    {"a\x1b]0;forged\nrest", "a\nrest"},
		"ESC in CSI":        {"a\x1b[1\x1b[31mb", "ab"},
		"CAN in CSI":        {"a\x1b[1\x18b", "ab"},
		"newline in CSI":    {"a\x1b[1\nb", "a\nb"},
		"bidi":              {"a\u202eb\u2066c\u200fd\u061ce", "abcde"},
		"broken UTF-8":      {"a\xffb\xc3", "a\ufffdb\ufffd"},
		"ESC at the end":    {"a\x1b", "a"},
		"ESC ESC":           {"a\x1b\x1b[31mb", "ab"},
		"wide after ESC":    {"a\x1bé", "aé"},
		"intermediate, CSI": {"a\x1b[!pb\x1b[?25lc", "abc"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := clean(t, c.in); got != c.want {
				t.Errorf("%q becomes %q, want %q", c.in, got, c.want)
			}
			if got := clean(t, strings.Split(c.in, "")...); got != c.want {
				t.Errorf("%q in characters becomes %q, want %q", c.in, got, c.want)
			}
			var bytewise []string
			for i := range len(c.in) {
				bytewise = append(bytewise, c.in[i:i+1])
			}
			if got := clean(t, bytewise...); got != c.want {
				t.Errorf("%q in bytes becomes %q, want %q", c.in, got, c.want)
			}
		})
	}
}

func TestSanitizeIsOneLine(t *testing.T) {
	if got, want := sanitize("a\nb\t\x1b[31mc\r"), "a b c"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// FuzzSanitizer asks of any output, split anywhere: nothing is left that a
// terminal obeys, the split does not matter, and clean text stays as it is.
func FuzzSanitizer(f *testing.F) {
	for _, s := range []string{
		"", "plain\n", "\x1b[31mred\x1b[0m", "\x1b]0;t\x07", "\x1bPq\x1b\\", "\u009b1m", "\xc2", "\xc2\x9b",
		"\u202eevil", "\r\n\r", "\x1b\x1b]\x1b\x1b\\", "\x1b(\x1b[", "\x18\x1a\x1b_", "日本語",
	} {
		f.Add([]byte(s), uint(len(s)/2))
	}
	f.Fuzz(func(t *testing.T, in []byte, cut uint) {
		cut = min(cut, uint(len(in)))
		whole := clean(t, string(in))
		if parts := clean(t, string(in[:cut]), string(in[cut:])); parts != whole {
			t.Fatalf("%q becomes %q, cut at %d %q", in, whole, cut, parts)
		}
		if !utf8.ValidString(whole) {
			t.Fatalf("%q becomes %q, which is not UTF-8", in, whole)
		}
		for _, r := range whole {
			if obeyed(r) {
				t.Fatalf("%q becomes %q, which holds %U", in, whole, r)
			}
		}
		if again := clean(t, whole); again != whole {
			t.Fatalf("%q becomes %q and then %q", in, whole, again)
		}
	})
}
