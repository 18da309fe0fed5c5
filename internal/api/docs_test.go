package api

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
)

func doc(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The table of errors in the document is the table of this package.
func TestDocErrors(t *testing.T) {
	said := make(map[string]bool)
	for _, m := range regexp.MustCompile("(?m)^\\| (\\d{3}) \\| `([a-z-]+)` \\| .").FindAllStringSubmatch(doc(t), -1) {
		said[m[1]+" "+m[2]] = true
	}
	for _, r := range table {
		line := fmt.Sprint(r.status, " ", r.slug)
		if !said[line] {
			t.Errorf("docs/api.md does not have %s", line)
		}
		delete(said, line)
	}
	for line := range said {
		t.Errorf("docs/api.md has %s, which is no error", line)
	}
}

// Every example is one of the wire types, read as strictly as a request.
func TestDocExamples(t *testing.T) {
	examples := regexp.MustCompile("(?s)```json\n(.*?)```").FindAllStringSubmatch(doc(t), -1)
	if len(examples) < 9 {
		t.Errorf("only %d examples are found", len(examples))
	}
	for _, m := range examples {
		fits := false
		for _, v := range []any{new(Submit), new(Promise), new(Problem), new(List), new(Machines), new(Artifacts), new(BlobRequest), new(BlobUpload)} {
			fits = fits || json.Unmarshal([]byte(m[1]), v, strict) == nil
		}
		if !fits {
			t.Errorf("this is nothing that the API says or hears:\n%s", m[1])
		}
	}
}

// The document has a line for each path that the handlers know.
func TestDocRoutes(t *testing.T) {
	text := doc(t)
	for _, m := range regexp.MustCompile("`(GET|POST|PUT) (/v1/[^` ]*)`").FindAllStringSubmatch(text, -1) {
		path := strings.NewReplacer("{id}", "x", "{name}", "a", "{sha256}", "ab").Replace(m[2])
		if !strings.Contains(allowed(path), m[1]) {
			t.Errorf("docs/api.md has %s %s, the API %q", m[1], path, allowed(path))
		}
	}
}
