// Package modulate_test holds what is true of the whole tree: who may import
// whom, how sources are written, and that the documents name what exists. The
// tests read the files themselves, so that the test cache sees every change.
package modulate_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "modulate/"

// A rule says what the files of one package may import besides the standard
// library: packages of ours, without the module's name, and modules of others
// with all that is below them. Test files may also import anything of ours and
// the testing libraries.
type rule struct {
	ours   []string
	others []string
}

// ports are the packages that everything but the adapters and the core stands
// on.
var ports = []string{"internal/promise", "internal/store", "internal/queue", "internal/blob"}

// shell is the ports and the engine that works on them.
var shell = append([]string{"internal/engine"}, ports...)

// edge is the shell and the wire.
var edge = append([]string{"internal/api"}, shell...)

// lambdas is what the command of a Lambda function wires to its handler.
func lambdas(handler string) []string {
	return []string{handler, "internal/cloud", "internal/lambdahttp"}
}

// awsSDK is for the AWS adapters and the commands that wire them.
const awsSDK = "github.com/aws/aws-sdk-go-v2"

// rules has one rule for each package; a package without one fails. Data goes
// one way: commands, then handlers and worker, then engine, ports, core.
var rules = map[string]rule{
	"internal/promise": {},

	"internal/store": {ours: []string{"internal/promise"}, others: []string{"github.com/fxamacker/cbor/v2"}},
	"internal/queue": {ours: []string{"internal/promise"}},
	"internal/blob":  {ours: []string{"internal/promise"}},

	"internal/store/storetest": {ours: []string{"internal/promise", "internal/store"}, others: testLibraries},
	"internal/queue/queuetest": {ours: []string{"internal/promise", "internal/queue"}, others: testLibraries},
	"internal/blob/blobtest":   {ours: []string{"internal/promise", "internal/blob"}, others: testLibraries},

	"internal/sqlite":            {others: []string{"modernc.org/sqlite", "golang.org/x/sys"}},
	"internal/store/sqlitestore": {ours: []string{"internal/sqlite", "internal/promise", "internal/store"}},
	"internal/queue/sqlitequeue": {ours: []string{"internal/sqlite", "internal/promise", "internal/queue"}},
	"internal/blob/sqliteblob":   {ours: []string{"internal/sqlite", "internal/promise", "internal/blob"}},
	"internal/blob/fileblob":     {ours: []string{"internal/promise", "internal/blob"}, others: []string{"golang.org/x/sys"}},

	"internal/emulator": {others: []string{awsSDK}}, // tests only
	"internal/store/dynamostore": {
		ours: []string{"internal/promise", "internal/store"}, others: []string{awsSDK, "github.com/aws/smithy-go"},
	},

	"internal/queue/sqsqueue": {
		ours: []string{"internal/promise", "internal/queue"}, others: []string{awsSDK, "github.com/aws/smithy-go"},
	},
	"internal/blob/s3blob": {
		ours: []string{"internal/promise", "internal/blob"}, others: []string{awsSDK, "github.com/aws/smithy-go"},
	},
	"internal/blob/dynamoblob": {
		ours: []string{"internal/promise", "internal/blob"}, others: []string{awsSDK, "github.com/aws/smithy-go"},
	},

	"internal/engine":   {ours: ports},
	"internal/delivery": {ours: append([]string{"functions/router/protocol"}, shell...)},
	"internal/api":      {ours: shell, others: []string{"github.com/go-json-experiment/json", "github.com/oklog/ulid/v2"}},
	"internal/lambdahttp": {
		ours: []string{"internal/api"}, others: []string{"github.com/aws/aws-lambda-go/lambdacontext", "github.com/go-json-experiment/json"},
	},
	"internal/lambdatest": {others: []string{"github.com/aws/aws-lambda-go/lambda", awsSDK}}, // tests and benchmarks only
	"internal/sim":        {},                                                                // tests only
	"internal/chaos":      {others: []string{"golang.org/x/sys", awsSDK}},                    // tests only
	"internal/account":    {others: []string{awsSDK, "github.com/aws/smithy-go"}},
	"internal/lock":       {},
	"internal/spool":      {ours: []string{"internal/lock"}},
	"internal/local": {
		ours: append([]string{
			"internal/lock", "internal/spool",
			"internal/sqlite", "internal/store/sqlitestore", "internal/queue/sqlitequeue", "internal/blob/sqliteblob", "internal/blob/fileblob",
			"functions/router/dispatch", "functions/router/protocol", "functions/status/read", "internal/delivery",
		}, edge...),
		others: []string{"golang.org/x/sys"},
	},

	"internal/cloud": {
		ours: append([]string{
			"internal/account", "internal/store/dynamostore", "internal/queue/sqsqueue", "internal/blob/s3blob", "internal/blob/dynamoblob",
		}, edge...),
		others: []string{awsSDK, "github.com/aws/smithy-go"},
	},

	"internal/server": {
		ours: append([]string{"workerd/uv", "workerd/device", "internal/local", "functions/sweeper/sweep", "workerd/worker", "workerd/runner"}, edge...),
	},

	"functions/router":          {ours: append(lambdas("functions/router/dispatch"), "functions/router/protocol"), others: []string{"github.com/aws/aws-lambda-go"}},
	"functions/status":          {ours: lambdas("functions/status/read"), others: []string{"github.com/aws/aws-lambda-go"}},
	"functions/sweeper":         {ours: lambdas("functions/sweeper/sweep"), others: []string{"github.com/aws/aws-lambda-go"}},
	"functions/router/dispatch": {ours: edge, others: []string{"github.com/go-json-experiment/json"}},
	"functions/router/protocol": {ours: shell, others: []string{awsSDK}}, // its tests
	"functions/status/read":     {ours: edge},
	"functions/sweeper/sweep":   {ours: shell},

	"workerd/ahead": {},
	"workerd/keeper": { // no more: it is a process per script
		ours: []string{"workerd/sandbox", "workerd/ahead", "workerd/timerslack"}, others: []string{"golang.org/x/sys"},
	},
	"cmd/modulate-keeper": {ours: []string{"workerd/keeper"}},
	"workerd/runner":      {ours: []string{"workerd/keeper", "workerd/sandbox", "workerd/ahead", "workerd/timerslack"}, others: []string{"golang.org/x/sys"}},
	"workerd/worker": {
		ours:   append([]string{"workerd/uv", "workerd/device", "workerd/runner"}, edge...),
		others: []string{"golang.org/x/sys", "github.com/oklog/ulid/v2"},
	},

	"workerd/hostile":    {others: []string{"golang.org/x/sys"}}, // tests only
	"workerd/sandbox":    {others: []string{"golang.org/x/sys"}},
	"workerd/timerslack": {others: []string{"golang.org/x/sys"}},
	"workerd/host": {
		ours:   []string{"workerd/uv", "workerd/device", "workerd/runner", "workerd/sandbox", "internal/spool"},
		others: []string{"github.com/BurntSushi/toml"},
	},

	"workerd/device": {},
	"workerd/notice": {ours: []string{"internal/promise"}},

	"workerd/uv": {ours: []string{"internal/lock"}, others: []string{"github.com/BurntSushi/toml"}},

	"workerd/gateway": {ours: []string{"functions/router/protocol", "internal/delivery", "internal/promise"}},
	"workerd": {
		ours: append([]string{
			"workerd/gateway", "internal/delivery", "functions/router/protocol",
			"workerd/notice",
			"workerd/device", "workerd/timerslack",
			"workerd/worker", "workerd/runner", "workerd/host", "internal/local", "internal/spool", "internal/cloud", "internal/account",
			"functions/sweeper/sweep",
		}, edge...),
		others: []string{"github.com/spf13/cobra", "github.com/spf13/pflag", "golang.org/x/sys"},
	},
	"cmd/modulate": {
		ours: append([]string{
			"workerd/uv", "workerd/device", "workerd/timerslack",
			"workerd/worker", "workerd/runner", "workerd/host", "internal/local", "internal/server", "internal/spool", "internal/account",
		}, edge...),
		others: []string{
			"github.com/spf13/cobra", "github.com/spf13/pflag", "github.com/oklog/ulid/v2",
			"golang.org/x/term", "golang.org/x/sys",
		},
	},
	"bench": {
		ours: append([]string{
			"workerd/runner", "workerd/host", "workerd/keeper", "workerd/sandbox", "workerd/timerslack", "internal/local", "internal/server",
			"internal/sqlite", "internal/store/sqlitestore", "internal/lambdatest",
		}, edge...),
		others: []string{awsSDK}, // its tests
	},
	"examples/modulate-resonate":    {},                                                          // tests only
	"examples/modulate-resonate/go": {others: []string{"github.com/resonatehq/resonate-sdk-go"}}, // a module of its own
	"localstack":                    {others: []string{awsSDK}},                                  // tests only
	".":                             {others: []string{"go.yaml.in/yaml/v3"}},                    // tests only
}

