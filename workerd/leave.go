package main

import (
	"context"
	"sync"
	"time"

	"modulate/workerd/notice"
	"modulate/workerd/worker"
)

// away is how long a daemon stays that has left because its instance is to go
// away: whoever starts it again would only have it leave again. After that the
// instance has been kept after all.
const away = 10 * time.Minute

// notices are what a daemon hears of its instance's end.
type notices struct {
	first    chan struct{} // closed with the first
	watching sync.WaitGroup
}

// hear has w leave when the instance's metadata says that it is to go away. A
// notice that stands already counts before anything is received.
func (d daemon) hear(ctx context.Context, w *worker.Worker) *notices {
	n := &notices{first: make(chan struct{})}
	if !d.Notices {
		return n
	}
	told := false
	heard := func(notice notice.Notice) {
		d.log.Warn("draining: "+notice.What, "cause", notice.Cause, "by", notice.By)
		w.Leave(notice.Cause, notice.By)
		if !told {
			told = true
			close(n.first)
		}
	}
	watcher := &notice.Watcher{Endpoint: d.getenv("AWS_EC2_METADATA_SERVICE_ENDPOINT"), Log: d.log}
	standing, _ := watcher.Ask(ctx) // the watch says what is wrong
	for _, s := range standing {
		heard(s)
	}
	n.watching.Go(func() { watcher.Run(ctx, heard) })
	return n
}

// stay returns at ctx's end, or when it is no longer likely that the instance
// of which it was told goes away; at once where it was told of nothing.
func (n *notices) stay(ctx context.Context) {
	select {
	case <-n.first:
	default:
		return
	}
	timer := time.NewTimer(away)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
