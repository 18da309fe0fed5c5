package uv

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// The lines around a script's metadata (PEP 723), and how long one may be.
const (
	begin   = "# /// script"
	end     = "# ///"
	maxLine = 1 << 20
)

// HasBlock reports whether a script has metadata.
func HasBlock(script []byte) bool {
	_, err := find(script)
	return !errors.Is(err, errNone)
}

var errNone = errors.New("it has none")

// find returns the TOML of the script's metadata: the comment lines between the
// first line and the last that may end it.
func find(script []byte) (text string, err error) {
	err = errNone
	var block []string // since begin; nil: outside
	closed := 0        // lines of it before the last end
	finish := func() {
		if closed > 0 {
			if err == nil {
				err = errors.New("there are two blocks # /// script")
				return
			}
			text, err = strings.Join(block[:closed-1], ""), nil
		}
		block, closed = nil, 0
	}
	lines := bufio.NewScanner(bytes.NewReader(script))
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		line := strings.TrimSuffix(lines.Text(), "\r")
		switch {
		case block == nil && line == begin:
			block = []string{}
		case block == nil:
		case line == end:
			closed = len(block) + 1
			block = append(block, "///\n")
		case line == "#" || strings.HasPrefix(line, "# "):
			block = append(block, strings.TrimPrefix(strings.TrimPrefix(line, "#"), " ")+"\n")
		default:
			finish()
		}
		if err != nil && !errors.Is(err, errNone) {
			return "", err
		}
	}
	finish()
	return text, err
}

// metadata is what is taken of a script's block.
type metadata struct {
	Python       string   `toml:"requires-python"`
	Dependencies []string `toml:"dependencies"`
	Tool         struct {
		UV map[string]any `toml:"uv"`
	} `toml:"tool"`
}

// requirement is a name with extras, versions and markers (PEP 508), and not an
// address: what a script names is fetched outside its sandbox, and from the
// machine's package indexes only.
var requirement = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*\s*(\[[A-Za-z0-9,._\s-]*\])?\s*[^@/:\\]*(;.*)?$`)

// read reads a script's block and refuses what is not taken.
func read(script []byte) (m metadata, err error) {
	text, err := find(script)
	if errors.Is(err, errNone) {
		return m, nil
	}
	if err == nil {
		_, err = toml.Decode(text, &m)
	}
	if err != nil {
		return m, fmt.Errorf("its block # /// script cannot be read: %w", err)
	}
	for _, d := range m.Dependencies {
		if !requirement.MatchString(d) {
			return m, fmt.Errorf("its dependency %q is not taken: want a name and versions, as in \"numpy>=2\"; addresses and paths are not followed", d)
		}
	}
	for name := range m.Tool.UV {
		if name != "exclude-newer" {
			return m, fmt.Errorf("its tool.uv.%s is not taken, only exclude-newer: packages come from the indexes that this machine is configured for", name)
		}
	}
	return m, nil
}

// text is m as a block in which equal ones are equal.
func (m metadata) text() string {
	deps := slices.Clone(m.Dependencies)
	slices.Sort(deps)
	var b strings.Builder
	b.WriteString(begin + "\n")
	if m.Python != "" {
		fmt.Fprintf(&b, "# requires-python = %q\n", m.Python)
	}
	b.WriteString("# dependencies = [\n")
	for _, d := range slices.Compact(deps) {
		fmt.Fprintf(&b, "#   %q,\n", d)
	}
	b.WriteString("# ]\n")
	switch newest := m.Tool.UV["exclude-newer"].(type) {
	case nil:
	case time.Time: // written without quotes
		fmt.Fprintf(&b, "# [tool.uv]\n# exclude-newer = %q\n", newest.Format(time.RFC3339))
	default:
		fmt.Fprintf(&b, "# [tool.uv]\n# exclude-newer = %q\n", fmt.Sprint(newest))
	}
	b.WriteString(end + "\n")
	return b.String()
}

// key names the environment of a block.
func (m metadata) key() string { return fmt.Sprintf("%x", sha256.Sum256([]byte(m.text())))[:32] }
