// Package emulator gives tests the AWS of a laptop: MiniStack, DynamoDB Local
// and ElasticMQ, as `make emulators` installs them. Each is started at most
// once in a test process, on first use, on a loopback port that the kernel
// chooses; TestMain hands its tests to [Main], which stops them. What a test
// makes there it gives a name of its own: the emulators are shared.
package emulator

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
)

// AWS returns the endpoint of MiniStack, which speaks for all services.
func AWS(t testing.TB) string { return ministack.endpoint(t) }

// DynamoDB returns the endpoint of DynamoDB Local: strict validation, and
// ReturnConsumedCapacity.
func DynamoDB(t testing.TB) string { return dynamoDB.endpoint(t) }

// SQS returns the endpoint of ElasticMQ with strict limits.
func SQS(t testing.TB) string { return elasticMQ.endpoint(t) }

// Config returns how to reach an emulator: static credentials, us-east-1, and
// connections that are closed when the test ends.
func Config(t testing.TB, endpoint string) aws.Config {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	t.Cleanup(transport.CloseIdleConnections)
	return aws.Config{
		Region:       "us-east-1",
		Credentials:  credentials.NewStaticCredentialsProvider("test", "test", ""),
		BaseEndpoint: aws.String(endpoint),
		HTTPClient:   &http.Client{Transport: plainBodies{transport}},
	}
}

// plainBodies hides that the body of a request can write itself: smithy-go
// closes it as soon as the answer is there, and writing itself then ends in
// io.EOF, which net/http takes for a broken connection. What answers from the
// same machine can be that fast: one reply in thousands was lost.
type plainBodies struct{ http.RoundTripper }

// RoundTrip is that of [http.RoundTripper].
func (p plainBodies) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		r = r.WithContext(r.Context()) // a copy
		r.Body = struct{ io.ReadCloser }{r.Body}
	}
	return p.RoundTripper.RoundTrip(r)
}

// patience is how long an emulator may take to start, on a busy machine.
const patience = 2 * time.Minute

// An emulator is a program that may be running.
type emulator struct {
	part   string                                          // of .emulators, and what it must hold
	health string                                          // a path that answers once it is ready
	says   string                                          // what nobody else answers there
	call   func(parts, scratch string, port int) *exec.Cmd // how to start it

	once    sync.Once
	url     string
	err     error
	running *process
}

// The emulators of this process.
var (
	ministack = &emulator{part: "ministack/.version", health: "/_ministack/health", says: `"services"`, call: callMiniStack}
	dynamoDB  = &emulator{part: "dynamodb/.version", health: "/", says: "com.amazonaws.dynamodb", call: callDynamoDB}
	elasticMQ = &emulator{part: "elasticmq/.version", health: "/", says: "//queue.amazonaws.com/", call: callElasticMQ}
)

func callMiniStack(parts, _ string, port int) *exec.Cmd {
	cmd := exec.Command(filepath.Join(parts, "ministack", "bin", "ministack"))
	cmd.Env = append(cmd.Environ(), "BIND_HOST=127.0.0.1", fmt.Sprintf("GATEWAY_PORT=%d", port),
		"IOT_MTLS_ENABLED=0", "LOG_LEVEL=WARNING")
	return cmd
}

func callDynamoDB(parts, _ string, port int) *exec.Cmd {
	jars := filepath.Join(parts, "dynamodb")
	return java("-Djava.library.path="+jars, "-cp", filepath.Join(jars, "*"),
		"com.amazonaws.services.dynamodbv2.local.main.ServerRunner",
		"-inMemory", "-sharedDb", "-disableTelemetry", "-port", strconv.Itoa(port))
}

func callElasticMQ(parts, scratch string, port int) *exec.Cmd {
	return java("-Dconfig.file="+filepath.Join(scratch, "elasticmq.conf"),
		"-Dmodulate.port="+strconv.Itoa(port),
		"-cp", filepath.Join(parts, "elasticmq", "*"), "org.elasticmq.server.Main")
}

// elasticMQConf is what ElasticMQ reads.
const elasticMQConf = `
include classpath("application.conf")
node-address { host = "127.0.0.1", port = ${modulate.port} }
rest-sqs { bind-hostname = "127.0.0.1", bind-port = ${modulate.port}, sqs-limits = strict }
rest-stats.enabled = false
`

// java calls a JVM that is quick to start and content with little.
func java(args ...string) *exec.Cmd {
	return exec.Command("java", append([]string{"-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx512m"}, args...)...)
}

