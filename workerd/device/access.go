package device

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Access is what a script needs to use a device, besides the device.
type Access struct {
	Common    []string // device files that go with every device
	Libraries []string // directories with the driver's libraries, to be readable
	Search    []string // those of them that the linker does not search by itself
}

// common are the device files of the driver that are not one device's. Those for
// drawing and for slices are left out.
var common = [...]string{"nvidiactl", "nvidia-uvm", "nvidia-uvm-tools"}

// elsewhere is where the driver's libraries are on machines on which the linker
// does not know of them: containers, NixOS.
var elsewhere = [...]string{"/usr/local/nvidia/lib64", "/run/opengl-driver/lib"}

// library is the driver's library without which there is no CUDA.
const library = "libcuda.so.1"

// Present are the devices whose files are here, with nothing but their minor
// numbers: as much as can be told without the driver.
func Present() (all []Device) {
	files, _ := filepath.Glob("/dev/nvidia[0-9]*") // the pattern is good
	for i, file := range files {
		if minor, err := strconv.Atoi(strings.TrimPrefix(file, "/dev/nvidia")); err == nil {
			all = append(all, Device{Index: i, Minor: minor})
		}
	}
	return all
}

// FindAccess finds out what scripts need on this machine. The file for unified
// memory is made when it is not there, which takes the driver's own program: a
// script in a sandbox could not.
func FindAccess(ctx context.Context) (a Access, err error) {
	if _, missing := os.Stat("/dev/nvidia-uvm"); missing != nil {
		if out, err := exec.CommandContext(ctx, "nvidia-modprobe", "-u", "-c=0").CombinedOutput(); err != nil {
			return a, fmt.Errorf("/dev/nvidia-uvm is missing, and nvidia-modprobe does not make it: %w: %s", err, firstLine(out))
		}
	}
	for _, name := range common {
		if _, err := os.Stat("/dev/" + name); err == nil {
			a.Common = append(a.Common, "/dev/"+name)
		}
	}
	if out, err := exec.CommandContext(ctx, ldconfig(), "-p").Output(); err == nil {
		a.Libraries = cached(out)
	}
	if len(a.Libraries) == 0 {
		for _, dir := range elsewhere {
			if _, err := os.Stat(filepath.Join(dir, library)); err == nil {
				a.Libraries, a.Search = append(a.Libraries, dir), append(a.Search, dir)
			}
		}
	}
	if len(a.Libraries) == 0 {
		return a, fmt.Errorf("the driver's library %s is nowhere to be found: install the driver's libraries for computing", library)
	}
	return a, nil
}

// ldconfig is the linker's program; it is in no ordinary user's PATH.
func ldconfig() string {
	for _, path := range []string{"/sbin/ldconfig", "/usr/sbin/ldconfig"} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return "ldconfig"
}

// cached are the directories of the driver's library in what ldconfig -p says:
// lines such as "libcuda.so.1 (libc6,x86-64) => /usr/lib64/libcuda.so.1".
func cached(said []byte) (dirs []string) {
	for line := range strings.Lines(string(said)) {
		name, path, found := strings.Cut(strings.TrimSpace(line), " => ")
		if dir := filepath.Dir(path); found && strings.HasPrefix(name, library+" ") && !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// nodes are the device files for those devices.
func (a Access) nodes(devices []Device) []string {
	nodes := slices.Clone(a.Common)
	for _, d := range devices {
		if d.Minor >= 0 {
			nodes = append(nodes, fmt.Sprintf("/dev/nvidia%d", d.Minor))
		}
	}
	return nodes
}
