package sandbox

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The network of these tests is two namespaces of their own with a cable
// between: in one is the machine, in the other all that it could reach, the
// cloud's metadata among it. Nothing of it is the real machine's.

// What this test binary is called when it is one of those sides.
const (
	machineSide = "egress-machine"
	worldSide   = "egress-world"
)

func TestMain(m *testing.M) {
	side := map[string]func() error{machineSide: machineMain, worldSide: worldMain, userSide: userMain}[os.Args[0]]
	if side == nil {
		os.Exit(m.Run())
	}
	if err := side(); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
}

// again is this test binary, called otherwise, in namespaces of its own.
func again(name string, flags uintptr) *exec.Cmd {
	return &exec.Cmd{Path: "/proc/self/exe", Args: []string{name}, Env: []string{"PATH=" + os.Getenv("PATH")}, SysProcAttr: &syscall.SysProcAttr{Cloneflags: flags}}
}

func TestEgress(t *testing.T) {
	rooted(t)
	out, err := again(machineSide, syscall.CLONE_NEWNET|syscall.CLONE_NEWNS|syscall.CLONE_NEWPID).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	const public = "45.0.0.2/80 45.0.0.2/53 2a00::2/80 2a00::2/53"
	want := "root: 45.0.0.2/80 45.0.0.2/53 2a00::2/80 2a00::2/53 169.254.169.254/80 169.254.169.254/53 169.254.170.2/80 169.254.170.2/53 " +
		"10.0.0.9/80 10.0.0.9/53 10.0.0.53/80 10.0.0.53/53 fd00:ec2::254/80 fd00:ec2::254/53 127.0.0.1/80 ::1/80 45.0.0.1/80 0.0.0.0/80 ::ffff:10.0.0.9/80\n" +
		"script: " + public + " 10.0.0.53/53\n" +
		"flushed: " + public + " 10.0.0.53/53\n" +
		"no egress:\n"
	if string(out) != want {
		t.Errorf("reached\n%swant\n%s", out, want)
	}
}

// destinations are what is tried, in this order.
var destinations = func() (all []string) {
	for _, a := range []string{"45.0.0.2", "2a00::2", "169.254.169.254", "169.254.170.2", "10.0.0.9", "10.0.0.53", "fd00:ec2::254"} {
		all = append(all, a+"/80", a+"/53")
	}
	return append(all, "127.0.0.1/80", "::1/80", "45.0.0.1/80", "0.0.0.0/80", "::ffff:10.0.0.9/80")
}()

// knock tries them, and prints those that answer.
var knock = `for at in ` + strings.Join(destinations, " ") + `; do (exec 3<>/dev/tcp/$at) 2>/dev/null && echo -n " $at"; done; echo`

// machineMain is the machine: it lays the cable, and tries what a script
// reaches.
func machineMain() error {
	if err := Enter(Limits{}); err != nil {
		return err
	}
	world := again(worldSide, syscall.CLONE_NEWNET)
	there, err := world.StdoutPipe()
	if err != nil {
		return err
	}
	cabled, err := world.StdinPipe() // the world ends with it
	if err != nil {
		return err
	}
	if err := world.Start(); err != nil {
		return err
	}
	if err := ip(fmt.Sprintf(`link set lo up
link add v0 type veth peer name v1 netns %d
addr add 45.0.0.1/24 dev v0
addr add 2a00::1/64 dev v0 nodad
link set v0 up
route add default via 45.0.0.2
route add default via 2a00::2 dev v0`, world.Process.Pid)); err != nil {
		return err
	}
	io.WriteString(cabled, "\n")
	if _, err := there.Read(make([]byte, 1)); err != nil {
		return fmt.Errorf("the world did not begin: %w", err)
	}
	if err := serve(":80"); err != nil { // what listens on the machine itself
		return err
	}
	if err := tell(); err != nil {
		return err
	}
	cabled.Close()
	return world.Wait()
}

// tell prints what can be reached.
func tell() error {
	resolv, err := os.CreateTemp("", "resolv")
	if err != nil {
		return err
	}
	defer os.Remove(resolv.Name())
	resolv.WriteString("# a comment\nnameserver 10.0.0.53\nsearch nameserver\n")
	if err := unix.Mount(resolv.Name(), "/etc/resolv.conf", "", unix.MS_BIND, ""); err != nil {
		return err
	}
	ctx := context.Background()
	script := func(what string, egress bool) error {
		uid, err := LeaseUID()
		if err != nil {
			return err
		}
		defer uid.Close()
		c, err := Config{Egress: egress}.Command(Start{UID: uid.Number, Command: []string{"/bin/bash", "-c", knock}})
		if err != nil {
			return err
		}
		defer c.Close()
		return run(what, &exec.Cmd{Path: c.Path, Args: c.Argv, Env: c.Env, ExtraFiles: c.Files})
	}
	if err := run("root", exec.Command("/bin/bash", "-c", knock)); err != nil {
		return err
	}
	if err := Egress(ctx); err != nil {
		return err
	}
	if err := script("script", true); err != nil {
		return err
	}
	if err := nft(ctx, "", "flush", "ruleset"); err != nil {
		return err
	}
	if err := script("flushed", true); err != nil {
		return err
	}
	return script("no egress", false)
}

func run(what string, cmd *exec.Cmd) error {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	fmt.Printf("%s:%s", what, &out)
	return err
}

// worldMain is the other end of the cable: it has every address, and answers
// at all of them.
func worldMain() error {
	if _, err := os.Stdin.Read(make([]byte, 1)); err != nil {
		return err
	}
	err := ip(`link set lo up
addr add 45.0.0.2/24 dev v1
addr add 2a00::2/64 dev v1 nodad
addr add 169.254.169.254/32 dev v1
addr add 169.254.170.2/32 dev v1
addr add 10.0.0.9/32 dev v1
addr add 10.0.0.53/32 dev v1
addr add fd00:ec2::254/128 dev v1 nodad
link set v1 up`)
	if err != nil {
		return err
	}
	for _, at := range []string{":80", ":53"} {
		if err := serve(at); err != nil {
			return err
		}
	}
	fmt.Println()
	io.Copy(io.Discard, os.Stdin) // until the machine is done
	return nil
}

// serve takes connections.
func serve(at string) error {
	l, err := net.Listen("tcp", at)
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	return nil
}

// ip runs lines of ip(8).
func ip(lines string) error {
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(lines + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip: %w: %s", err, out)
	}
	return nil
}
