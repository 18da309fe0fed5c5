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
	// tree is a line of a drawing of the tree.
	tree = regexp.MustCompile(`(?m)^    (\S+/) `)
)

// namedPaths returns the paths of the tree that a document names: in
// backquotes (a command's arguments too), in bold, as targets of links, and
// where it draws the tree.
func namedPaths(text string) (names []string) {
	for _, re := range []*regexp.Regexp{quoted, linked, bold, tree} {
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

// TestReadmeDrawsTheTree wants every package in README, by its path or, beside
// its parent's, by its name.
func TestReadmeDrawsTheTree(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{".": true}
	for _, src := range sources(t) {
		if seen[src.pkg] {
			continue
		}
		seen[src.pkg] = true
		if !strings.Contains(string(text), src.pkg+"/") && !strings.Contains(string(text), " "+path.Base(src.pkg)+"/") {
			t.Errorf("README.md does not name package %s", src.pkg)
		}
	}
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
		"**internal/sqlite**, `step.go`,\n    internal/engine/   the shell\n not https://example.com/docs/x.go, nor `POST /v1/promises`, `internal/...`."
	want := "internal/promise ./internal/promise step.go docs/state_machine.md internal/sqlite internal/engine"
	if got := strings.Join(namedPaths(text), " "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestGuaranteesHaveTheirTests wants every guarantee of README to name tests,
// and every test that it names to be there.
func TestGuaranteesHaveTheirTests(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(readme), "## Guarantees")
	list, _, _ = strings.Cut(list, "They hold for")
	var tests strings.Builder
	for _, file := range walk(t, "_test.go") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		tests.Write(text)
	}
	items := regexp.MustCompile(`(?m)^[1-7]\. `).Split(list, -1)[1:]
	if len(items) != 7 {
		t.Fatalf("README has %d guarantees, want the 7 of the design", len(items))
	}
	for i, item := range items {
		named := regexp.MustCompile("`(Test[A-Za-z]+)`").FindAllStringSubmatch(item, -1)
		if len(named) == 0 {
			t.Errorf("guarantee %d names no test", i+1)
		}
		for _, m := range named {
			if !strings.Contains(tests.String(), "func "+m[1]+"(") {
				t.Errorf("guarantee %d names %s, which does not exist", i+1, m[1])
			}
		}
	}
}
