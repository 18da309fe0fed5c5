package promise

import (
	"hash/fnv"
	"time"
)

// Budgets and delays of the core. See DESIGN.md, "The core decides".
const (
	// Skew is how far apart the clocks of two hosts may be. A lease is over,
	// for everyone but its holder, only Skew after its end.
	Skew = 5 * time.Second
	// MaxCrashes is how many attempts a promise may lose to its hosts.
	MaxCrashes = 5
	// FirstResend is when a message that nobody claimed is sent again. The
	// wait doubles from then on, to MaxResend at most.
	FirstResend = time.Minute
	MaxResend   = time.Hour
	// holdResend is for how long a re-send is put off at least.
	holdResend = 30 * time.Second
	// keptAttempts is how many attempts stay in a record at either end.
	keptAttempts = 3
)

// Policy says how the wait between two attempts grows.
type Policy uint8

// The retry policies. Only what the script did is retried under them.
const (
	Never Policy = iota
	Constant
	Linear
	Exponential
)

var policyNames = [...]string{"never", "constant", "linear", "exponential"}

// String returns the policy's name in the API.
func (p Policy) String() string { return policyNames[p] }

// ParsePolicy reads the form that [Policy.String] writes.
func ParsePolicy(name string) (Policy, bool) {
	for i, n := range policyNames {
		if n == name {
			return Policy(i), true
		}
	}
	return 0, false
}

// Retry is a call's retry policy. MaxAttempts counts the first attempt too.
type Retry struct {
	Policy      Policy        `cbor:"1,keyasint,omitempty"`
	MaxAttempts uint32        `cbor:"2,keyasint,omitempty"`
	Delay       time.Duration `cbor:"3,keyasint,omitempty"`
	MaxDelay    time.Duration `cbor:"4,keyasint,omitempty"`
}

// next returns the wait before retry number n (from 1), and whether there is
// one at all.
func (r Retry) next(n uint32) (time.Duration, bool) {
	if r.Policy == Never || n >= r.MaxAttempts {
		return 0, false
	}
	d := r.Delay
	switch r.Policy {
	case Linear:
		d *= time.Duration(n)
	case Exponential:
		for i := uint32(1); i < n && d < r.MaxDelay; i++ {
			d *= 2
		}
	}
	return min(d, r.MaxDelay), true
}

// hostDelay returns the wait after crash number n (from 1) that a host
// reported: one that can run nothing must not spend the budget at once.
func hostDelay(n uint32) time.Duration { return min(time.Second<<n, time.Minute) }

// resendAfter returns the wait before re-send number n (from 0) of a message
// for id. From the second on, a tenth of it is spread by the id, so that what
// stopped together does not come back together.
func resendAfter(id string, n uint32) time.Duration {
	d := FirstResend
	for i := uint32(0); i < n && d < MaxResend; i++ {
		d *= 2
	}
	d = min(d, MaxResend)
	if n == 0 {
		return d
	}
	return d + spread(id, d/10)
}

// heldFor returns how long a re-send for id is put off: 30 to 60 s.
func heldFor(id string) time.Duration { return holdResend + spread(id, holdResend) }

// spread returns a part of d, from none to nearly all, that the id chooses.
func spread(id string, d time.Duration) time.Duration {
	h := fnv.New32a()
	h.Write([]byte(id))
	return d * time.Duration(h.Sum32()%1000) / 1000
}
