package queue

import (
	"fmt"
	"time"
)

// CheckSend refuses a delay that no queue takes.
func CheckSend(delay time.Duration) error {
	if delay < 0 || delay > MaxDelay {
		return fmt.Errorf("a delay of %v is not within 0 and %v", delay, MaxDelay)
	}
	return nil
}

// CheckReceive refuses what no queue takes in a Receive.
func CheckReceive(limit int, hide, wait time.Duration) error {
	if limit < 1 || limit > MaxReceive {
		return fmt.Errorf("receiving %d messages at once: not within 1 and %d", limit, MaxReceive)
	}
	if wait < 0 || wait > MaxWait {
		return fmt.Errorf("waiting %v for a message: not within 0 and %v", wait, MaxWait)
	}
	return CheckHide(hide)
}

// CheckHide refuses a visibility timeout that no queue takes.
func CheckHide(hide time.Duration) error {
	if hide < 0 || hide > MaxVisibility {
		return fmt.Errorf("hiding a message for %v: not within 0 and %v", hide, MaxVisibility)
	}
	return nil
}