// testLibraries are the modules that only tests and suites import.
var testLibraries = []string{
	"pgregory.net/rapid", "go.uber.org/goleak",
	"github.com/anishathalye/porcupine", "github.com/rogpeppe/go-internal",
}

// pure is the part of the standard library that the core may use: nothing that
// reads a clock, a file, a socket or a source of randomness.
var pure = []string{
	"cmp", "crypto/sha256", "encoding/hex", "errors", "fmt", "hash/fnv",
	"maps", "math", "net/url", "slices", "strconv", "strings", "time",
}

// clock is what package time offers that looks at a clock.
var clock = []string{"Now", "Since", "Until", "After", "AfterFunc", "Sleep", "Tick", "NewTimer", "NewTicker"}

func TestImports(t *testing.T) {
	for _, src := range sources(t) {
		r, ok := rules[src.pkg]
		if !ok {
			t.Errorf("%s: package %s has no rule in arch_test.go", src.path, src.pkg)
			continue
		}
		for _, imp := range src.imports() {
			if !r.allows(src, imp) {
				t.Errorf("%s imports %s, which the rule of %s does not allow", src.path, imp, src.pkg)
			}
		}
	}
}

// TestAKeeperStaysSmall: there is one for each script that runs, and what its
// program imports is in its memory.
func TestAKeeperStaysSmall(t *testing.T) {
	parts := append([]string{"cmd/modulate-keeper", "workerd/keeper"}, rules["workerd/keeper"].ours...)
	for _, src := range sources(t) {
		if src.test || !slices.Contains(parts, src.pkg) {
			continue
		}
		for _, imp := range src.imports() {
			if strings.HasPrefix(imp, "crypto/") || strings.HasPrefix(imp, "encoding/json") || strings.HasPrefix(imp, "net/http") {
				t.Errorf("%s imports %s, which would cost every keeper memory", src.path, imp)
			}
		}
	}
}

