package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestBadInputSaysWhatAndStartsNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	toml := filepath.Join(t.TempDir(), "machine.toml")
	if err := os.WriteFile(toml, []byte("[runtime]\npython = ['x']\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		args []string
		env  map[string]string
		says string
	}{
		"slots":           {args: []string{"--slots", "0"}, says: "--slots 0: want 1 to 1000"},
		"machine":         {args: []string{"--machine", "GPU"}, says: `--machine "GPU": want a lower-case letter`},
		"group":           {args: []string{"--group", "-"}, says: `--machine "-"`},
		"argument":        {args: []string{"cpu"}, says: `"cpu" is not expected`},
		"flag":            {args: []string{"--slot", "1"}, says: "unknown flag: --slot"},
		"variable":        {env: map[string]string{"MODULATE_SLOTS": "many"}, says: `MODULATE_SLOTS="many"`},
		"no toml":         {args: []string{"--config", toml + ".away"}, says: "no such file"},
		"unknown in toml": {args: []string{"--config", toml}, says: `"runtime" is not known; known is [runtimes]`},
	} {
		t.Run(name, func(t *testing.T) {
			var out, errs bytes.Buffer
			getenv := func(name string) string { return test.env[name] }
			code := run(t.Context(), append([]string{"--dir", dir}, test.args...), getenv, &out, &errs)
			if code != exitInput || !strings.Contains(errs.String(), test.says) || out.Len() > 0 {
				t.Errorf("exit %d, stdout %q, stderr %q; want %d and %q", code, &out, &errs, exitInput, test.says)
			}
			if _, err := os.Stat(dir); !os.IsNotExist(err) {
				t.Errorf("the store was made: %v", err)
			}
		})
	}
}

func TestFlagsComeBeforeVariablesBeforeDefaults(t *testing.T) {
	var out, errs bytes.Buffer
	env := map[string]string{"MODULATE_MACHINE": "BAD", "MODULATE_SLOTS": "0"}
	code := run(t.Context(), []string{"--group", "gpu", "--dir", t.TempDir()}, func(n string) string { return env[n] }, &out, &errs)
	if code != exitInput || !strings.Contains(errs.String(), "--slots 0") {
		t.Errorf("exit %d, stderr %q: want the flag's machine and the variable's slots", code, &errs)
	}
}