// endpoint starts e, unless it runs already, and returns its URL.
func (e *emulator) endpoint(t testing.TB) string {
	t.Helper()
	if testing.Short() {
		t.Skip("needs " + filepath.Dir(e.part) + ", which is not started for short tests")
	}
	root, err := root()
	if err != nil {
		t.Fatal(err)
	}
	parts := filepath.Join(root, ".emulators")
	if _, err := os.Stat(filepath.Join(parts, e.part)); err != nil {
		missing(t, filepath.Dir(e.part)+" is not installed: run `make emulators`, with Java and Maven for all of them")
	}
	e.once.Do(func() { e.err = e.start(parts) })
	if e.err != nil {
		t.Fatalf("starting %s: %v", filepath.Dir(e.part), e.err)
	}
	return e.url
}

// root returns the directory of go.mod: tests run in their packages'.
func root() (string, error) {
	dir, err := os.Getwd()
	for err == nil {
		if _, found := os.Stat(filepath.Join(dir, "go.mod")); found == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no go.mod above the working directory")
		}
		dir = filepath.Dir(dir)
	}
	return "", err
}

// errDied is the error of an emulator that ended before it was ready.
var errDied = errors.New("it died")

// start starts e on a port that is free at that moment. Who listens on any port
// may be given it before e is, which then dies of it: so it has three tries.
func (e *emulator) start(parts string) (err error) {
	for range 3 {
		if err = e.try(parts); !errors.Is(err, errDied) {
			return err
		}
		e.stop()
	}
	return err
}

func (e *emulator) try(parts string) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	port := listener.Addr().(*net.TCPAddr).Port
	listener.Close()
	e.url = fmt.Sprintf("http://127.0.0.1:%d", port)
	scratch, err := os.MkdirTemp("", "emulator-")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(scratch, "elasticmq.conf"), []byte(elasticMQConf), 0o600); err != nil {
		return err
	}
	if e.running, err = begin(e.call(parts, scratch, port), scratch); err != nil {
		return err
	}
	return e.running.ready(e.url+e.health, e.says)
}

// stop ends e if it was started.
func (e *emulator) stop() {
	if e.running != nil {
		e.running.end()
	}
}

// A process is a program under a shell that ends it, and removes its directory,
// as soon as nobody holds the shell's stdin any more, however this process ends.
type process struct {
	shell *exec.Cmd
	hold  io.Closer
	alive *os.File // a pipe that only the program holds at its other end
	log   string
}

const underShell = `"$@" </dev/null & exec 3>&-; cat >/dev/null; kill $!; wait; rm -rf "$0"`

// begin starts what cmd says; scratch is its directory.
func begin(cmd *exec.Cmd, scratch string) (*process, error) {
	if cmd.Err != nil {
		return nil, cmd.Err
	}
	p := &process{log: filepath.Join(scratch, "log")}
	out, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	p.shell = exec.Command("sh", append([]string{"-c", underShell, scratch, cmd.Path}, cmd.Args[1:]...)...)
	p.shell.Env, p.shell.Stdout, p.shell.Stderr = cmd.Env, out, out
	if p.hold, err = p.shell.StdinPipe(); err != nil {
		return nil, err
	}
	var held *os.File
	if p.alive, held, err = os.Pipe(); err != nil {
		return nil, err
	}
	defer held.Close()
	p.shell.ExtraFiles = []*os.File{held} // 3
	return p, p.shell.Start()
}

// ready waits until url answers with a text that says that.
func (p *process) ready(url, says string) error {
	defer p.alive.Close()
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for deadline := time.Now().Add(patience); ; {
		err := answers(client, url, says)
		died, waiting := p.died()
		said, _ := os.ReadFile(p.log) // what there is of it
		switch {
		case waiting != nil:
			return waiting
		case died:
			return fmt.Errorf("%w; it says:\n%s", errDied, said)
		case err == nil:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("no answer within %v (%w); it says:\n%s", patience, err, said)
		}
	}
}

// died reports whether the program has ended, or does so in a moment.
func (p *process) died() (bool, error) {
	if err := p.alive.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		return false, err
	}
	_, err := p.alive.Read(make([]byte, 1)) // nothing is ever written
	return errors.Is(err, io.EOF), nil
}

// answers asks url and wants an answer that says that.
func answers(client *http.Client, url, says string) error {
	res, err := client.Get(url)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && !bytes.Contains(body, []byte(says)) {
		err = fmt.Errorf("%s answers: %.200s", url, body)
	}
	return err
}

// end stops the program.
func (p *process) end() {
	p.hold.Close()
	_ = p.shell.Wait() // it says how rm went
}
