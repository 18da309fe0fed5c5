//go:build linux

package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"modulate/functions/sweeper/sweep"
	"modulate/internal/local"
	"modulate/internal/promise"
	"modulate/workerd/host"
	"modulate/workerd/runner"
	"modulate/workerd/sandbox"
	"modulate/workerd/worker"
)

// A role is a part of the system as a process of its own, put together as the
// programs do it, with a point at which it kills itself.
type role struct {
	Dir    string // the store's
	Serve  bool   // a router and a status server
	Sweep  bool   // a sweeper
	Worker string // the name of a worker for cpu with Slots slots; "": none
	Slots  int
	Later  bool   // nothing else: what waits for a worker is sent again, as in a minute
	Point  string // of the engine or the worker; "": none
	Hit    int32  // the visit of Point, from 1, that is its last
}

// ready is what a role prints once it is up; the address of its server
// follows.
const ready = "ready "

// role starts a role as a child.
func (r role) start(t *testing.T, w *world, name string) *child {
	t.Helper()
	spec, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return start(t, name, w.env(), self, "role", string(spec))
}

// play is the child's main.
func play(spec string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var r role
	if err := json.Unmarshal([]byte(spec), &r); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := r.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func (r role) run(ctx context.Context) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	l, err := local.Open(ctx, local.Config{Dir: r.Dir, Log: log})
	if err != nil {
		return err
	}
	defer l.Close()
	l.Engine.Fail = r.fail()

	if r.Later {
		return sendAgain(ctx, l)
	}
	address := ""
	if r.Serve {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		server := &http.Server{Handler: l.Handler()}
		go server.Serve(listener)
		defer server.Close()
		address = listener.Addr().String()
	}
	parts := make(chan error, 2)
	running := 0
	if r.Sweep {
		running++
		s := sweep.New(sweep.Config{Engine: l.Engine, Log: log})
		go func() { parts <- s.Run(ctx) }()
	}
	if r.Worker != "" {
		spool, err := l.Spool(r.Worker, "cpu")
		if err != nil {
			return err
		}
		defer spool.Close()
		h, err := host.Open(host.Machine{Sandbox: host.Sandbox{Level: sandbox.None}}, host.Options{Slots: r.Slots})
		if err != nil {
			return err
		}
		defer h.Close()
		run, end, err := h.Runner(host.Worker{Machine: "cpu", Spool: spool.Dir, Slots: r.Slots})
		if err != nil {
			return err
		}
		defer end()
		w, err := r.worker(l, spool.Dir, run)
		if err != nil {
			return err
		}
		running++
		go func() { parts <- w.Run(ctx) }()
	}
	fmt.Println(ready + address)
	<-ctx.Done()
	for range running {
		<-parts
	}
	return nil
}

// fail returns the function that kills this process, as kill -9 does, on the
// last visit of the role's point.
func (r role) fail() func(string) {
	var visits atomic.Int32
	return func(point string) {
		if point == r.Point && visits.Add(1) == r.Hit {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // no step further while the signal is on its way
		}
	}
}

// worker puts a worker together.
func (r role) worker(l *local.Local, spool string, run runner.Runner) (*worker.Worker, error) {
	return worker.New(worker.Config{
		Engine: l.Engine, Roster: l.Store, Machine: "cpu", Slots: r.Slots, Name: r.Worker,
		Runner: run, Runtimes: runner.Runtimes(nil), API: l.Handler(),
		Spool: spool, Log: l.Engine.Log,
	})
}

// sendAgain ticks every promise that waits for a worker, as a sweeper would in
// a minute: its message is taken for lost.
func sendAgain(ctx context.Context, l *local.Local) error {
	l.Engine.Now = func() promise.Time { return promise.TimeOf(time.Now()).Add(promise.FirstResend) }
	ids, err := l.Store.Due(ctx, l.Engine.Now(), 1000)
	if err != nil {
		return err
	}
	for _, id := range ids {
		rec, err := l.Store.Get(ctx, id)
		if err == nil && rec.Task.State == promise.TaskPending {
			_, err = l.Engine.Step(ctx, rec, promise.Tick{})
		}
		if err != nil {
			return err
		}
	}
	return nil
}
