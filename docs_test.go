package modulate_test

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"regexp"
	"strings"
	"testing"
)

// TestDocsNameWhatExists fails when a document names a file or a package of
// the tree that is not there (any more).
func TestDocsNameWhatExists(t *testing.T) {
	for _, doc := range walk(t, ".md") {
		text, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range namedPaths(string(text)) {
			if !exists(t, name) && !exists(t, path.Join(path.Dir(doc), name)) {
				t.Errorf("%s names %s, which does not exist", doc, name)
			}
		}
	}
}

var (
	// inTree is a path below one of the directories at the top, or a Go file.
	inTree = regexp.MustCompile(`^(?:\./)?(?:(?:functions|workerd|cmd|internal|infra|localstack|bench|examples|docs|\.ci)/[\w./-]+|[\w./-]+\.(?:go|md))$`)
	// quoted is what stands in backquotes, and linked the target of a link.
	quoted = regexp.MustCompile("`([^`\n]+)`")
	linked = regexp.MustCompile(`\]\(([^)#\s]+)`)
	// bold is a package that a list of packages starts with.
	bold = regexp.MustCompile(`\*\*([^*\n]+)\*\*`)
)

// namedPaths returns the paths of the tree that a document names: in
// backquotes (a command's arguments too), in bold, and as targets of links.
func namedPaths(text string) (names []string) {
	for _, re := range []*regexp.Regexp{quoted, linked, bold} {
		for _, m := range re.FindAllStringSubmatch(text, -1) {
			for word := range strings.FieldsSeq(m[1]) {
				word = strings.TrimSuffix(strings.TrimSuffix(word, "/..."), "/")
				if inTree.MatchString(word) && !strings.Contains(word, "...") {
					names = append(names, word)
				}
			}
		}
	}
	return names
}

func exists(t *testing.T, name string) bool {
	t.Helper()
	_, err := os.Stat(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

func TestNamedPaths(t *testing.T) {
	text := "See `internal/promise`, `go test ./internal/promise -update`, [the diagram](docs/state_machine.md#x),\n" +
		"**internal/sqlite**, `step.go`, not https://example.com/docs/x.go, nor `POST /v1/promises`, `internal/...`."
	want := "internal/promise ./internal/promise step.go docs/state_machine.md internal/sqlite"
	if got := strings.Join(namedPaths(text), " "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
