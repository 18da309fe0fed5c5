package device

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// Config is what a Pool needs. Layer, Devices and Slots are required.
type Config struct {
	Layer   Layer
	Devices []Device // to be lent, as Layer has found them
	Slots   int      // among which they are divided
	// Shared lends every device to everybody, however many there are, with no
	// look at them in between; Layer is not needed then, and of Devices only
	// what [Present] tells.
	Shared bool
	Access Access       // what a script needs besides the devices themselves
	Log    *slog.Logger // nil: discarded
}

// ErrFew: there are more slots than devices.
var ErrFew = errors.New("more slots than devices")

// A Pool lends the devices of a machine. Its methods may be called from any
// goroutine; nothing comes back into it unless Run runs.
type Pool struct {
	cfg  Config
	all  []*share
	free chan *share   // to be lent
	back chan struct{} // tells Run that away has grown

	mu       sync.Mutex
	away     []*share          // returned, or not looked at yet
	used     int               // leases under which a script runs
	watch    chan struct{}     // tells Run that used has changed
	least    map[string]int64  // bytes used of each device, the least that was seen
	troubles map[string]string // quarantined devices, and why
}

// share is what one slot has of the devices.
type share struct {
	devices []Device
	since   time.Time // it was returned
	peaks   []int64   // bytes used of each device since it was lent; under Pool.mu
}

func newShare(devices []Device) *share {
	return &share{devices: devices, since: time.Now(), peaks: make([]int64, len(devices))}
}

// New returns a Pool. None of its devices is lent before Run has found it
// empty. ErrFew.
func New(cfg Config) (*Pool, error) {
	cfg.Log = cmp.Or(cfg.Log, slog.New(slog.DiscardHandler))
	switch {
	case cfg.Slots < 1:
		return nil, fmt.Errorf("%d slots: want at least 1", cfg.Slots)
	case !cfg.Shared && cfg.Slots > len(cfg.Devices):
		return nil, fmt.Errorf("%d slots, %d devices: %w", cfg.Slots, len(cfg.Devices), ErrFew)
	}
	p := &Pool{
		cfg: cfg, free: make(chan *share, cfg.Slots), back: make(chan struct{}, 1),
		watch: make(chan struct{}, 1), least: map[string]int64{}, troubles: map[string]string{},
	}
	for _, d := range cfg.Devices {
		p.least[d.UUID] = d.Used
	}
	if cfg.Shared {
		p.all = []*share{newShare(cfg.Devices)}
		return p, nil
	}
	for n, all := 0, len(cfg.Devices); n < cfg.Slots; n++ {
		s := newShare(cfg.Devices[n*all/cfg.Slots : (n+1)*all/cfg.Slots])
		p.all, p.away = append(p.all, s), append(p.away, s)
	}
	p.back <- struct{}{}
	return p, nil
}

// A Lease is the devices of one attempt, and is used by one goroutine at a time.
// That of a worker without devices is nil, and lends nothing.
type Lease struct {
	pool     *Pool
	shares   []*share
	heard    ear
	used     bool
	returned bool
}

