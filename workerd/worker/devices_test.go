package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"modulate/internal/promise"
	"modulate/workerd/device"
	"modulate/workerd/runner"
)

// gpus is a machine with devices.
type gpus struct {
	mu      sync.Mutex
	devices []device.Device
	seen    func(string, int64)
}

func (g *gpus) Look(context.Context) ([]device.Device, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.devices), nil
}

func (g *gpus) Watch(ctx context.Context, seen func(string, int64)) error {
	g.mu.Lock()
	g.seen = seen
	g.mu.Unlock()
	<-ctx.Done()
	return ctx.Err()
}

// fill has so much of a device's memory in use, as whoever watches sees.
func (g *gpus) fill(uuid string, used int64) {
	g.mu.Lock()
	seen := g.seen
	g.mu.Unlock()
	seen(uuid, used)
}

// occupy leaves a process on a device, or takes it away again.
func (g *gpus) occupy(i int, pids ...int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.devices[i].Processes = nil
	for _, pid := range pids {
		g.devices[i].Processes = append(g.devices[i].Processes, device.Process{PID: pid, Name: "left"})
	}
}

// devices gives a worker n devices and as many slots.
func (w *world) devices(n int) (*gpus, func(*Config)) {
	w.t.Helper()
	g := &gpus{}
	for i := range n {
		g.devices = append(g.devices, device.Device{Index: i, UUID: fmt.Sprintf("GPU-%d", i), Minor: i, Memory: 8 << 30})
	}
	pool, err := device.New(device.Config{Layer: g, Devices: slices.Clone(g.devices), Slots: n})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		pool.Run(ctx)
	}()
	w.t.Cleanup(func() {
		cancel()
		<-done
	})
	return g, func(c *Config) { c.Slots, c.Devices = n, pool }
}

func TestAScriptGetsTheDevicesOfItsSlot(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		_, config := w.devices(2)
		got := make(chan string, 2)
		c := w.hire("w1", func(ctx context.Context, job runner.Job) runner.Result {
			got <- fmt.Sprint(envOf(job, "CUDA_VISIBLE_DEVICES"), job.Devices)
			return lasting(time.Minute, 0)(ctx, job)
		}, config)
		for _, id := range []string{"a", "b", "c"} {
			w.submit(id, func(r *promise.Record) {
				r.Call.Input.Env = map[string]string{"CUDA_VISIBLE_DEVICES": "7"} // it chooses none
			})
		}
		both := []string{<-got, <-got}
		slices.Sort(both)
		if want := []string{"GPU-0[/dev/nvidia0]", "GPU-1[/dev/nvidia1]"}; !slices.Equal(both, want) {
			t.Errorf("two scripts got %q, want %q", both, want)
		}
		if synctest.Wait(); len(c.scripts.started()) != 2 {
			t.Errorf("%d scripts run on two devices", len(c.scripts.started()))
		}
		w.settled("c", time.Hour)
	})
}

// A slot whose device is not empty takes nothing; the other goes on.
func TestAQuarantinedDeviceTakesItsSlotAway(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		g, config := w.devices(2)
		c := w.hire("w1", func(_ context.Context, job runner.Job) runner.Result {
			if on := envOf(job, "CUDA_VISIBLE_DEVICES"); on == "GPU-0" && envOf(job, "MODULATE_ID") == "leaves" {
				g.occupy(0, 99)
			} else if on == "GPU-0" {
				return runner.Result{Code: 1}
			}
			return runner.Result{}
		}, config)
		w.submit("leaves", nil)
		if rec := w.settled("leaves", time.Hour); rec.State != promise.Resolved {
			t.Errorf("it ended %s: what it leaves behind is seen later", rec.State)
		}
		for i := range 5 {
			id := fmt.Sprint("other", i)
			w.submit(id, nil)
			if rec := w.settled(id, time.Hour); rec.State != promise.Resolved {
				t.Fatalf("%s ran on the device that is not empty", id)
			}
		}
		time.Sleep(time.Minute)
		r := c.Report()
		if len(r.Devices.Quarantined) != 1 || !strings.Contains(r.Devices.Quarantined[0], "process 99") || len(r.Troubles) > 0 {
			t.Errorf("report %+v: want one device quarantined, and no trouble while another is left", r)
		}
		g.occupy(0)
		time.Sleep(2 * time.Minute)
		if r := c.Report(); len(r.Devices.Quarantined) > 0 {
			t.Errorf("empty again: %+v", r)
		}
	})
}

