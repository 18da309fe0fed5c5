package dispatch

import (
	"time"

	"modulate/internal/api"
	"modulate/internal/promise"
)

// The parts of a retry policy that are left out.
const (
	defaultAttempts = 3
	defaultDelay    = time.Second
	defaultMaxDelay = time.Minute
	defaultDeadline = 24 * time.Hour // or twice the timeout
)

// leases are that of a call that names none, and the least that a call may
// name.
type leases struct{ unasked, least time.Duration }

// limits fills in timeout, deadline and lease.
func (d *draft) limits() (err error) {
	c := &d.rec.Call
	if c.Timeout, err = bounded("timeout_ms", d.sub.TimeoutMS, api.DefaultWait, api.MinTimeout, api.MaxTimeout); err != nil {
		return err
	}
	unasked := min(max(defaultDeadline, 2*c.Timeout), api.MaxDeadline)
	if d.deadline, err = bounded("deadline_ms", d.sub.DeadlineMS, unasked, api.MinTimeout, api.MaxDeadline); err != nil {
		return err
	}
	c.Lease, err = bounded("lease_ms", d.sub.LeaseMS, d.leases.unasked, d.leases.least, api.MaxLease)
	return err
}

// bounded returns ms as a duration, or unasked where it was not given.
func bounded(where string, ms *int64, unasked, least, most time.Duration) (time.Duration, error) {
	if ms == nil {
		return unasked, nil
	}
	if *ms < least.Milliseconds() || *ms > most.Milliseconds() {
		return 0, api.Invalid(where, "%s %d: want %d to %d (%s to %s)", where, *ms, least.Milliseconds(), most.Milliseconds(), least, most)
	}
	return time.Duration(*ms) * time.Millisecond, nil
}

// retry fills in the retry policy.
func (d *draft) retry() error {
	r := d.sub.Retry
	if r == nil {
		return nil
	}
	policy, ok := promise.ParsePolicy(r.Policy)
	if !ok {
		return api.Invalid("retry.policy", "policy %q: want never, constant, linear or exponential", r.Policy)
	}
	if policy == promise.Never {
		if r.MaxAttempts > 1 || r.DelayMS != 0 || r.MaxDelayMS != 0 {
			return api.Invalid("retry.policy", "policy never makes one attempt: leave out the rest, or choose constant, linear or exponential")
		}
		return nil
	}
	if r.MaxAttempts > api.MaxAttempts {
		return api.Invalid("retry.max_attempts", "max_attempts %d: at most %d", r.MaxAttempts, api.MaxAttempts)
	}
	delay, err := bounded("retry.delay_ms", given(r.DelayMS), defaultDelay, time.Millisecond, api.MaxDeadline)
	if err != nil {
		return err
	}
	most, err := bounded("retry.max_delay_ms", given(r.MaxDelayMS), max(defaultMaxDelay, delay), time.Millisecond, api.MaxDeadline)
	if err != nil {
		return err
	}
	if delay > most {
		return api.Invalid("retry.max_delay_ms", "max_delay_ms %d is below delay_ms %d", most.Milliseconds(), delay.Milliseconds())
	}
	attempts := r.MaxAttempts
	if attempts == 0 {
		attempts = defaultAttempts
	}
	d.rec.Call.Retry = promise.Retry{Policy: policy, MaxAttempts: attempts, Delay: delay, MaxDelay: most}
	return nil
}

// given is nil for a number that was left out.
func given(n int64) *int64 {
	if n == 0 {
		return nil
	}
	return &n
}

func (d *draft) tags() error {
	if len(d.sub.Tags) > api.MaxTags {
		return api.Invalid("tags", "%d tags: at most %d", len(d.sub.Tags), api.MaxTags)
	}
	for name, value := range d.sub.Tags {
		if name == "" {
			return api.Invalid("tags", "a tag has no name")
		}
		if len(name) > api.MaxTag || len(value) > api.MaxTag {
			return api.Invalid("tags."+name, "tag %.40q is %d bytes, its value %d: at most %d each", name, len(name), len(value), api.MaxTag)
		}
	}
	d.input.Tags = d.sub.Tags
	return nil
}
