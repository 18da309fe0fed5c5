package hostile

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"modulate/workerd/runner"
	"modulate/workerd/sandbox"
)

// openName is what this test binary is called where it runs scripts without a
// sandbox: in namespaces of their own, which end with it.
const openName = "hostile-open"

// breaches are the attacks that succeed where nothing contains them, and do no
// harm beyond their namespaces. One that did not would show nothing when it is
// contained.
var breaches = []string{
	"the host's files", "network", "others' memory", "processes of the host", "who it runs on",
	"unshare", "sockets of other families", "setuid", "priorities and limits",
}

func TestWithoutASandboxTheySucceed(t *testing.T) {
	if os.Args[0] == openName {
		beOpen(t)
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("it takes root, to make the namespaces that may be harmed")
	}
	cmd := exec.Command("/proc/self/exe", "-test.v", "-test.timeout=1m", "-test.run=^"+t.Name()+"$")
	cmd.Args[0] = openName
	cmd.SysProcAttr = sandbox.Clone(os.Getuid(), os.Getgid())
	cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func beOpen(t *testing.T) {
	if err := sandbox.Enter(sandbox.Limits{}); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	y := newYard(t, machine{runner.Exec{Dir: t.TempDir()}, runner.Runtimes(nil)})
	all := slices.Concat(resources, streams, processes, kernel, reach)
	for _, name := range breaches {
		i := slices.IndexFunc(all, func(a attack) bool { return a.name == name })
		if i < 0 {
			t.Fatalf("there is no attack %q", name)
		}
		rec, seen := y.run(strings.Map(idRune, name), all[i].text(), timeout)
		if !strings.Contains(seen, "BREACH") && !strings.Contains(seen, hidden) && !strings.Contains(seen, y.hostname) {
			t.Errorf("%s shows nothing: %s, %.500q", name, rec.Outcome.Cause, seen)
		}
	}
}
