package runner

var _ Pooled = (*Kept)(nil)

// Pool implements [Pooled].
func (k *Kept) Pool() PoolReport {
	p := &k.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	r := PoolReport{Keepers: len(p.idle), Cold: p.cold.Load()}
	for _, c := range p.idle {
		if p.box != nil && c.HasCell() {
			r.Sandboxes++
		}
	}
	return r
}
