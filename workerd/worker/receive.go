package worker

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"modulate/internal/promise"
	"modulate/internal/queue"
	"modulate/workerd/device"
	"modulate/workerd/runner"
)

// intake is the receiving end of a Run: its slots, and the jobs in them.
type intake struct {
	w      *Worker
	base   context.Context // of the jobs
	slots  chan struct{}   // holds one for each slot in use or asked for
	beyond atomic.Int32    // adopted jobs for which there was no slot: the next that end give none back
	next   chan arrival    // to goroutines that have done one job and wait for another
	jobs   sync.WaitGroup  // those goroutines
}

// arrival is a delivery, when it was received, and the devices of its slot.
type arrival struct {
	queue.Delivery
	at      time.Time
	devices *device.Lease
}

// newIntake returns one whose jobs are under base.
func (w *Worker) newIntake(base context.Context) *intake {
	return &intake{w: w, base: base, slots: make(chan struct{}, w.cfg.Slots), next: make(chan arrival)}
}

// receive takes messages into free slots until ctx ends, and handles each in a
// goroutine.
func (in *intake) receive(ctx context.Context) {
	w := in.w
	defer close(in.next)
	var b backoff
	for {
		free := in.take(ctx)
		if len(free) == 0 {
			return
		}
		w.recess.wait(ctx)
		got, err := w.engine.Queue.Receive(ctx, w.cfg.Machine, len(free), w.cfg.Lease+promise.Skew, queue.MaxWait)
		in.give(free[len(got):]...)
		if ctx.Err() != nil {
			in.putBack(got)
			in.give(free[:len(got)]...)
			return
		}
		in.start(got, free)
		if err != nil {
			w.queue.bad(err)
			pause(ctx, b.next())
			continue
		}
		w.queue.good()
		w.tally.answered(len(got))
		b = backoff{}
	}
}

// take waits for a free slot with its devices and takes it, and further ones
// that are free, as many as one receive can fill. None: ctx has ended.
func (in *intake) take(ctx context.Context) (free []*device.Lease) {
	select {
	case in.slots <- struct{}{}:
	case <-ctx.Done():
		return nil
	}
	first, err := in.w.cfg.Devices.Take(ctx)
	if err != nil {
		<-in.slots
		return nil
	}
	for free = append(free, first); len(free) < queue.MaxReceive; {
		select {
		case in.slots <- struct{}{}:
		default:
			return free
		}
		more, ok := in.w.cfg.Devices.Try()
		if !ok {
			<-in.slots
			return free
		}
		free = append(free, more)
	}
	return free
}

func (in *intake) give(slots ...*device.Lease) {
	for _, devices := range slots {
		devices.Return()
		if in.beyond.Add(-1) < 0 {
			in.beyond.Add(1)
			<-in.slots
		}
	}
}

// start handles what was received, in slots that were taken. A goroutine that
// has handled a message has the stack for another, so those that wait come
// first.
func (in *intake) start(got []queue.Delivery, slots []*device.Lease) {
	now := time.Now()
	for i, d := range got {
		a := arrival{d, now, slots[i]}
		select {
		case in.next <- a:
		default:
			in.jobs.Go(func() { in.handle(a) })
		}
	}
}

func (in *intake) handle(a arrival) {
	for more := true; more; a, more = <-in.next {
		in.w.handle(in.base, a)
		in.give(a.devices)
	}
}

// putBack makes messages visible again that came too late.
func (in *intake) putBack(got []queue.Delivery) {
	for _, d := range got {
		in.w.hide(in.base, d.Receipt, 0)
	}
}

// drain lets the jobs end: by themselves while they may linger, then by SIGTERM
// and grace, then at once, and at last by end, whatever they are doing.
func (in *intake) drain(ctx context.Context, end context.CancelCauseFunc) {
	w := in.w
	done := make(chan struct{})
	go func() {
		in.jobs.Wait()
		close(done)
	}()
	if closed(w.over) && within(done, settleTime, w.aborted) {
		return
	}
	if !errors.Is(context.Cause(ctx), runner.ErrNow) {
		if w.linger(done) {
			return
		}
		if !closed(w.aborted) {
			w.stopAll(drained)
			if within(done, grace+settleTime, w.aborted) {
				return
			}
		}
	}
	w.stopAll(aborted)
	if within(done, settleTime, nil) {
		return
	}
	end(runner.ErrNow)
	<-done
}

// within reports whether done is closed within d and before hurry is.
func within(done <-chan struct{}, d time.Duration, hurry <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
	case <-hurry:
	}
	return false
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
