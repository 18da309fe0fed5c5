package device

import (
	"context"
	"slices"
	"sync"
	"time"
)

// When devices that have come back are looked at: the driver takes seconds to
// take down what a killed process had.
const (
	lookFirst  = 500 * time.Millisecond // after the first look, doubling
	lookOften  = 5 * time.Second        // at most while that may be
	settling   = 15 * time.Second       // for so long; then it is quarantined
	lookSeldom = time.Minute            // while it is
	lookTime   = 30 * time.Second       // for an answer: a driver that has nobody to keep it loaded is loaded first
	watchAgain = time.Minute            // after a Watch that failed
)

// Run looks at what comes back, until ctx ends, and watches over what is used.
func (p *Pool) Run(ctx context.Context) {
	if p == nil {
		<-ctx.Done()
		return
	}
	var watching sync.WaitGroup
	defer watching.Wait()
	if !p.cfg.Shared {
		watching.Go(func() { p.watchUsed(ctx) })
	}
	wait := lookFirst
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-p.back:
			wait = lookFirst
		case <-timer.C:
			wait = min(2*wait, lookOften)
		case <-ctx.Done():
			return
		}
		any, fresh := p.look(ctx)
		switch {
		case !any:
			timer.Stop()
			continue
		case !fresh && wait > lookFirst:
			wait = lookSeldom
		}
		timer.Reset(wait)
	}
}

// settles reports whether what was on s may still be going.
func settles(s *share) bool { return time.Since(s.since) < settling }

// look looks at the devices that are away, and frees what is empty. It reports
// whether any stay away, and whether any of these may only have to settle.
func (p *Pool) look(ctx context.Context) (any, fresh bool) {
	p.mu.Lock()
	looked := slices.Clone(p.away)
	p.mu.Unlock()
	if len(looked) == 0 {
		return false, false
	}
	bounded, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	found, err := p.cfg.Layer.Look(bounded)
	if ctx.Err() != nil {
		return true, true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.away = slices.DeleteFunc(p.away, func(s *share) bool {
		if !slices.Contains(looked, s) || p.holds(s, found, err) { // it came back meanwhile, or is not empty
			return false
		}
		p.free <- s
		return true
	})
	return len(p.away) > 0, slices.ContainsFunc(p.away, settles)
}

// holds reports whether something is wrong with a device of s, and says so once
// that lasts; and once that it is over. p.mu is held.
func (p *Pool) holds(s *share, found []Device, err error) (held bool) {
	for _, d := range s.devices {
		why := p.wrong(d, found, err)
		held = held || why != ""
		before := p.troubles[d.UUID]
		switch {
		case why == "" && before != "":
			delete(p.troubles, d.UUID)
			p.cfg.Log.Warn("a device is empty again, and lent", "device", d.UUID, "index", d.Index)
		case why != "" && before == "" && !settles(s):
			p.cfg.Log.Error("a device is quarantined: no script gets it until it is empty", "device", d.UUID, "index", d.Index, "why", why)
			p.troubles[d.UUID] = why
		case why != "" && before != "":
			p.troubles[d.UUID] = why
		}
	}
	return held
}

// wrong says why d must not be lent; "": it may. p.mu is held.
func (p *Pool) wrong(d Device, found []Device, err error) string {
	if err != nil {
		return "it cannot be looked at: " + err.Error()
	}
	i := slices.IndexFunc(found, func(f Device) bool { return f.UUID == d.UUID })
	if i < 0 {
		return "the driver does not see it any more"
	}
	p.least[d.UUID] = min(p.least[d.UUID], found[i].Used)
	return found[i].notEmpty(p.least[d.UUID])
}

// watchUsed keeps a Watch going while anything is used, until ctx ends.
func (p *Pool) watchUsed(ctx context.Context) {
	for {
		select {
		case <-p.watch:
		case <-ctx.Done():
			return
		}
		for p.anyUsed() {
			failed := p.watchOnce(ctx)
			if ctx.Err() != nil {
				return
			}
			if failed {
				again := time.NewTimer(watchAgain)
				select {
				case <-again.C:
				case <-ctx.Done():
				}
				again.Stop()
			}
		}
	}
}

// watchOnce watches until nothing is used. It reports whether it could not.
func (p *Pool) watchOnce(ctx context.Context) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- p.cfg.Layer.Watch(ctx, p.seen) }()
	for {
		select {
		case <-p.watch:
			if !p.anyUsed() {
				cancel()
				<-ended
				return false
			}
		case err := <-ended:
			if ctx.Err() == nil {
				p.cfg.Log.Warn("the memory of devices cannot be watched: a script that runs out of it ends as exit", "error", err)
			}
			return true
		}
	}
}

func (p *Pool) anyUsed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.used > 0
}

// seen takes note of how much of a device is used.
func (p *Pool) seen(uuid string, used int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.all {
		for i, d := range s.devices {
			if d.UUID == uuid {
				s.peaks[i] = max(s.peaks[i], used)
			}
		}
	}
}