func TestCoreIsPure(t *testing.T) {
	for _, src := range sources(t) {
		if src.pkg != "internal/promise" || src.test {
			continue
		}
		for _, imp := range src.imports() {
			if !slices.Contains(pure, imp) {
				t.Errorf("%s imports %s; the core does no I/O and reads no clock", src.path, imp)
			}
		}
		for _, name := range clock {
			for _, at := range src.uses("time", name) {
				t.Errorf("%s: time.%s; time is an argument of the core", at, name)
			}
		}
	}
}

// TestRules fails when a rule would let something pass that it is there to
// stop.
func TestRules(t *testing.T) {
	for _, c := range []struct {
		pkg, imp string
		test, ok bool
	}{
		{"internal/promise", "modulate/internal/store", false, false},
		{"internal/promise", "pgregory.net/rapid", false, false},
		{"internal/promise", "pgregory.net/rapid", true, true},
		{"internal/engine", "modulate/internal/store", false, true},
		{"internal/engine", "modulate/internal/api", false, false},
		{"internal/engine", "modulate/internal/storefront", false, false},
		{"internal/sqlite", "modernc.org/sqlite/lib", false, true},
		{"internal/store", "modernc.org/sqlite", false, false},
		{"workerd/worker", "modulate/functions/router/dispatch", false, false},
		{"workerd/worker", "modulate/functions/router/dispatch", true, true},
		{"workerd/worker", "github.com/aws/aws-sdk-go-v2/service/sqs", true, false},
		{"cmd/modulate", "net/http", false, true},
	} {
		src := source{pkg: c.pkg, test: c.test}
		if got := rules[c.pkg].allows(src, c.imp); got != c.ok {
			t.Errorf("%s (test: %v) imports %s: allowed %v, want %v", c.pkg, c.test, c.imp, got, c.ok)
		}
	}
}

// allows reports whether src may import imp.
func (r rule) allows(src source, imp string) bool {
	if own, ok := strings.CutPrefix(imp, module); ok {
		return src.test || slices.Contains(r.ours, own)
	}
	if host, _, _ := strings.Cut(imp, "/"); !strings.Contains(host, ".") {
		return true // the standard library
	}
	others := r.others
	if src.test {
		others = slices.Concat(others, testLibraries)
	}
	return slices.ContainsFunc(others, func(m string) bool { return imp == m || strings.HasPrefix(imp, m+"/") })
}

// A source is one Go file of the module.
type source struct {
	path string // slash-separated, from the root
	pkg  string // the directory
	test bool
	fset *token.FileSet
	file *ast.File
}

// sources parses every Go file of the module.
func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	for _, name := range walk(t, ".go") {
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, filepath.FromSlash(name), nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, source{
			path: name, pkg: path.Dir(name), test: strings.HasSuffix(name, "_test.go"), fset: fset, file: file,
		})
	}
	if len(all) == 0 {
		t.Fatal("no sources found")
	}
	return all
}

// walk returns the files with that ending, but for hidden directories, test
// data and what a build leaves behind.
func walk(t *testing.T, ending string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || name == "bin"):
			return fs.SkipDir
		case !d.IsDir() && strings.HasSuffix(name, ending):
			found = append(found, filepath.ToSlash(name))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// imports returns the paths that the file imports.
func (s source) imports() []string {
	paths := map[string]bool{}
	for _, spec := range s.file.Imports {
		p, _ := strconv.Unquote(spec.Path.Value) // it has been parsed
		paths[p] = true
	}
	return slices.Sorted(maps.Keys(paths))
}

// uses returns where the file names pkg.name, for a package of the standard
// library under the name it is imported by.
func (s source) uses(pkg, name string) (at []token.Position) {
	local := ""
	for _, spec := range s.file.Imports {
		if p, _ := strconv.Unquote(spec.Path.Value); p == pkg {
			local = path.Base(pkg)
			if spec.Name != nil {
				local = spec.Name.Name
			}
		}
	}
	if local == "" {
		return nil
	}
	ast.Inspect(s.file, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok && sel.Sel.Name == name {
			if x, ok := sel.X.(*ast.Ident); ok && x.Name == local {
				at = append(at, s.fset.Position(sel.Pos()))
			}
		}
		return true
	})
	return at
}
