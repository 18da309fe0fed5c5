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
		"two places":      {args: []string{"--stage", "prod"}, says: "--dir and --stage (MODULATE_DIR, MODULATE_STAGE) exclude each other"},
		"two by variable": {env: map[string]string{"MODULATE_STAGE": "prod"}, says: "exclude each other"},
		"bucket":          {args: []string{"--bucket", "b"}, says: "--bucket is for a stage on AWS"},
		"url":             {args: []string{"--url", "b"}, says: "--url is for a stage on AWS"},
		"log":             {args: []string{"--log", "xml"}, says: `--log "xml": want text or json`},
		"health":          {args: []string{"--health", "0.0.0.0:9460"}, says: `--health "0.0.0.0:9460": want a loopback address and a port`},
		"health's port":   {args: []string{"--health", "127.0.0.1"}, says: "want a loopback address and a port"},
		"unknown in toml": {args: []string{"--config", toml}, says: `"runtime" is not known; known is [runtimes], [sandbox]`},
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

func TestBadInputForAStage(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		env  map[string]string
		says string
	}{
		"stage":    {args: []string{"--stage", "Prod"}, says: `--stage "Prod": want a lower-case letter`},
		"reserved": {env: map[string]string{"MODULATE_STAGE": "dlq"}, says: `--stage "dlq"`},
		"url":      {args: []string{"--stage", "prod", "--url", "abc"}, says: `--url "abc": want the output Url`},
		"no sweep": {args: []string{"--stage", "prod", "--no-sweep"}, says: "--no-sweep is for a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			var out, errs bytes.Buffer
			code := run(t.Context(), test.args, func(name string) string { return test.env[name] }, &out, &errs)
			if code != exitInput || !strings.Contains(errs.String(), test.says) || out.Len() > 0 {
				t.Errorf("exit %d, stdout %q, stderr %q; want %d and %q", code, &out, &errs, exitInput, test.says)
			}
		})
	}
}

func TestSpoolDir(t *testing.T) {
	for name, c := range map[string]struct {
		flag string
		user int
		env  map[string]string
		want string // "": refused
	}{
		"flag":    {flag: "/given", want: "/given"},
		"root":    {env: map[string]string{"HOME": "/root"}, want: "/var/lib/modulate"},
		"state":   {user: 1000, env: map[string]string{"XDG_STATE_HOME": "/state", "HOME": "/home"}, want: "/state/modulate"},
		"home":    {user: 1000, env: map[string]string{"XDG_STATE_HOME": "relative", "HOME": "/home"}, want: "/home/.local/state/modulate"},
		"no home": {user: 1000},
	} {
		got, err := (&Config{Spool: c.flag}).spoolDir(c.user, func(name string) string { return c.env[name] })
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: %q, %v; want %q", name, got, err, c.want)
		}
	}
}
