package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDoctor(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "machine.toml")
	if err := os.WriteFile(bad, []byte("[sandbox]\nlevel = 'vault'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		code int
		says []string
	}{
		{code: 0, says: []string{" sandbox ", " cgroups ", " uids ", " egress ", "ok level    "}},
		{args: []string{"--config", bad}, code: exitInput, says: []string{`sandbox.level "vault"`}},
		{args: []string{"now"}, code: exitFailed, says: []string{`unknown command "now"`}},
	} {
		var out bytes.Buffer
		code := run(t.Context(), append([]string{"doctor"}, c.args...), func(string) string { return "" }, &out, &out)
		if code != c.code {
			t.Errorf("%q: exit %d, want %d", c.args, code, c.code)
		}
		for _, words := range c.says {
			if !strings.Contains(out.String(), words) {
				t.Errorf("%q: want %q in\n%s", c.args, words, &out)
			}
		}
	}
}
