package main

import (
	"bytes"
	"context"
	"testing"
)

// Only dev is a server, and is one before it has begun anything: its process may
// begin again there.
func TestDevBeginsAsAServer(t *testing.T) {
	for command, want := range map[string]int{"dev": 1, "list": 0} {
		ctx, cancel := context.WithCancel(t.Context())
		var out bytes.Buffer
		began := 0
		p := program{
			args: []string{command, "--dir", t.TempDir()}, getenv: func(string) (string, bool) { return "", false }, stdin: &out, stdout: &out, stderr: &out,
			server: func() {
				began++
				cancel()
			},
		}
		if command == "dev" {
			p.args = append(p.args, "--listen", "127.0.0.1:0", "--machines", "cpu:1")
		}
		if p.run(ctx); began != want {
			t.Errorf("%s: a server began %d times, want %d\n%s", command, began, want, out.String())
		}
		cancel()
	}
}
