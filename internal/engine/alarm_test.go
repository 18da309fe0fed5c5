package engine

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"modulate/internal/promise"
)

// A near deadline has a message of its own where nobody sweeps all the time,
// and whoever receives it finds the promise timed out.
func TestAlarm(t *testing.T) {
	for _, tt := range []struct {
		name            string
		alarm, deadline time.Duration
		messages        int
	}{
		{"none asked for", 0, 10 * time.Second, 1},
		{"a near deadline", 90 * time.Second, 10 * time.Second, 2},
		{"a far one", 90 * time.Second, 90 * time.Second, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				b.Now, b.Alarm = nil, tt.alarm
				rec := draft("p", b.Time())
				rec.DeadlineAt = b.Time().Add(tt.deadline)
				if _, err := b.Create(t.Context(), rec, nil); err != nil {
					t.Fatal(err)
				}
				receive := func() int {
					got, err := b.queue.Receive(t.Context(), "cpu", 10, time.Hour, 0)
					if err != nil {
						t.Fatal(err)
					}
					return len(got)
				}
				if receive() != 1 || receive() != 0 || b.depth() != tt.messages {
					t.Fatalf("%d messages, want %d, one of them to be received at once", b.depth(), tt.messages)
				}
				time.Sleep(tt.deadline + alarmSlack)
				if got := receive(); got != tt.messages-1 {
					t.Fatalf("%d messages at the deadline, want %d", got, tt.messages-1)
				}
				rec, err := b.Apply(t.Context(), "p", promise.Claim{Worker: "w", ClaimID: named("claim")})
				if rec.State != promise.TimedOut || !errors.Is(err, promise.ErrSettled) {
					t.Errorf("claimed: %s, %v", rec.State, err)
				}
			})
		})
	}
}

// A task that is to start later, but soon, has a message for then in its own
// queue, also if it is made under a fence.
func TestAlarmOfADelay(t *testing.T) {
	for _, fenced := range []bool{false, true} {
		for delay, messages := range map[time.Duration]int{30 * time.Second: 1, 90 * time.Second: 0} {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				b.Now, b.Alarm = nil, 90*time.Second
				rec := promise.NewRemote("local", "wf.1", b.Time().Add(time.Hour), promise.Protocol{Tags: map[string]string{
					promise.TagTarget: "poll://any@other", promise.TagDelay: fmt.Sprint(b.Time().Add(delay)),
				}})
				var err error
				if fenced {
					b.held("wf")
					_, err = b.FencedCreate(t.Context(), Fence{Task: "wf", Version: 1}, rec)
				} else {
					_, err = b.Create(t.Context(), rec, nil)
				}
				if err != nil {
					t.Fatal(err)
				}
				for at, want := range []int{0, messages} {
					got, err := b.queue.Receive(t.Context(), "sdk:other", 10, time.Hour, 0)
					if err != nil || len(got) != want {
						t.Errorf("fenced %v, in %s: %d messages, %v; want %d", fenced, delay, len(got), err, want)
					}
					if at == 0 {
						time.Sleep(delay)
					}
				}
			})
		}
	}
}
