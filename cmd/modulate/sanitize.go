package main

import (
	"io"
	"unicode/utf8"
)

// A sanitizer passes text on to a terminal without anything that a terminal
// would obey: no C0 but newline and tab, no DEL, no C1, no escape sequence
// (CSI, OSC, DCS, SOS, PM, APC and the two-character ones), no control of the
// writing direction, and U+FFFD for what is not UTF-8. A carriage return that
// no newline follows becomes a newline, so that progress bars stay readable.
//
// Sequences and characters may be split over any number of writes. A string
// that its writer never ends is ended by the line: the terminal has not seen
// its start, and the rest of the output is to be seen.
type sanitizer struct {
	dst     io.Writer
	state   escape
	cr      bool   // a carriage return is held back
	partial []byte // the start of a character, less than utf8.UTFMax bytes
	out     []byte // what this write passes on
}

// escape is where a sanitizer stands in an escape sequence.
type escape uint8

const (
	ground  escape = iota
	escaped        // after ESC
	charset        // after ESC and an intermediate: a final ends it
	control        // in CSI: parameters, then a final
	text           // in OSC, DCS, SOS, PM or APC: until ST, BEL or the line's end
)

func newSanitizer(dst io.Writer) *sanitizer { return &sanitizer{dst: dst} }

// Write passes on what is harmless of p. It reports all of p as written.
func (s *sanitizer) Write(p []byte) (int, error) {
	s.out = s.out[:0]
	src := p
	if len(s.partial) > 0 {
		src = append(s.partial, p...)
		s.partial = nil
	}
	for len(src) > 0 {
		r, size := rune(src[0]), 1
		if r >= utf8.RuneSelf {
			if !utf8.FullRune(src) {
				s.partial = append([]byte(nil), src...)
				break
			}
			r, size = utf8.DecodeRune(src)
		}
		s.next(r)
		src = src[size:]
	}
	if err := s.flush(); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close ends the text: the start of a character that never came is shown as
// what is not UTF-8. It leaves the terminal's own writer open.
func (s *sanitizer) Close() error {
	s.out = s.out[:0]
	if len(s.partial) > 0 {
		s.partial = nil
		s.next(utf8.RuneError)
	}
	return s.flush()
}

func (s *sanitizer) flush() error {
	if len(s.out) == 0 {
		return nil
	}
	_, err := s.dst.Write(s.out)
	return err
}

// next takes one character.
func (s *sanitizer) next(r rune) {
	switch {
	case r == 0x18 || r == 0x1a: // CAN and SUB end any sequence
		s.state = ground
		return
	case r == 0x1b: // ends a string, too: ST is ESC and a backslash
		s.state = escaped
		return
	}
	switch s.state {
	case ground:
		s.plain(r)
	case escaped:
		s.introduce(r)
	case charset:
		if r < 0x20 || r > 0x2f { // intermediates may be many
			s.end(r)
		}
	case control:
		if r < 0x20 || r > 0x3f { // parameters and intermediates
			s.end(r)
		}
	case text:
		s.inText(r)
	}
}

// introduce takes what follows ESC.
func (s *sanitizer) introduce(r rune) {
	switch {
	case r == '[':
		s.state = control
	case r == ']' || r == 'P' || r == 'X' || r == '^' || r == '_':
		s.state = text
	case r >= 0x20 && r <= 0x2f:
		s.state = charset
	default:
		s.end(r)
	}
}

// end takes the character that ends a sequence: its final one is dropped with
// it, anything else was not meant for it.
func (s *sanitizer) end(r rune) {
	s.state = ground
	if r < 0x20 || r > 0x7e {
		s.plain(r)
	}
}

func (s *sanitizer) inText(r rune) {
	switch r {
	case 0x07, 0x9c: // BEL, ST
		s.state = ground
	case '\n':
		s.state = ground
		s.plain(r)
	}
}

// plain takes a character outside any sequence.
func (s *sanitizer) plain(r rune) {
	if s.cr {
		s.cr = false
		s.out = append(s.out, '\n')
		if r == '\n' {
			return
		}
	}
	switch {
	case r == '\r':
		s.cr = true
	case r == 0x9b:
		s.state = control
	case r == 0x90 || r == 0x98 || r >= 0x9d && r <= 0x9f:
		s.state = text
	case !obeyed(r):
		s.out = utf8.AppendRune(s.out, r)
	}
}

// obeyed reports whether a terminal obeys r instead of showing it: C0 but
// newline and tab, DEL, C1, and the controls of the writing direction
// (Unicode's Bidi_Control).
func obeyed(r rune) bool {
	switch {
	case r == '\n' || r == '\t':
		return false
	case r < 0x20, r >= 0x7f && r <= 0x9f:
		return true
	case r == 0x061c, r == 0x200e, r == 0x200f:
		return true
	default:
		return r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069
	}
}

// sanitize returns s fit for one line of a terminal: what a script or a name
// brought in cannot steer it, and newlines and tabs are spaces.
func sanitize(s string) string {
	var line lineWriter
	clean := newSanitizer(&line)
	clean.Write([]byte(s)) // a lineWriter never fails
	clean.Close()
	return string(line)
}

// A lineWriter collects text with spaces for newlines and tabs.
type lineWriter []byte

func (l *lineWriter) Write(p []byte) (int, error) {
	for _, b := range p {
		if b == '\n' || b == '\t' {
			b = ' '
		}
		*l = append(*l, b)
	}
	return len(p), nil
}
