package lambdatest

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// initTime is how long a program may take until it asks for its first event
// (AWS: 10 s), and more on a busy machine.
const initTime = time.Minute

// An environment is a running program and the Runtime API that it talks to.
type environment struct {
	cmd    *exec.Cmd
	server *http.Server
	asking chan struct{} // it wants an event
	events chan event
	dead   chan struct{} // closed when the program has ended
	frozen bool

	mu      sync.Mutex
	current event
}

// event is an invocation on its way.
type event struct {
	id       string
	payload  []byte
	deadline time.Time
	done     chan result // of one
}

type result struct {
	body []byte
	err  error
}

var requests atomic.Uint64

// start starts a program, and returns when it asks for an event.
func start(cfg Config) (*environment, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	e := &environment{asking: make(chan struct{}), events: make(chan event), dead: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /2018-06-01/runtime/invocation/next", e.next)
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/response", e.answered)
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/error", e.answered)
	mux.HandleFunc("POST /2018-06-01/runtime/init/error", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) })
	e.server = &http.Server{Handler: mux}
	go e.server.Serve(l) // until it is closed

	e.cmd = exec.Command(cfg.Bootstrap)
	e.cmd.Env = append([]string{
		"AWS_LAMBDA_RUNTIME_API=" + l.Addr().String(), "AWS_LAMBDA_FUNCTION_NAME=test", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE=512",
		"AWS_EC2_METADATA_DISABLED=true", "TZ=:UTC",
	}, cfg.Env...)
	e.cmd.Stdout, e.cmd.Stderr = cfg.Log, cfg.Log
	e.cmd.SysProcAttr = dieWithParent()
	if err := e.cmd.Start(); err != nil {
		e.server.Close()
		return nil, fmt.Errorf("starting %s: %w", cfg.Bootstrap, err)
	}
	go func() {
		e.cmd.Wait()
		e.server.Close()
		close(e.dead)
	}()
	select {
	case <-e.asking:
		return e, nil
	case <-e.dead:
		return nil, fmt.Errorf("%w before it asked for an event: %s", ErrDied, e.cmd.ProcessState)
	case <-time.After(initTime):
		e.kill()
		<-e.dead
		return nil, fmt.Errorf("%w: it asked for no event in %s", ErrTimeout, initTime)
	}
}

// next gives the program its next event.
func (e *environment) next(w http.ResponseWriter, r *http.Request) {
	select {
	case e.asking <- struct{}{}:
	case <-r.Context().Done():
		return
	}
	select {
	case ev := <-e.events:
		e.mu.Lock()
		e.current = ev
		e.mu.Unlock()
		h := w.Header()
		h["Lambda-Runtime-Aws-Request-Id"] = []string{ev.id}
		h["Lambda-Runtime-Deadline-Ms"] = []string{strconv.FormatInt(ev.deadline.UnixMilli(), 10)}
		h["Lambda-Runtime-Invoked-Function-Arn"] = []string{"arn:aws:lambda:us-east-1:000000000000:function:test"}
		h["Content-Type"] = []string{"application/json"}
		w.Write(ev.payload)
	case <-r.Context().Done():
	}
}

// answered takes an answer, or what went wrong.
func (e *environment) answered(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	e.mu.Lock()
	ev := e.current
	e.mu.Unlock()
	if err != nil || r.PathValue("id") != ev.id {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusAccepted)
	got := result{body: body}
	if bytes.HasSuffix([]byte(r.URL.Path), []byte("/error")) {
		got = result{err: fmt.Errorf("%w: %s", ErrFunction, body)}
	}
	select {
	case ev.done <- got:
	default: // it has answered before
	}
}

// invoke hands over an event and waits for its end.
func (e *environment) invoke(payload []byte, limit time.Duration, timeout <-chan time.Time) ([]byte, error) {
	if e.frozen {
		e.frozen = false
		e.cmd.Process.Signal(syscall.SIGCONT)
	}
	ev := event{
		id: fmt.Sprintf("00000000-0000-4000-8000-%012d", requests.Add(1)), payload: payload,
		deadline: time.Now().Add(limit), done: make(chan result, 1),
	}
	select {
	case e.events <- ev:
	case <-e.dead:
		return nil, ErrDied
	}
	select {
	case r := <-ev.done:
		return r.body, r.err
	case <-e.dead:
		return nil, ErrDied
	case <-timeout:
		e.kill()
		return nil, ErrTimeout
	}
}

func (e *environment) freeze() {
	e.frozen = true
	e.cmd.Process.Signal(syscall.SIGSTOP)
}

func (e *environment) kill() { e.cmd.Process.Kill() }

func (e *environment) isDead() bool {
	select {
	case <-e.dead:
		return true
	default:
		return false
	}
}

// Log keeps what the programs of a test have written.
type Log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write keeps p.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// String returns all that was written.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
