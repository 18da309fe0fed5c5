package main

import (
	"io"
	"os"
	"sync"
	"unicode/utf8"

	"golang.org/x/term"
)

// What the command itself has to say goes to stderr, a line each:
//
//	modulate: error: what is wrong, where
//	modulate: hint: what to do about it
//	modulate: anything else
//
// without capitals at the start or periods at the end. A person who waits at a
// terminal also sees one status line, which makes room for everything else.

// A screen is stderr, and knows where the script's own output stands on the
// same terminal. Its methods may be called from any goroutine.
type screen struct {
	dst      io.Writer
	terminal bool

	mu      sync.Mutex
	status  string // the line shown last, without its newline; "": none
	midline bool   // the last output did not end with a newline
}

func newScreen(stderr io.Writer) *screen {
	return &screen{dst: stderr, terminal: isTerminal(stderr)}
}

// isTerminal reports whether a person reads w as it is written.
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// fail says what f has to say, and returns its code.
func (s *screen) fail(f *failure) int {
	if f.err != nil {
		s.line("error: " + f.err.Error())
	}
	for _, h := range f.hints {
		s.hint(h)
	}
	return f.code
}

func (s *screen) hint(text string) { s.line("hint: " + text) }

// line writes one line of ours.
func (s *screen) line(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.erase()
	if s.midline {
		io.WriteString(s.dst, "\n")
		s.midline = false
	}
	io.WriteString(s.dst, "modulate: "+sanitize(text)+"\n")
}

// setStatus shows text on the status line of a terminal; "" takes it away. It
// is not shown in the middle of a line of output.
func (s *screen) setStatus(text string) {
	if !s.terminal {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	text = clip(sanitize(text), s.width())
	if s.midline || text == s.status {
		return
	}
	s.erase()
	s.status = text
	io.WriteString(s.dst, text)
}

// erase takes the status line away; s.mu is held.
func (s *screen) erase() {
	if s.status != "" {
		io.WriteString(s.dst, "\r\x1b[K")
		s.status = ""
	}
}

// width is how many characters fit on a line of the terminal.
func (s *screen) width() int {
	if f, ok := s.dst.(*os.File); ok {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 1 {
			return w - 1
		}
	}
	return 79
}

func clip(text string, width int) string {
	if utf8.RuneCountInString(text) <= width {
		return text
	}
	return string([]rune(text)[:width])
}

// An output is a stream of the script that passes by a screen: it waits for
// the status line to go away, and tells where it left the cursor.
type output struct {
	*screen
	dst    io.Writer
	shares bool // it ends where the screen's lines do
}

// output returns dst as the place for a script's output. Where that is a
// terminal, it is kept from steering it, unless raw.
func (s *screen) output(dst io.Writer, raw bool) io.Writer {
	o := &output{screen: s, dst: dst, shares: dst == s.dst || isTerminal(dst) && s.terminal}
	if isTerminal(dst) && !raw {
		return newSanitizer(o)
	}
	return o
}

// Write writes p below what is on the screen.
func (o *output) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.shares {
		o.erase()
		o.midline = p[len(p)-1] != '\n'
	}
	return o.dst.Write(p)
}
