package device

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A fake is a machine with devices.
type fake struct {
	mu       sync.Mutex
	devices  []Device
	down     error
	looks    int
	watching int
	seen     func(string, int64) // nil: nobody watches
}

func newFake(n int) *fake {
	f := &fake{}
	for i := range n {
		f.devices = append(f.devices, Device{
			Index: i, UUID: fmt.Sprintf("GPU-%d", i), Name: "Fake", Minor: i, Memory: 16 << 30, Used: 4 << 20,
		})
	}
	return f
}

func (f *fake) Look(context.Context) ([]Device, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looks++
	return slices.Clone(f.devices), f.down
}

func (f *fake) Watch(ctx context.Context, seen func(string, int64)) error {
	f.mu.Lock()
	f.watching, f.seen = f.watching+1, seen
	f.mu.Unlock()
	<-ctx.Done()
	f.mu.Lock()
	f.watching, f.seen = f.watching-1, nil
	f.mu.Unlock()
	return ctx.Err()
}

// tell tells whoever watches.
func (f *fake) tell(uuid string, used int64) {
	f.mu.Lock()
	seen := f.seen
	f.mu.Unlock()
	seen(uuid, used)
}

// counts says how often the machine was looked at, and how many watch it.
func (f *fake) counts() (looks, watching int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.looks, f.watching
}

// set changes a device.
func (f *fake) set(i int, change func(*Device)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.devices[i])
}

func process(pids ...int) func(*Device) {
	return func(d *Device) {
		d.Processes = nil
		for _, pid := range pids {
			d.Processes = append(d.Processes, Process{PID: pid, Name: "python3"})
		}
	}
}

// run starts a Pool over f, and returns what it logs.
func run(t *testing.T, f *fake, cfg Config) (*Pool, *lines) {
	t.Helper()
	log := &lines{}
	cfg.Layer, cfg.Devices, cfg.Log = f, slices.Clone(f.devices), slog.New(slog.NewTextHandler(log, nil))
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	synctest.Wait()
	return p, log
}

// lines is what was written to it.
type lines struct {
	mu  sync.Mutex
	all strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}

func take(t *testing.T, p *Pool) *Lease {
	t.Helper()
	l, ok := p.Try()
	if !ok {
		t.Fatal("no device is free")
	}
	return l
}

// giveBack returns devices on which a script has run.
func giveBack(l *Lease) {
	l.Used()
	l.Return()
}

func TestEachDeviceGoesToOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _ := run(t, newFake(2), Config{Slots: 2})
		a, b := take(t, p), take(t, p)
		b.Used()
		if env := append(a.Env(), b.Env()...); !slices.Equal(env, []string{"CUDA_VISIBLE_DEVICES=GPU-0", "CUDA_VISIBLE_DEVICES=GPU-1"}) {
			t.Errorf("two scripts are told %q", env)
		}
		if nodes := b.Nodes(); !slices.Equal(nodes, []string{"/dev/nvidia1"}) {
			t.Errorf("the second may open %q", nodes)
		}
		if _, ok := p.Try(); ok {
			t.Error("a third script got a device")
		}
		giveBack(a)
		c, err := p.Take(t.Context())
		if err != nil || c.UUIDs()[0] != "GPU-0" {
			t.Errorf("the next got %v, %v, want the device that came back", c.UUIDs(), err)
		}
		if r := p.Report(); r.Devices != 2 || r.Used != 1 || len(r.Quarantined) > 0 {
			t.Errorf("report %+v", r)
		}
	})
}

func TestDevicesAreDividedAmongTheSlots(t *testing.T) {
	for _, c := range []struct {
		devices, slots int
		want           string
	}{
		{8, 1, "[GPU-0 GPU-1 GPU-2 GPU-3 GPU-4 GPU-5 GPU-6 GPU-7]"},
		{4, 2, "[GPU-0 GPU-1] [GPU-2 GPU-3]"},
		{3, 2, "[GPU-0] [GPU-1 GPU-2]"},
	} {
		synctest.Test(t, func(t *testing.T) {
			p, _ := run(t, newFake(c.devices), Config{Slots: c.slots})
			var got []string
			for l, ok := p.Try(); ok; l, ok = p.Try() {
				got = append(got, fmt.Sprint(l.UUIDs()))
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("%d devices in %d slots: %v", c.devices, c.slots, got)
			}
		})
	}
	if _, err := New(Config{Layer: newFake(1), Devices: newFake(1).devices, Slots: 2}); !errors.Is(err, ErrFew) {
		t.Errorf("two slots for one device: %v, want ErrFew", err)
	}
}

