package fileblob_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"modulate/internal/blob"
	"modulate/internal/promise"
)

// TestFull fills a file system of 64 KiB, mounted in a namespace of its own by
// this test run again inside it.
func TestFull(t *testing.T) {
	if dir := os.Getenv("FILEBLOB_FULL"); dir != "" {
		testFull(t, dir)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestFull$", "-test.v")
	cmd.Env = append(os.Environ(), "FILEBLOB_FULL="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSYS) {
		t.Skipf("no namespaces here: %v", err)
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func testFull(t *testing.T, dir string) {
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatalf("mounting a small file system: %v", err)
	}
	b := open(t, dir)
	put(t, b, "known", "x")
	large := strings.Repeat("x", 100_000)
	for i := range 3 {
		key := fmt.Sprint("large/", i)
		err := b.Put(t.Context(), key, strings.NewReader(large), int64(len(large)), promise.Hash{})
		if !errors.Is(err, blob.ErrFull) {
			t.Errorf("Put = %v, want ErrFull", err)
		}
		if _, err := b.Stat(t.Context(), key); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("Stat = %v, want ErrNotFound", err)
		}
	}
	if left := files(t, filepath.Join(dir, "tmp")); len(left) != 0 {
		t.Errorf("left in tmp: %q", left)
	}
	put(t, b, "small", "x") // the room is free again
}
