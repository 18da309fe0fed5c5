// Package localstack_test runs Modulate on the AWS of a laptop from end to end:
// the real templates deployed by SAM, the real functions behind the HTTP API,
// a workerd for each machine, and the CLI.
package localstack_test

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"

	"modulate/internal/emulator"
)

// TestEndToEnd deploys everything to emulated AWS, runs a script on each
// machine, and takes it all away again.
func TestEndToEnd(t *testing.T) {
	installed(t)
	w := newLaptop(t)
	url := w.up(t)
	if again, said := w.script(t, "up.sh"); !strings.HasSuffix(again, url+"\n") || !strings.Contains(said, "already up") {
		t.Errorf("a second up.sh said %q and %q, want the URL again and that it is up", again, said)
	}
	w.checkStacks(t)

	cli := w.build(t)
	for _, machine := range []string{"cpu", "gpu"} {
		id := "hello-" + machine
		out := w.run(t, cli, "--url", url, "run", w.root+"/examples/hello.py", "--machine", machine, "--id", id)
		if want := "on a " + machine + " machine"; !strings.Contains(out, want) || !strings.Contains(out, id) {
			t.Errorf("hello.py on %s printed %q", machine, out)
		}
		// The same promise, found through the stack's outputs.
		var got struct {
			State, Owner string
			Attempts     []struct{ Worker string }
		}
		if err := json.Unmarshal([]byte(w.run(t, cli, "--stage", "local", "get", id, "--json")), &got); err != nil {
			t.Fatal(err)
		}
		if got.State != "resolved" || got.Owner != "local" || len(got.Attempts) != 1 || got.Attempts[0].Worker != "local-"+machine {
			t.Errorf("%s is %+v, want it resolved by local-%s at the first attempt", id, got, machine)
		}
	}
	w.checkNothingEmbedded(t)

	processes := w.processes(t)
	if len(processes) != 3 {
		t.Errorf("%d processes run, want MiniStack and two workers", len(processes))
	}
	w.script(t, "down.sh")
	for _, pid := range processes {
		if running(pid) {
			t.Errorf("process %d outlives down.sh", pid)
		}
	}
	if w.taken() {
		t.Errorf("something still listens on %s", w.address)
	}
	if left := w.left(t); slices.ContainsFunc(left, func(name string) bool { return !strings.HasSuffix(name, ".log") }) {
		t.Errorf("down.sh leaves %q, want logs only", left)
	}
	if out, said := w.script(t, "down.sh"); out+said != "" {
		t.Errorf("a second down.sh said %q and %q, want nothing", out, said)
	}
}

// TestDownEndsOnlyItsOwn has a record of a process whose pid has come to mean
// another one.
func TestDownEndsOnlyItsOwn(t *testing.T) {
	w := newLaptop(t)
	other := exec.Command("sleep", "600")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Process.Kill(); other.Wait() })
	record := strconv.Itoa(other.Process.Pid) + " of another moment\n"
	if err := os.WriteFile(filepath.Join(w.state, "workerd-cpu.process"), []byte(record), 0o600); err != nil {
		t.Fatal(err)
	}
	w.script(t, "down.sh")
	if !running(other.Process.Pid) {
		t.Error("down.sh ended a process that up.sh had not started")
	}
	if left := w.left(t); len(left) != 0 {
		t.Errorf("down.sh leaves %q", left)
	}
}

// TestUpRefusesATakenPort wants up.sh to leave alone whoever listens there.
func TestUpRefusesATakenPort(t *testing.T) {
	installed(t)
	w := newLaptop(t)
	taken, err := net.Listen("tcp", w.address)
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	out, said, err := w.try("up.sh")
	if err == nil || out != "" || !strings.Contains(said, "is taken") {
		t.Errorf("up.sh on a taken port: %q, %q, %v", out, said, err)
	}
}

// installed skips the test where the emulators are not; in CI that is a
// failure.
func installed(t *testing.T) {
	if testing.Short() {
		t.Skip("the AWS of a laptop takes half a minute; not for short tests")
	}
	if _, err := os.Stat("../.emulators/sam/bin/sam"); err != nil {
		if os.Getenv("CI") == "1" {
			t.Fatal("the emulators are missing: make emulators installs them")
		}
		t.Skip("the emulators are missing: make emulators installs them")
	}
}

// A laptop is one run of up.sh: its state and its port.
type laptop struct {
	root, state, home string
	address           string
	env               []string
}

func newLaptop(t *testing.T) *laptop {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	w := &laptop{root: root, state: t.TempDir(), home: t.TempDir()}
	w.move(t)
	return w
}

// move gives it a port that is free at that moment.
func (w *laptop) move(t *testing.T) {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer free.Close()
	w.address = free.Addr().String()
	_, port, _ := net.SplitHostPort(w.address)
	w.env = append(os.Environ(), "STATE="+w.state, "PORT="+port, "MAKEFLAGS=", "MAKELEVEL=")
}