// A device with something on it is lent to nobody; the other slots go on.
func TestADeviceThatIsNotEmptyIsQuarantined(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Device)
		says   string
	}{
		"process": {process(4242), "process 4242 (python3) still on it"},
		"memory":  {func(d *Device) { d.Used = 1 << 30 }, "1024 MiB of its memory still in use, by no process"},
		"gone":    {func(d *Device) { d.UUID = "GPU-other" }, "the driver does not see it any more"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(2)
				p, log := run(t, f, Config{Slots: 2})
				l, other := take(t, p), take(t, p)
				was := f.devices[0]
				f.set(0, c.change)
				giveBack(l)
				time.Sleep(settling - time.Second)
				synctest.Wait()
				if got := p.Report().Quarantined; len(got) > 0 || log.String() != "" {
					t.Fatalf("it says %q, %s, while a dying process may still be on it", got, log)
				}
				time.Sleep(lookSeldom + lookOften)
				synctest.Wait()
				if r := p.Report(); len(r.Quarantined) != 1 || !strings.Contains(r.Quarantined[0], c.says) || r.None {
					t.Errorf("report %+v, want %q", r, c.says)
				}
				if n := strings.Count(log.String(), "quarantined"); n != 1 {
					t.Errorf("it was said %d times:\n%s", n, log)
				}
				giveBack(other)
				synctest.Wait()
				if got := take(t, p).UUIDs(); got[0] != "GPU-1" {
					t.Errorf("the other slot got %q", got)
				}
				if _, ok := p.Try(); ok {
					t.Error("the quarantined device was lent")
				}
				f.set(0, func(d *Device) { *d = was })
				time.Sleep(lookSeldom)
				synctest.Wait()
				if got := take(t, p).UUIDs(); got[0] != "GPU-0" || len(p.Report().Quarantined) > 0 {
					t.Errorf("once it is empty: %q, %v", got, p.Report())
				}
				if !strings.Contains(log.String(), "empty again") {
					t.Errorf("nobody is told that it is over:\n%s", log)
				}
			})
		})
	}
}

func TestADriverThatDoesNotAnswerLendsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(1)
		f.down = errors.New("driver/library version mismatch")
		p, _ := run(t, f, Config{Slots: 1})
		time.Sleep(2 * settling)
		synctest.Wait()
		if _, ok := p.Try(); ok || len(p.Report().Quarantined) != 1 || !p.Report().None {
			t.Errorf("lent %v, report %+v", ok, p.Report())
		}
		before, _ := f.counts()
		time.Sleep(10 * time.Minute)
		if looks, _ := f.counts(); looks-before > 11 {
			t.Errorf("%d looks in ten minutes", looks-before)
		}
	})
}

// What hangs on after its process is dead is waited for.
func TestADyingProcessDelaysNoLongerThanItLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(1)
		p, log := run(t, f, Config{Slots: 1})
		l := take(t, p)
		f.set(0, process(7))
		giveBack(l)
		time.Sleep(time.Second)
		f.set(0, process())
		begin := time.Now()
		if _, err := p.Take(t.Context()); err != nil || time.Since(begin) > 2*time.Second || log.String() != "" {
			t.Errorf("lent %v after it was empty, %v; said %s", time.Since(begin), err, log)
		}
	})
}

// A desktop's windows are no obstacle, whatever memory they have.
func TestGraphicsAreNoObstacle(t *testing.T) {
	d := Device{Used: 3 << 30, Processes: []Process{{PID: 1, Name: "Xorg", Graphics: true}}}
	if why := d.notEmpty(100 << 20); why != "" {
		t.Error(why)
	}
	d.Processes = append(d.Processes, Process{PID: 2, Name: "python3"})
	if why := d.notEmpty(100 << 20); !strings.Contains(why, "process 2") {
		t.Errorf("with a script on it: %q", why)
	}
}

func TestUnusedIsFreeAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(1)
		p, _ := run(t, f, Config{Slots: 1})
		before, _ := f.counts()
		l := take(t, p)
		l.Return()
		l.Return()
		take(t, p)
		if looks, _ := f.counts(); looks != before {
			t.Error("it was looked at, though nothing had run")
		}
	})
}

