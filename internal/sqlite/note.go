package sqlite

import (
	"bytes"
	"strconv"
)

// A Kind says what a Note is about.
type Kind byte

// The kinds of notes. In a datagram a note is one line: the kind, the time in
// milliseconds, the name.
const (
	Promise    Kind = 'p' // the record of the promise Name changed; At: when it ended, 0 while it is pending
	Machine    Kind = 'm' // a message of machine Name may be visible from At on
	Followed   Kind = 'f' // the output of the promise Name is followed until At
	Everything Kind = '*' // anything may have changed: notes were lost, or a peer is new
	hello      Kind = 'h' // the process behind the socket Name is new
)

// A Note says what a commit changed.
type Note struct {
	Kind Kind
	Name string
	At   int64 // milliseconds since the Unix epoch
}

// append adds n to a datagram.
func (n Note) append(b []byte) []byte {
	b = append(b, byte(n.Kind))
	b = strconv.AppendInt(b, n.At, 10)
	b = append(b, ' ')
	b = append(b, n.Name...)
	return append(b, '\n')
}

// parse calls each with the notes in a datagram. Lines that are no notes are
// a newer peer's.
func parse(b []byte, each func(Note)) {
	for line := range bytes.Lines(b) {
		line = bytes.TrimSuffix(line, []byte("\n"))
		at, name, ok := bytes.Cut(line[min(1, len(line)):], []byte(" "))
		ms, err := strconv.ParseInt(string(at), 10, 64)
		if ok && err == nil {
			each(Note{Kind: Kind(line[0]), Name: string(name), At: ms})
		}
	}
}
