package fileblob

import (
	"fmt"
	"path/filepath"
	"strings"
)

// A key becomes a path segment by segment. Lower-case letters, digits and
// "_-." stand for themselves, "^x" for the upper-case X (ids that differ in
// case are two files on a case-insensitive disk too), "%2f" for any other
// byte. A name is cut into pieces of at most [maxPiece] bytes; a piece that
// goes on in the next directory ends in "+", the last piece of a key, a file,
// in "~", so that no key is another's directory. An empty segment is "%".
//
//	sha256/0f…      sha256/0f…~
//	log/Ab.1/2/x    log/^ab.1/2/x~
const (
	maxKey   = 1200 // bytes
	maxPiece = 200  // bytes of a name; file systems take 255
)

// keyPath returns the path, below the blobs' root, of the file of key.
func keyPath(key string) (string, error) {
	if key == "" || len(key) > maxKey {
		return "", fmt.Errorf("a blob's key has 1 to %d bytes, not %d", maxKey, len(key))
	}
	dir, leaf := key[:strings.LastIndexByte(key, '/')+1], key[strings.LastIndexByte(key, '/')+1:]
	return filepath.Join(dirPath(dir), escape(leaf)+"~"), nil
}

// dirPath returns the path of the directory that holds the keys which start
// with prefix, a prefix that is empty or ends in a slash.
func dirPath(prefix string) string {
	if prefix == "" {
		return ""
	}
	segments := strings.Split(strings.TrimSuffix(prefix, "/"), "/")
	for i, s := range segments {
		if segments[i] = escape(s); s == "" {
			segments[i] = "%"
		}
	}
	return filepath.Join(segments...)
}

// escape writes a segment as one piece, or as several with slashes between.
func escape(segment string) string {
	var b strings.Builder
	piece := 0 // bytes in the current one
	for i := range len(segment) {
		unit := escapeByte(segment[i], piece == 0 || piece == maxPiece)
		if piece+len(unit) > maxPiece {
			b.WriteString("+/")
			piece = 0
		}
		b.WriteString(unit)
		piece += len(unit)
	}
	return b.String()
}

// escapeByte escapes one byte; first, it starts a piece, which is then never
// "." or "..".
func escapeByte(c byte, first bool) string {
	switch {
	case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '_', c == '-', c == '.' && !first:
		return string(rune(c))
	case c >= 'A' && c <= 'Z':
		return "^" + string(rune(c-'A'+'a'))
	default:
		return fmt.Sprintf("%%%02x", c)
	}
}

// A name is what a directory entry says about the keys below it.
type name struct {
	text  string // the piece of the segment, unescaped
	whole bool   // the segment ends here
	file  bool   // the key does too
}

// parseName reads an entry's name, and reports whether it may be one of ours;
// [keyPath] of the whole key knows.
func parseName(entry string) (name, bool) {
	n := name{whole: true}
	if entry == "%" {
		return n, true
	}
	if rest, ok := strings.CutSuffix(entry, "~"); ok {
		entry, n.file = rest, true
	} else if rest, ok := strings.CutSuffix(entry, "+"); ok {
		entry, n.whole = rest, false
	}
	var ok bool
	n.text, ok = unescape(entry)
	return n, ok
}

func unescape(s string) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '^' && i+1 < len(s) && s[i+1] >= 'a' && s[i+1] <= 'z':
			b.WriteByte(s[i+1] - 'a' + 'A')
			i++
		case c == '%' && i+2 < len(s):
			hi, lo := strings.IndexByte(hexDigits, s[i+1]), strings.IndexByte(hexDigits, s[i+2])
			if hi < 0 || lo < 0 {
				return "", false
			}
			b.WriteByte(byte(hi<<4 | lo))
			i += 2
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), true
}

const hexDigits = "0123456789abcdef"
