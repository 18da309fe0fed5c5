package device

import (
	"bufio"
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// SMI is the Layer of machines with NVIDIA devices. It asks nvidia-smi, which
// comes with the driver.
type SMI struct {
	Path string // of nvidia-smi
}

var _ Layer = SMI{}

// Find returns the Layer of this machine; false: it has none.
func Find() (SMI, bool) {
	for _, name := range []string{"nvidia-smi", "/usr/bin/nvidia-smi", "/usr/lib/wsl/lib/nvidia-smi"} {
		if path, err := exec.LookPath(name); err == nil {
			return SMI{Path: path}, true
		}
	}
	return SMI{}, false
}

// The exit codes of nvidia-smi(1) that mean that there is no device.
const (
	exitNotFound = 6 // no object was found
	exitNoDriver = 9 // the driver is not loaded
)

// report is what is read of nvidia-smi -q -x (its nvsmi_device.dtd).
type report struct {
	GPUs []struct {
		Name   string `xml:"product_name"`
		UUID   string `xml:"uuid"`
		Minor  string `xml:"minor_number"`
		MIG    string `xml:"mig_mode>current_mig"`
		Memory struct {
			Total string `xml:"total"`
			Used  string `xml:"used"`
		} `xml:"fb_memory_usage"`
		Processes []struct {
			PID  int    `xml:"pid"`
			Type string `xml:"type"` // C, G, or C+G
			Name string `xml:"process_name"`
		} `xml:"processes>process_info"`
	} `xml:"gpu"`
}

// Look implements [Layer].
func (s SMI) Look(ctx context.Context) ([]Device, error) {
	cmd := exec.CommandContext(ctx, s.Path, "-q", "-x")
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if code := exit.ExitCode(); code == exitNotFound || code == exitNoDriver {
			return nil, nil
		}
		err = fmt.Errorf("%w: %s", err, firstLine(out, exit.Stderr)) // it tells its errors on either
	}
	if err != nil {
		return nil, fmt.Errorf("asking %s for the devices: %w", s.Path, err)
	}
	return parse(out)
}

// parse reads the answer of nvidia-smi -q -x.
func parse(answer []byte) ([]Device, error) {
	var r report
	d := xml.NewDecoder(bytes.NewReader(answer))
	if err := d.Decode(&r); err != nil {
		return nil, fmt.Errorf("reading what nvidia-smi says: %w", err)
	}
	var all []Device
	for i, g := range r.GPUs {
		if !strings.HasPrefix(g.UUID, "GPU-") {
			return nil, fmt.Errorf("reading what nvidia-smi says: device %d has the UUID %q", i, g.UUID)
		}
		total, err := mebibytes(g.Memory.Total)
		if err != nil {
			return nil, fmt.Errorf("reading the memory of device %d: %w", i, err)
		}
		used, err := mebibytes(g.Memory.Used)
		if err != nil {
			return nil, fmt.Errorf("reading the used memory of device %d: %w", i, err)
		}
		d := Device{Index: i, UUID: g.UUID, Name: g.Name, Minor: -1, Sliced: g.MIG == "Enabled", Memory: total, Used: used}
		if minor, err := strconv.Atoi(g.Minor); err == nil {
			d.Minor = minor
		}
		for _, p := range g.Processes {
			d.Processes = append(d.Processes, Process{PID: p.PID, Name: p.Name, Graphics: p.Type == "G"})
		}
		all = append(all, d)
	}
	return all, nil
}

// mebibytes reads a figure such as "15360 MiB". Where a device has no memory
// of its own the driver says N/A: 0.
func mebibytes(s string) (int64, error) {
	if strings.Trim(s, "[]") == "N/A" {
		return 0, nil
	}
	n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(s), " MiB"), 10, 44)
	return n << 20, err
}

// Watch implements [Layer].
func (s SMI) Watch(ctx context.Context, seen func(uuid string, used int64)) error {
	cmd := exec.CommandContext(ctx, s.Path, "--query-gpu=uuid,memory.used", "--format=csv,noheader", "--loop=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return err
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		uuid, used, _ := strings.Cut(lines.Text(), ", ")
		if n, err := mebibytes(used); err == nil {
			seen(uuid, n)
		}
	}
	if err := errors.Join(lines.Err(), cmd.Wait()); err != nil {
		return fmt.Errorf("watching with %s: %w", s.Path, err)
	}
	return fmt.Errorf("%s has stopped watching", s.Path)
}

// firstLine is the first line of what a program said on either stream.
func firstLine(outs ...[]byte) string {
	for _, out := range outs {
		if line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n"); line != "" {
			return line
		}
	}
	return "it says nothing"
}
