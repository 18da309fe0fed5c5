package modulate_test

import (
	"go/ast"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The sizes beyond which something is to be cut in two. They stand a little
// above the aim (400, 40, 4), so that a breach is a design question.
const (
	maxFileLines  = 450
	maxFuncLines  = 60
	maxParameters = 5
	maxMethods    = 7 // of an interface
)

// nouns that say nothing.
var emptyNames = []string{"util", "utils", "common", "types", "models", "pkg", "helpers", "misc", "shared"}

func TestPackagesAreNamedAndDescribed(t *testing.T) {
	described, seen := map[string]bool{}, map[string]bool{}
	for _, src := range sources(t) {
		name := strings.TrimSuffix(src.file.Name.Name, "_test")
		if slices.Contains(emptyNames, name) || slices.Contains(emptyNames, path.Base(src.pkg)) {
			t.Errorf("%s: %q is no noun", src.path, name)
		}
		seen[src.pkg] = seen[src.pkg] || !src.test
		if doc := src.file.Doc; doc != nil && regexp.MustCompile(`^(Package|Command) \w+`).MatchString(doc.Text()) {
			described[src.pkg] = true
		}
	}
	for pkg := range seen {
		if !described[pkg] {
			t.Errorf("package %s has no comment", pkg)
		}
	}
}

func TestSizes(t *testing.T) {
	for _, src := range sources(t) {
		if n := src.fset.Position(src.file.End()).Line; !src.forTests() && n > maxFileLines {
			t.Errorf("%s has %d lines, more than %d", src.path, n, maxFileLines)
		}
		ast.Inspect(src.file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				src.checkFunc(t, n)
			case *ast.InterfaceType:
				if n.Methods.NumFields() > maxMethods {
					t.Errorf("%s: an interface of %d methods", src.fset.Position(n.Pos()), n.Methods.NumFields())
				}
			}
			return true
		})
	}
}

func (s source) checkFunc(t *testing.T, f *ast.FuncDecl) {
	at := s.fset.Position(f.Pos())
	if f.Name.Name == "init" && f.Recv == nil {
		t.Errorf("%s: func init; make what it sets up a value that is passed", at)
	}
	if s.forTests() {
		return
	}
	if n := s.fset.Position(f.End()).Line - at.Line + 1; n > maxFuncLines {
		t.Errorf("%s: %s has %d lines, more than %d", at, f.Name.Name, n, maxFuncLines)
	}
	if n := f.Type.Params.NumFields(); n > maxParameters {
		t.Errorf("%s: %s takes %d parameters, more than %d", at, f.Name.Name, n, maxParameters)
	}
}

// forTests reports whether only tests use the file: its own package's, or a
// suite's.
func (s source) forTests() bool { return s.test || strings.HasSuffix(path.Base(s.pkg), "test") }

// TestCalls keeps what ends the process or reads its surroundings in main.go,
// and waiting for time to pass out of tests.
func TestCalls(t *testing.T) {
	onlyMain := map[string][]string{
		"os":  {"Exit", "Getenv", "LookupEnv", "Environ"},
		"log": {"Fatal", "Fatalf", "Fatalln"},
	}
	for _, src := range sources(t) {
		virtual := slices.Contains(src.imports(), "testing/synctest") // there a sleep takes no time
		for _, at := range src.uses("time", "Sleep") {
			if src.forTests() && !virtual {
				t.Errorf("%s: time.Sleep; wait for a signal, or in testing/synctest", at)
			}
		}
		if src.test || path.Base(src.path) == "main.go" {
			continue
		}
		for pkg, names := range onlyMain {
			for _, name := range names {
				for _, at := range src.uses(pkg, name) {
					t.Errorf("%s: %s.%s outside main.go", at, pkg, name)
				}
			}
		}
	}
}

func TestNothingIsLeftForLater(t *testing.T) {
	later := regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|X` + `XX|HACK)\b`)
	for _, src := range sources(t) {
		for _, group := range src.file.Comments {
			if word := later.FindString(group.Text()); word != "" {
				t.Errorf("%s: %s", src.fset.Position(group.Pos()), word)
			}
		}
	}
}
