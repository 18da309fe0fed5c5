package sandbox

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Where the suite runs, as in CI, all of it is there.
func TestProbe(t *testing.T) {
	rooted(t)
	began := time.Now()
	r := Probe()
	t.Logf("in %v", time.Since(began))
	for _, f := range r.Findings() {
		if t.Logf("%s: %s", f.Name, f.Text); !f.OK {
			t.Errorf("%s: %s", f.Name, f.Text)
		}
	}
}

// userSide is what this test binary is called when it is a user's.
const userSide = "sandbox-user"

// A user has a sandbox too, in a user namespace, under the same uid, and nothing
// that only root can give.
func TestAUserHasASandbox(t *testing.T) {
	rooted(t)
	cmd := again(userSide, 0)
	self, err := os.Open("/proc/self/exe") // it may lie where the user does not get
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	cmd.Path, cmd.ExtraFiles, cmd.Dir = "/proc/self/fd/3", []*os.File{self}, "/"
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
	out, err := cmd.CombinedOutput()
	const want = `sandbox true, cgroups false, uids false, egress false
65534 job
Uid: 65534 65534 65534 65534
CapEff: 0000000000000000
CapBnd: 0000000000000000
NoNewPrivs: 1
another user namespace: no
written: /job /job/work /job/output /tmp /dev/shm
`
	if err != nil || string(out) != want {
		t.Errorf("%v\n%s\nwant\n%s", err, out, want)
	}
}

// userMain prints what a user has, and what a script of his sees.
func userMain() error {
	var all []string
	for _, f := range Probe().Findings() {
		all = append(all, fmt.Sprintf("%s %v", f.Name, f.OK))
	}
	fmt.Println(strings.Join(all, ", "))
	const look = `echo $(id -u) $(whoami)
grep -E "^(Uid|CapEff|CapBnd|NoNewPrivs):" /proc/self/status | tr -s "\t" " "
unshare -U true 2>/dev/null || echo another user namespace: no
echo written: $(for d in / /job /job/work /job/output /tmp /dev /dev/shm /etc /run /var; do touch $d/x 2>/dev/null && echo $d; done)
`
	c, err := Config{Limits: Limits{Scratch: 1 << 20}}.Command(Start{Command: []string{"/bin/sh", "-c", look}})
	if err != nil {
		return err
	}
	defer c.Close()
	var out bytes.Buffer
	cmd := &exec.Cmd{Path: c.Path, Args: c.Argv, Env: c.Env, ExtraFiles: c.Files, Stdout: &out, Stderr: &out, SysProcAttr: Clone(os.Getuid(), os.Getgid())}
	err = cmd.Run()
	io.Copy(os.Stdout, &out)
	return err
}
