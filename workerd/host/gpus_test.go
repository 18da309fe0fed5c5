package host

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"modulate/workerd/device"
	"modulate/workerd/sandbox"
)

// withSMI puts a program first in PATH that stands for nvidia-smi.
func withSMI(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "nvidia-smi"), []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestDevices(t *testing.T) {
	answer, err := filepath.Abs("../device/testdata/smi.xml")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		script, lend string
		slots        int
		says         string // "": no error
	}{
		"found":            {"exec cat " + answer, "", 2, ""}, // the third is sliced
		"wanted and found": {"exec cat " + answer, "each", 2, ""},
		"not wanted":       {"exec cat " + answer, "none", 0, ""},
		"none":             {"exit 6", "", 0, ""},
		"wanted, none":     {"exit 6", "each", 0, "tells of no device"},
		"broken":           {"echo 'Driver/library version mismatch'; exit 18", "", 0, `version mismatch; with gpus.lend = "none"`},
	} {
		t.Run(name, func(t *testing.T) {
			withSMI(t, c.script)
			d, err := Machine{GPUs: GPUs{Lend: c.lend}}.Devices(t.Context(), slog.New(slog.DiscardHandler))
			if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("%v, want %q", err, c.says)
			}
			if d.Slots() != c.slots {
				t.Errorf("%d slots, want %d", d.Slots(), c.slots)
			}
			if c.slots == 0 {
				return
			}
			if _, err := d.Pool(3, sandbox.None, nil); !errors.Is(err, device.ErrFew) {
				t.Errorf("three slots for two devices: %v", err)
			}
			if _, err := d.Pool(2, sandbox.Bwrap, nil); d.lacking != nil && err == nil {
				t.Errorf("a sandbox without the driver's libraries (%v) is no error", d.lacking)
			}
		})
	}
}

// A laptop whose driver is half installed runs scripts all the same.
func TestSharedDevicesThatCannotBeShown(t *testing.T) {
	d := Devices{shared: true, found: []device.Device{{Minor: 0}}, lacking: errors.New("no libraries")}
	quiet := slog.New(slog.DiscardHandler)
	if pool, err := d.Pool(1, sandbox.Bwrap, quiet); pool != nil || err != nil {
		t.Errorf("in a sandbox: %v, %v", pool, err)
	}
	if pool, err := d.Pool(1, sandbox.None, quiet); pool == nil || err != nil {
		t.Errorf("without one: %v, %v", pool, err)
	}
	d.shared = false
	if _, err := d.Pool(1, sandbox.Bwrap, quiet); err == nil || !strings.Contains(err.Error(), "no libraries") {
		t.Errorf("on a worker: %v", err)
	}
}

func TestEquipment(t *testing.T) {
	answer, err := filepath.Abs("../device/testdata/smi.xml")
	if err != nil {
		t.Fatal(err)
	}
	withSMI(t, "exec cat "+answer)
	path := filepath.Join(t.TempDir(), "uv")
	if err := os.WriteFile(path, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	cache := filepath.Join(t.TempDir(), "cache")
	found := Equipment(t.Context(), Machine{UV: UV{Path: path, Cache: cache}})
	if gpus := found[0]; !strings.Contains(gpus.Text, "device 1 (Tesla T4, GPU-aaaaaaaa") || strings.Contains(gpus.Text, "A100") {
		t.Errorf("%+v", gpus)
	}
	if uv := found[1]; !uv.OK || uv.Text != path+", environments in "+cache {
		t.Errorf("%+v", uv)
	}
	withSMI(t, "echo broken; exit 18")
	for _, f := range Equipment(t.Context(), Machine{UV: UV{Path: "/no/uv"}}) {
		if f.OK {
			t.Errorf("%+v", f)
		}
	}
}
