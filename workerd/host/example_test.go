package host

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
)

// infra/machine.toml can be used as it is, and with everything in it, and has
// every key.
func TestExampleHasEveryKey(t *testing.T) {
	const path = "../../infra/machine.toml"
	m, err := Read(path)
	if err != nil || !reflect.DeepEqual(m, Machine{Runtimes: map[string][]string{}}) {
		t.Errorf("as it is: %+v, %v; want nothing configured", m, err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	all := regexp.MustCompile(`(?m)^# (\[\[|[a-z-]+ = )`).ReplaceAllString(string(text), "$1")
	all = strings.NewReplacer("/srv/datasets", t.TempDir(), "/dev/fuse", "/dev/null").Replace(all)
	if _, err = read(t, all); err != nil {
		t.Fatalf("with everything in it: %v", err)
	}
	var any Machine
	meta, err := toml.Decode(all, &any)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys(reflect.TypeFor[Machine](), nil) {
		if !meta.IsDefined(key...) && !strings.Contains(all, "\n"+key[len(key)-1]+" = ") {
			t.Errorf("%s does not have %s", path, strings.Join(key, "."))
		}
	}
}

// keys are the paths of all keys of a table.
func keys(table reflect.Type, above []string) (all [][]string) {
	for field := range table.Fields() {
		key := append(append([]string{}, above...), field.Tag.Get("toml"))
		inner := field.Type
		if inner.Kind() == reflect.Slice {
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Struct {
			all = append(all, keys(inner, key)...)
		} else {
			all = append(all, key)
		}
	}
	return all
}