func TestNothingIsReceivedWithoutADevice(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		g, config := w.devices(1)
		g.occupy(0, 99)
		c := w.hire("w1", lasting(0, 0), config)
		w.submit("a", nil)
		time.Sleep(time.Minute)
		if d := w.depth(); d.Visible != 1 || len(c.scripts.started()) > 0 || len(c.Report().Troubles) != 1 {
			t.Errorf("depth %+v, %d starts, troubles %q", d, len(c.scripts.started()), c.Report().Troubles)
		}
		g.occupy(0)
		w.settled("a", 2*time.Minute)
	})
}

func TestOutOfDeviceMemoryHasEvidence(t *testing.T) {
	const says = "torch.OutOfMemoryError: CUDA out of memory"
	for name, c := range map[string]struct {
		used int64
		end  runner.Result
		want promise.Cause
	}{
		"both":       {8 << 30, runner.Result{Code: 1}, promise.CauseGPUOutOfMemory},
		"signal":     {8 << 30, runner.Result{End: runner.Signalled, Signal: 6}, promise.CauseGPUOutOfMemory},
		"its word":   {1 << 30, runner.Result{Code: 1}, promise.CauseExit},
		"it is well": {8 << 30, runner.Result{}, promise.CauseOK},
		"timeout":    {8 << 30, runner.Result{End: runner.TimedOut}, promise.CauseTimeout},
		"bad host":   {8 << 30, runner.Result{End: runner.Failed, Err: errors.New("no")}, promise.CauseBadHost},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				g, config := w.devices(1)
				crew := w.hire("w1", func(_ context.Context, job runner.Job) runner.Result {
					time.Sleep(time.Second)
					g.fill("GPU-0", c.used)
					io.WriteString(job.Stderr, says)
					return c.end
				}, config)
				w.submit("a", nil)
				time.Sleep(time.Minute)
				crew.stop(runner.ErrNow)
				<-crew.ended
				rec := w.get("a")
				if got := crew.Report().Attempts; got[c.want] == 0 {
					t.Errorf("ended %v, want %s", got, c.want)
				}
				if c.want == promise.CauseGPUOutOfMemory && (rec.Outcome.Cause != c.want || !strings.Contains(rec.Outcome.Error.Detail, "8192 of 8192 MiB")) {
					t.Errorf("outcome %+v", rec.Outcome)
				}
			})
		})
	}
}

// estate is a Runner that finds what another worker has left.
type estate struct {
	scripts
	left []runner.Orphan
}

func (e *estate) Adopt() ([]runner.Orphan, error) { return e.left, nil }

// orphan is a script that another worker has left. It ends when end is closed.
type orphan struct {
	note []byte
	end  chan struct{}
}

func (o orphan) Note() []byte          { return o.note }
func (o orphan) Stdin() (uint64, bool) { return 0, false }
func (o orphan) Until() time.Duration  { return 0 }
func (o orphan) Resume(context.Context, runner.Job) runner.Result {
	<-o.end
	return runner.Result{}
}

// A script that is handed over keeps its device: the next worker lends it to
// nobody else.
func TestAnAdoptedScriptKeepsItsDevice(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		_, config := w.devices(2)
		noted := make(chan []byte, 1)
		first := w.hire("w1", func(_ context.Context, job runner.Job) runner.Result {
			note, err := job.Note()
			if err != nil {
				t.Error(err)
			}
			noted <- note
			<-job.Leave
			return runner.Result{End: runner.Left}
		}, func(c *Config) { config(c); c.Spool = t.TempDir() })
		w.submit("a", nil)
		note := <-noted
		first.HandOver()
		<-first.ended

		_, config = w.devices(2)
		o := orphan{note: note, end: make(chan struct{})}
		next := &estate{left: []runner.Orphan{o}}
		next.does = func(_ context.Context, job runner.Job) runner.Result {
			if on := envOf(job, "CUDA_VISIBLE_DEVICES"); on != "GPU-1" {
				t.Errorf("another script got %s", on)
			}
			return runner.Result{}
		}
		w.hire("w2", nil, func(c *Config) { config(c); c.Runner, c.Spool = next, t.TempDir() })
		for n := range 4 {
			id := fmt.Sprint("b", n)
			w.submit(id, nil)
			w.settled(id, time.Minute)
		}
		close(o.end)
		if rec := w.settled("a", time.Minute); rec.State != promise.Resolved || rec.Attempt != 1 {
			t.Errorf("the adopted one is %s after %d attempts", rec.State, rec.Attempt)
		}
	})
}
