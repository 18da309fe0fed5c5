package runner

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"modulate/workerd/keeper"
)

// maxIdle is how many idle keepers are kept beside those that are kept ready.
const maxIdle = 4

// A pool keeps idle keepers.
type pool struct {
	program keeper.Program
	dir     string // where their folders are
	prefix  string // of the folders' names
	hold    *os.File
	box     *keeper.Box // nil: there are no sandboxes
	park    []string    // the command of what forks for scripts, none: nothing does
	ahead   int

	cold atomic.Uint64 // jobs for which nothing was ready

	mu      sync.Mutex
	idle    []*keeper.Client
	dirs    map[string]bool // folders of keepers that this process has started
	closed  bool
	filling sync.WaitGroup

	making  sync.Mutex
	nursery *keeper.Nursery // of park, as it was when the last keeper was started
}

// start starts a keeper.
func (p *pool) start() (*keeper.Client, error) {
	dir := filepath.Join(p.dir, p.prefix+strings.ToLower(rand.Text()[:13]))
	p.mu.Lock()
	if p.dirs == nil {
		p.dirs = map[string]bool{}
	}
	p.dirs[dir] = true
	p.mu.Unlock()
	c, err := p.startIn(dir)
	if err != nil {
		p.mu.Lock()
		delete(p.dirs, dir)
		p.mu.Unlock()
		return nil, errors.Join(err, removeFolder(dir))
	}
	return c, nil
}

func (p *pool) startIn(dir string) (*keeper.Client, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := keeper.MakeFolder(dir)
	if err != nil {
		return nil, err
	}
	box := p.box
	if box != nil && box.Group != "" {
		own := *box
		own.Group = "modulate-" + strings.TrimPrefix(filepath.Base(dir), p.prefix)
		box = &own
	}
	c, err := p.program.Start(f, p.hold, box, p.forks())
	if err != nil {
		f.Close()
	}
	return c, err
}

// forks is what forks for the scripts of a keeper; nil: nothing does.
func (p *pool) forks() *keeper.Nursery {
	if len(p.park) == 0 {
		return nil
	}
	p.making.Lock()
	defer p.making.Unlock()
	if p.nursery == nil || !p.nursery.Current() {
		p.nursery = keeper.NewNursery(p.park)
	}
	return p.nursery
}

// started reports whether the folder is that of a keeper of this process.
func (p *pool) started(dir string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dirs[dir]
}

// take returns an idle keeper: one that was kept ready, or else a new one.
func (p *pool) take() (*keeper.Client, error) {
	for {
		p.mu.Lock()
		n := p.best()
		if n < 0 {
			p.mu.Unlock()
			if p.box == nil { // else it is counted by its sandbox
				p.cold.Add(1)
			}
			return p.start()
		}
		c := p.idle[n]
		p.idle = slices.Delete(p.idle, n, n+1)
		p.mu.Unlock()
		if c.Fit() {
			return c, nil
		}
		if err := p.end(c); err != nil {
			return nil, err
		}
	}
}

// best is the index of the idle keeper to take: one with a sandbox that is
// ready, else the one that will have one first; -1: there is none.
func (p *pool) best() int {
	if p.box == nil || len(p.idle) == 0 {
		return len(p.idle) - 1
	}
	return max(0, slices.IndexFunc(p.idle, (*keeper.Client).HasCell))
}

// put gets an idle keeper.
func (p *pool) put(c *keeper.Client) {
	p.mu.Lock()
	keep := !p.closed && len(p.idle) < p.ahead+maxIdle
	if keep {
		p.idle = append(p.idle, c)
	}
	p.mu.Unlock()
	if !keep {
		p.end(c) // what stays of it has no job in it, and goes with the next adopter
	}
}

// end ends an idle keeper and removes its folder.
func (p *pool) end(c *keeper.Client) error {
	c.Close()
	p.mu.Lock()
	delete(p.dirs, c.Dir)
	p.mu.Unlock()
	return removeFolder(c.Dir)
}

// fill starts what is to be kept ready, in the background. What fails there is
// met again, and told, by take.
func (p *pool) fill() {
	p.filling.Go(func() {
		for {
			p.mu.Lock()
			enough := p.closed || len(p.idle) >= p.ahead
			p.mu.Unlock()
			if enough {
				return
			}
			c, err := p.start()
			if err != nil {
				return
			}
			p.put(c)
		}
	})
}

// close ends the idle keepers, and those to come.
func (p *pool) close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.filling.Wait()
	p.mu.Lock()
	idle := slices.Clone(p.idle)
	p.idle = nil
	p.mu.Unlock()
	var errs []error
	for _, c := range idle {
		errs = append(errs, p.end(c))
	}
	return errors.Join(errs...)
}
