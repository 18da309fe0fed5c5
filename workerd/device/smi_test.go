package device

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// program writes a shell script that stands for nvidia-smi.
func program(t *testing.T, script string) SMI {
	t.Helper()
	path := filepath.Join(t.TempDir(), "nvidia-smi")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	return SMI{Path: path}
}

// answer is nvidia-smi -q -x of a machine with an idle, a busy and a sliced
// device, shortened.
func answer(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("testdata/smi.xml")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLook(t *testing.T) {
	s := program(t, `[ "$*" = "-q -x" ] && exec cat '`+answer(t)+`'`)
	got, err := s.Look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []Device{
		{Index: 0, UUID: "GPU-1b2c3d4e-0000-1111-2222-333344445555", Name: "Tesla T4", Minor: 1, Memory: 15360 << 20, Used: 3 << 20},
		{
			Index: 1, UUID: "GPU-aaaaaaaa-0000-1111-2222-333344445555", Name: "Tesla T4", Minor: 0, Memory: 15360 << 20, Used: 14012 << 20,
			Processes: []Process{{PID: 911, Name: "/usr/lib/xorg/Xorg", Graphics: true}, {PID: 4242, Name: "python3"}},
		},
		{Index: 2, UUID: "GPU-cccccccc-0000-1111-2222-333344445555", Name: "NVIDIA A100-SXM4-40GB", Minor: -1, Sliced: true, Memory: 40960 << 20},
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("found\n%+v, want\n%+v", got, want)
	}
}

func TestLookWithout(t *testing.T) {
	for name, c := range map[string]struct {
		script, says string // says "": no devices, and no error
	}{
		"no driver":  {"echo 'NVIDIA-SMI has failed'; exit 9", ""},
		"no device":  {"echo 'No devices were found'; exit 6", ""},
		"mismatch":   {"echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18", "version mismatch"},
		"no answer":  {"echo hello", "reading what nvidia-smi says"},
		"no UUID":    {"echo '<nvidia_smi_log><gpu><uuid>N/A</uuid></gpu></nvidia_smi_log>'", "has the UUID"},
		"new figure": {"echo '<nvidia_smi_log><gpu><uuid>GPU-1</uuid><fb_memory_usage><total>15 GiB</total></fb_memory_usage></gpu></nvidia_smi_log>'", "reading the memory"},
	} {
		got, err := program(t, c.script).Look(t.Context())
		switch {
		case len(got) > 0:
			t.Errorf("%s: found %v", name, got)
		case c.says == "" && err != nil, c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)):
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := program(t, "exec sleep 600").Look(ctx); err == nil {
		t.Error("a driver that hangs is no error")
	}
}

func TestWatch(t *testing.T) {
	s := program(t, `
[ "$*" = "--query-gpu=uuid,memory.used --format=csv,noheader --loop=1" ] || exit 1
echo 'GPU-a, 100 MiB'; echo 'GPU-b, [N/A]'; echo 'GPU-a, 200 MiB'; exec sleep 600`)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var seen []string
	if err := s.Watch(ctx, func(uuid string, used int64) {
		if seen = append(seen, fmt.Sprint(uuid, used>>20)); len(seen) == 3 {
			cancel()
		}
	}); err == nil {
		t.Error("it says nothing of its end")
	}
	if !slices.Equal(seen, []string{"GPU-a100", "GPU-b0", "GPU-a200"}) {
		t.Errorf("seen %q", seen)
	}
	if err := program(t, "exit 3").Watch(t.Context(), func(string, int64) {}); err == nil {
		t.Error("a program that fails is no error")
	}
}

func TestLibraries(t *testing.T) {
	said := "1 libs found in cache `/etc/ld.so.cache'\n" +
		"\tlibcuda.so.1 (libc6,x86-64) => /usr/lib64/libcuda.so.1\n" +
		"\tlibcuda.so.1 (libc6) => /usr/lib/libcuda.so.1\n" +
		"\tlibcuda.so (libc6,x86-64) => /opt/lib/libcuda.so\n"
	if got := cached([]byte(said)); !slices.Equal(got, []string{"/usr/lib64", "/usr/lib"}) {
		t.Errorf("found %q", got)
	}
}