// taken reports whether anybody listens there.
func (w *laptop) taken() bool {
	c, err := net.Dial("tcp", w.address)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// up starts it, and returns the URL of its API. Where somebody else is given
// its port meanwhile it goes to another, three times at most.
func (w *laptop) up(t *testing.T) string {
	t.Helper()
	t.Cleanup(func() { w.script(t, "down.sh") })
	out, said, err := w.try("up.sh")
	for tries := 1; err != nil && w.taken() && tries < 3; tries++ { // up.sh has ended whatever it started
		w.move(t)
		out, said, err = w.try("up.sh")
	}
	if err != nil {
		t.Fatalf("up.sh: %v\n%s%s", err, out, said)
	}
	url := strings.TrimSpace(out)
	if !strings.HasPrefix(url, "http://"+w.address+"/") {
		t.Fatalf("up.sh printed %q, want the URL of the API on %s", out, w.address)
	}
	return url
}

// script runs up.sh or down.sh, which must succeed.
func (w *laptop) script(t *testing.T, name string) (stdout, stderr string) {
	t.Helper()
	stdout, stderr, err := w.try(name)
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", name, err, stdout, stderr)
	}
	return stdout, stderr
}

// try runs a script. It is an error if what the script leaves running holds its
// output.
func (w *laptop) try(name string) (stdout, stderr string, err error) {
	var out, said bytes.Buffer
	cmd := exec.Command("./" + name)
	cmd.Env, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = w.env, &out, &said, 20*time.Second
	err = cmd.Run()
	return out.String(), said.String(), err
}

// build makes the CLI.
func (w *laptop) build(t *testing.T) string {
	t.Helper()
	cli := filepath.Join(t.TempDir(), "modulate")
	if out, err := exec.Command("go", "build", "-o", cli, "../cmd/modulate").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return cli
}

// run runs the CLI, in a directory and a home that are its own.
func (w *laptop) run(t *testing.T, cli string, args ...string) string {
	t.Helper()
	cmd := exec.Command(cli, args...)
	cmd.Dir = w.home
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + w.home, "AWS_ENDPOINT_URL=http://" + w.address, "AWS_REGION=us-east-1",
		"AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test", "AWS_EC2_METADATA_DISABLED=true",
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("modulate %q: %v\n%s%s", args, err, out, said.String())
	}
	return string(out)
}

// checkStacks looks at what has been deployed.
func (w *laptop) checkStacks(t *testing.T) {
	t.Helper()
	client := cloudformation.NewFromConfig(emulator.Config(t, "http://"+w.address))
	for stack, want := range map[string][]string{
		"modulate-local": {
			"AWS::DynamoDB::Table", "AWS::S3::Bucket", "AWS::S3::BucketPolicy", "AWS::ApiGatewayV2::Api", "AWS::ApiGatewayV2::Stage",
			"AWS::ApiGatewayV2::Integration", "AWS::ApiGatewayV2::Route", "AWS::Lambda::Function", "AWS::Lambda::Permission",
			"AWS::Events::Rule", "AWS::IAM::Role", "AWS::IAM::ManagedPolicy", "AWS::Logs::LogGroup", "AWS::Lambda::EventInvokeConfig",
		},
		"modulate-local-cpu": {"AWS::SQS::Queue", "AWS::SQS::QueuePolicy"},
		"modulate-local-gpu": {"AWS::SQS::Queue", "AWS::SQS::QueuePolicy"},
	} {
		out, err := client.DescribeStackResources(t.Context(), &cloudformation.DescribeStackResourcesInput{StackName: &stack})
		if err != nil {
			t.Fatal(err)
		}
		count := map[string]int{}
		for _, r := range out.StackResources {
			if r.ResourceStatus != "CREATE_COMPLETE" {
				t.Errorf("%s: %s is %s", stack, aws.ToString(r.LogicalResourceId), r.ResourceStatus)
			}
			count[aws.ToString(r.ResourceType)]++
		}
		for _, kind := range want {
			if count[kind] == 0 {
				t.Errorf("%s has no %s", stack, kind)
			}
			delete(count, kind)
		}
		if len(count) != 0 {
			t.Errorf("%s has %v besides", stack, count)
		}
	}
}

// checkNothingEmbedded wants no embedded store where the CLI ran.
func (w *laptop) checkNothingEmbedded(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir(w.home, func(name string, d fs.DirEntry, err error) error {
		if err == nil && (d.Name() == ".modulate" || d.Name() == "store.db") {
			t.Errorf("the CLI made %s: it works on an embedded store", name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// processes are the pids that up.sh has recorded.
func (w *laptop) processes(t *testing.T) (pids []int) {
	t.Helper()
	records, err := filepath.Glob(filepath.Join(w.state, "*.process"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range records {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		digits, _, _ := strings.Cut(string(text), " ")
		pid, err := strconv.Atoi(digits)
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

// left are the names in the state's directory.
func (w *laptop) left(t *testing.T) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(w.state)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// running reports whether there is such a process, one that has ended and that
// nobody has waited for not counted.
func running(pid int) bool {
	if stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat"); err == nil {
		_, state, _ := strings.Cut(string(stat), ") ")
		return !strings.HasPrefix(state, "Z")
	}
	return syscall.Kill(pid, 0) == nil
}