// Take lends devices that are free, and waits for them until ctx ends. A nil
// Pool lends a nil Lease at once.
func (p *Pool) Take(ctx context.Context) (*Lease, error) {
	switch {
	case p == nil:
		return nil, nil
	case p.cfg.Shared:
		return p.lend(p.all[0]), nil
	}
	select {
	case s := <-p.free:
		return p.lend(s), nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Try is Take, but does not wait: it reports whether there were any.
func (p *Pool) Try() (*Lease, bool) {
	switch {
	case p == nil:
		return nil, true
	case p.cfg.Shared:
		return p.lend(p.all[0]), true
	}
	select {
	case s := <-p.free:
		return p.lend(s), true
	default:
		return nil, false
	}
}

// Adopt lends the devices with those UUIDs, and all that are in shares with
// them, to an attempt that has had them from a worker before. It is called
// before anything is taken. The Lease lends nothing where none of them is there
// any more.
func (p *Pool) Adopt(uuids []string) *Lease {
	if p == nil {
		return nil
	}
	if p.cfg.Shared {
		l := p.lend(p.all[0])
		l.Used()
		return l
	}
	l := &Lease{pool: p}
	has := func(s *share) bool {
		return slices.ContainsFunc(s.devices, func(d Device) bool { return slices.Contains(uuids, d.UUID) })
	}
	p.mu.Lock()
	for range len(p.free) {
		p.away = append(p.away, <-p.free)
	}
	for _, s := range p.away {
		if has(s) {
			l.shares = append(l.shares, s)
		}
	}
	p.away = slices.DeleteFunc(p.away, has)
	p.mu.Unlock()
	l.Used()
	tell(p.back)
	return l
}

func (p *Pool) lend(s *share) *Lease {
	p.mu.Lock()
	clear(s.peaks)
	p.mu.Unlock()
	return &Lease{pool: p, shares: []*share{s}}
}

func (p *Pool) count(n int) {
	p.mu.Lock()
	p.used += n
	p.mu.Unlock()
	tell(p.watch)
}

// tell wakes whoever listens, once.
func tell(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Used says that a script is about to run under the Lease: who waits for one has
// a Lease already.
func (l *Lease) Used() {
	if l != nil && !l.used {
		l.used = true
		l.pool.count(1)
	}
}

// Return returns the devices, once. Everything that could use them must be dead.
// Where a script has run they are lent again once they have been seen to be
// empty.
func (l *Lease) Return() {
	if l == nil || l.returned {
		return
	}
	l.returned = true
	if l.used {
		l.pool.count(-1)
	}
	for _, s := range l.shares {
		switch {
		case l.pool.cfg.Shared:
		case l.used:
			l.pool.takeBack(s)
		default:
			l.pool.free <- s
		}
	}
}

// takeBack has s looked at.
func (p *Pool) takeBack(s *share) {
	p.mu.Lock()
	s.since = time.Now()
	p.away = append(p.away, s)
	p.mu.Unlock()
	tell(p.back)
}

// Devices are those of the Lease.
func (l *Lease) Devices() (all []Device) {
	if l == nil {
		return nil
	}
	for _, s := range l.shares {
		all = append(all, s.devices...)
	}
	return all
}

// UUIDs are those of its devices.
func (l *Lease) UUIDs() (all []string) {
	for _, d := range l.Devices() {
		all = append(all, d.UUID)
	}
	return all
}

// Env is what a script is told. Devices are named by UUID: an index means one
// thing to nvidia-smi (PCI order) and another to CUDA (the fastest first), and a
// third inside a sandbox, where CUDA counts only the devices that it can open.
func (l *Lease) Env() []string {
	if l == nil {
		return nil
	}
	var env []string
	if !l.pool.cfg.Shared {
		env = append(env, "CUDA_VISIBLE_DEVICES="+strings.Join(l.UUIDs(), ","))
	}
	if dirs := l.pool.cfg.Access.Search; len(dirs) > 0 {
		env = append(env, "LD_LIBRARY_PATH="+strings.Join(dirs, ":"))
	}
	return env
}

// Nodes are the device files that a script must be able to open, and no more.
func (l *Lease) Nodes() []string {
	if l == nil {
		return nil
	}
	return l.pool.cfg.Access.nodes(l.Devices())
}

// Hear passes on what a script writes to its standard error, and remembers the
// end of it for OutOfMemory.
func (l *Lease) Hear(w io.Writer) io.Writer {
	if l == nil || w == nil {
		return w
	}
	l.heard.Writer = w
	return &l.heard
}

// A Report is how a Pool is doing.
type Report struct {
	Devices     int
	Used        int      // leases under which a script runs
	Quarantined []string // a sentence for each device that nobody gets for now
	None        bool     // there are devices, and none of them can be lent
}

// Report returns how p is doing; a nil Pool has nothing.
func (p *Pool) Report() Report {
	if p == nil {
		return Report{}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	r := Report{Devices: len(p.cfg.Devices), Used: p.used}
	for _, d := range p.cfg.Devices {
		if why := p.troubles[d.UUID]; why != "" {
			r.Quarantined = append(r.Quarantined, fmt.Sprintf("%v is lent to nobody: %s", d, why))
		}
	}
	r.None = len(p.all) > 0 && !slices.ContainsFunc(p.all, func(s *share) bool {
		return !slices.ContainsFunc(s.devices, func(d Device) bool { return p.troubles[d.UUID] != "" })
	})
	return r
}