// What an adopted script has is lent to nobody else, whether it was looked at
// before or not, and whatever shares there are now.
func TestAdopted(t *testing.T) {
	for name, running := range map[string]bool{"before Run": false, "after a look": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(4)
				var p *Pool
				if running {
					p, _ = run(t, f, Config{Slots: 2})
				} else {
					var err error
					if p, err = New(Config{Layer: f, Devices: f.devices, Slots: 2}); err != nil {
						t.Fatal(err)
					}
				}
				l := p.Adopt([]string{"GPU-2", "GPU-away"})
				if fmt.Sprint(l.UUIDs()) != "[GPU-2 GPU-3]" || p.Report().Used != 1 {
					t.Errorf("adopted %v, report %+v", l.UUIDs(), p.Report())
				}
				if none := p.Adopt([]string{"GPU-9"}); len(none.UUIDs()) > 0 {
					t.Errorf("adopted %v, which is not there", none.UUIDs())
				}
				if !running {
					return
				}
				synctest.Wait()
				if got := take(t, p).UUIDs(); fmt.Sprint(got) != "[GPU-0 GPU-1]" {
					t.Errorf("another got %v", got)
				}
				if _, ok := p.Try(); ok {
					t.Error("what was adopted was lent again")
				}
				l.Return()
				synctest.Wait()
				if got := take(t, p).UUIDs(); fmt.Sprint(got) != "[GPU-2 GPU-3]" {
					t.Errorf("after it came back another got %v", got)
				}
			})
		})
	}
}

func TestShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(2)
		p, _ := run(t, f, Config{Slots: 3, Shared: true})
		for range 3 {
			if l := take(t, p); len(l.Nodes()) != 2 || l.Env() != nil {
				t.Errorf("a script may open %q, and is told %q", l.Nodes(), l.Env())
			}
		}
		synctest.Wait()
		looks, watching := f.counts()
		if looks > 0 || watching > 0 {
			t.Errorf("looks %d, watches %d", looks, watching)
		}
	})
}

func TestNoDevices(t *testing.T) {
	var p *Pool
	l, ok := p.Try()
	if _, err := p.Take(t.Context()); err != nil || !ok || l != nil {
		t.Errorf("lent %v, %v, %v", l, ok, err)
	}
	l.Used()
	l.Return()
	if l.Env() != nil || l.Nodes() != nil || l.UUIDs() != nil || l.Hear(io.Discard) != io.Discard || l.OutOfMemory() != "" {
		t.Error("a Lease of nothing lends something")
	}
}

func TestOutOfMemory(t *testing.T) {
	const torch = "Traceback…\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
	for name, c := range map[string]struct {
		peak int64
		says string
		want bool
	}{
		"both":             {15 << 30, torch, true},
		"driver's code":    {15 << 30, "CUDA_ERROR_OUT_OF_MEMORY: out of memory", true},
		"runtime":          {15 << 30, "CUDA error: out of memory", true},
		"its word alone":   {2 << 30, torch, false},
		"full, other end":  {16 << 30, "ValueError: bad", false},
		"another's memory": {16 << 30, "MemoryError", false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(2)
				p, _ := run(t, f, Config{Slots: 2})
				l := take(t, p)
				l.Used()
				synctest.Wait()
				f.tell("GPU-1", 16<<30) // somebody else's
				f.tell("GPU-0", c.peak)
				f.tell("GPU-0", 1<<20) // it has let go
				var out bytes.Buffer
				io.WriteString(l.Hear(&out), strings.Repeat("x", heardMost)+c.says+strings.Repeat(" see the manual", 80))
				if got := l.OutOfMemory(); (got != "") != c.want {
					t.Errorf("evidence %q", got)
				}
				if !strings.Contains(out.String(), c.says) {
					t.Error("what it says is not passed on")
				}
				giveBack(l)
				time.Sleep(time.Second)
				if next := take(t, p); next.OutOfMemory() != "" {
					t.Error("the next script is told of the last one's memory")
				}
			})
		})
	}
}

func TestMemoryIsWatchedOnlyWhileUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(1)
		p, _ := run(t, f, Config{Slots: 1})
		for range 2 {
			if _, n := f.counts(); n != 0 {
				t.Error("an idle device is watched")
			}
			l := take(t, p)
			synctest.Wait()
			if _, n := f.counts(); n != 0 {
				t.Error("a device is watched that waits for a script")
			}
			l.Used()
			synctest.Wait()
			if _, n := f.counts(); n != 1 {
				t.Error("nobody watches a device that is used")
			}
			giveBack(l)
			time.Sleep(time.Second)
			synctest.Wait()
		}
	})
}
