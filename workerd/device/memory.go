package device

import (
	"fmt"
	"io"
	"regexp"
)

// heardMost is how much of the end of a standard error is remembered: PyTorch
// explains itself in a thousand bytes, below a traceback.
const heardMost = 8 << 10

// An ear passes bytes on and remembers the last of them. One goroutine writes.
type ear struct {
	io.Writer
	last []byte
}

func (e *ear) Write(p []byte) (int, error) {
	e.last = append(e.last, p[max(0, len(p)-heardMost):]...)
	if over := len(e.last) - heardMost; over > 0 {
		e.last = append(e.last[:0], e.last[over:]...)
	}
	return e.Writer.Write(p)
}

// outOfMemory is what CUDA's runtime, its driver and the frameworks on them say
// when an allocation fails: PyTorch, CuPy and numba, XLA, the names of the codes.
var outOfMemory = regexp.MustCompile(`(?i)cuda[a-z ]*error: out of memory|cuda out of memory|CUDA_ERROR_OUT_OF_MEMORY|cudaErrorMemoryAllocation|RESOURCE_EXHAUSTED: Out of memory|OutOfMemoryError`)

// fullShare of a device's memory, in percent, is a full device: what did not
// fit any more was larger than what was left.
const fullShare = 90

// OutOfMemory says by what evidence the script, which has failed, ran out of its
// device's memory; "": there is none. Neither of its halves suffices. What the
// script says is its own word, and it may have asked for more than the device
// has; a full device is what a framework makes of every device that it gets.
func (l *Lease) OutOfMemory() string {
	if l == nil {
		return ""
	}
	said := outOfMemory.Find(l.heard.last)
	if said == nil {
		return ""
	}
	l.pool.mu.Lock()
	defer l.pool.mu.Unlock()
	for _, s := range l.shares {
		for i, d := range s.devices {
			if d.Memory > 0 && s.peaks[i] >= d.Memory/100*fullShare {
				return fmt.Sprintf("%d of %d MiB of device %d were in use, and it said %q", s.peaks[i]>>20, d.Memory>>20, d.Index, said)
			}
		}
	}
	return ""
}
