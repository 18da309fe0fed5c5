// Package lambdatest is AWS Lambda and API Gateway for tests and benchmarks:
// it starts the real bootstrap programs, as many environments of each as
// wanted, and gives them events through the Runtime API (AWS, "Using the Lambda
// runtime API"). An environment can be killed in the middle of an invocation,
// run into its timeout, and be frozen between two, as Lambda does it. Everything
// is on loopback ports that the kernel chooses.
package lambdatest

import (
	"archive/zip"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// What may become of an invocation besides an answer.
var (
	// ErrDied: the program has ended, or was killed.
	ErrDied = errors.New("the environment died")
	// ErrTimeout: the function's time was over, and the program was killed.
	ErrTimeout = errors.New("the function timed out")
	// ErrFunction: the program reported an error.
	ErrFunction = errors.New("the function failed")
)

// Build makes the bootstrap program of a command of this module, as it is
// deployed, in dir/NAME, and returns its path. goarch "" is this machine's.
func Build(ctx context.Context, dir, command, goarch string) (string, error) {
	out := filepath.Join(dir, filepath.Base(command)+goarch, "bootstrap")
	cmd := exec.CommandContext(ctx, "go", "build", "-tags", "lambda.norpc", "-trimpath", "-ldflags", "-s -w", "-o", out, "modulate/"+command)
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+goarch)
	if said, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", command, err, said)
	}
	return out, nil
}

// ZipSize returns how many bytes a program has in the zip that is sent to
// Lambda.
func ZipSize(program string) (int, error) {
	content, err := os.ReadFile(program)
	if err != nil {
		return 0, err
	}
	var out bytes.Buffer
	z := zip.NewWriter(&out)
	f, err := z.Create("bootstrap")
	if err != nil {
		return 0, err
	}
	if _, err := f.Write(content); err != nil {
		return 0, err
	}
	err = z.Close()
	return out.Len(), err
}

// Config says how to run a function. Only Bootstrap must be set.
type Config struct {
	Bootstrap    string
	Env          []string      // all that the program finds, besides what Lambda gives it
	Environments int           // at most; 1 when 0
	Timeout      time.Duration // of an invocation; 30 s when 0
	Freeze       bool          // stop an environment while it has nothing to do
	Log          *Log          // takes what the programs write; nil: discarded
}

// A Function is a program that can be invoked. An environment is started when
// all that there are have something to do. Its methods may be called from any
// goroutine.
type Function struct {
	cfg    Config
	places chan struct{} // one for each environment that may be at work
	works  sync.WaitGroup

	mu     sync.Mutex
	idle   []*environment // the latest used last
	all    map[*environment]bool
	starts int
	closed bool
}

// New returns a Function, which is to be closed. Nothing is started yet.
func New(cfg Config) *Function {
	cfg.Environments = cmp.Or(cfg.Environments, 1)
	cfg.Timeout = cmp.Or(cfg.Timeout, 30*time.Second)
	cfg.Log = cmp.Or(cfg.Log, &Log{})
	return &Function{cfg: cfg, places: make(chan struct{}, cfg.Environments), all: make(map[*environment]bool)}
}

// Starts returns how many environments have been started: cold starts.
func (f *Function) Starts() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.starts
}

// Kill ends every environment as kill -9 does, whatever it is doing.
func (f *Function) Kill() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for e := range f.all {
		e.kill()
	}
}

// Close ends every environment, and returns when all are gone.
func (f *Function) Close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.Kill()
	f.works.Wait()
	for e := range f.all {
		<-e.dead
	}
}

// Invoke gives an event to an environment, once one is free, and returns its
// answer.
func (f *Function) Invoke(payload []byte) ([]byte, error) {
	if !f.begin() {
		return nil, ErrDied
	}
	f.places <- struct{}{}
	e, err := f.environment()
	if err != nil {
		<-f.places
		f.works.Done()
		return nil, err
	}
	timeout := time.NewTimer(f.cfg.Timeout)
	answer, err := e.invoke(payload, f.cfg.Timeout, timeout.C)
	go func() { // the answer need not wait for the environment to be free
		f.rest(e, timeout.C)
		timeout.Stop()
		<-f.places
		f.works.Done()
	}()
	return answer, err
}

// begin reports whether one more invocation may begin.
func (f *Function) begin() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.works.Add(1)
	}
	return !f.closed
}

// environment returns one that is idle, or a new one.
func (f *Function) environment() (*environment, error) {
	if e := f.take(); e != nil {
		return e, nil
	}
	e, err := start(f.cfg)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.starts++
	f.all[e] = true
	if f.closed {
		e.kill()
	}
	return e, nil
}

// take returns an idle environment that lives, or nil.
func (f *Function) take() *environment {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.idle) > 0 {
		e := f.idle[len(f.idle)-1]
		f.idle = f.idle[:len(f.idle)-1]
		if !e.isDead() {
			return e
		}
		delete(f.all, e)
	}
	return nil
}

// rest waits until an environment asks for more, and keeps it for the next
// event. One that does not is of no use any more.
func (f *Function) rest(e *environment, timeout <-chan time.Time) {
	select {
	case <-e.asking:
		if f.cfg.Freeze {
			e.freeze()
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.idle = append(f.idle, e)
		return
	case <-timeout:
		e.kill()
	case <-e.dead:
	}
	<-e.dead
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.all, e)
}
