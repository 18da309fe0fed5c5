package ahead_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"modulate/workerd/ahead"
)

// BenchmarkStart compares, in one run, scripts whose interpreter was parked with
// bare spawns of the same: until the first byte of output, until the end, and
// the CPU time of all that it takes, parking included.
func BenchmarkStart(b *testing.B) {
	dir := b.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "s.py"), []byte("print('x', flush=True)\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	command := []string{pythons(b)[0], "-I", "-S"}
	program := compiled(b, command)
	var first, last, cpu [2][]time.Duration
	for range b.N {
		for i, start := range []func(*testing.B, []string, ahead.Program, string) (*exec.Cmd, *os.File, func()){startBare, startParked} {
			cmd, out, begin := start(b, command, program, dir)
			from := time.Now()
			begin()
			if _, err := out.Read(make([]byte, 1)); err != nil {
				b.Fatal(err)
			}
			first[i] = append(first[i], time.Since(from))
			if err := cmd.Wait(); err != nil {
				b.Fatal(err)
			}
			last[i] = append(last[i], time.Since(from))
			usage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
			cpu[i] = append(cpu[i], time.Duration(usage.Utime.Nano()+usage.Stime.Nano()))
			out.Close()
		}
	}
	for what, of := range map[string]*[2][]time.Duration{"first_byte": &first, "end": &last, "cpu": &cpu} {
		bare, parked := median(of[0]), median(of[1])
		b.ReportMetric(bare.Seconds()*1e3, what+"_bare_ms")
		b.ReportMetric(parked.Seconds()/bare.Seconds(), what+"_ratio")
	}
}

func median(d []time.Duration) time.Duration { return slices.Sorted(slices.Values(d))[len(d)/2] }

func startBare(b *testing.B, command []string, _ ahead.Program, dir string) (*exec.Cmd, *os.File, func()) {
	cmd, out := benchCommand(b, append(slices.Clone(command), "s.py"), dir)
	return cmd, out, func() { begin(b, cmd) }
}

func startParked(b *testing.B, command []string, program ahead.Program, dir string) (*exec.Cmd, *os.File, func()) {
	ours, theirs := socketpair(b)
	if err := program.Send(ours); err != nil {
		b.Fatal(err)
	}
	cmd, out := benchCommand(b, ahead.Command(command, 3), dir)
	cmd.ExtraFiles = []*os.File{theirs}
	begin(b, cmd)
	theirs.Close()
	if _, err := ahead.Ready(ours); err != nil {
		b.Fatal(err)
	}
	return cmd, out, func() {
		if err := (ahead.Script{Command: command, Name: "s.py", Dir: dir}).Send(ours); err != nil {
			b.Fatal(err)
		}
	}
}

func benchCommand(b *testing.B, argv []string, dir string) (*exec.Cmd, *os.File) {
	r, w, err := os.Pipe()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Env, cmd.Stdout = dir, []string{}, w
	return cmd, r
}

func begin(b *testing.B, cmd *exec.Cmd) {
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	cmd.Stdout.(*os.File).Close()
}
