package delivery

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"modulate/functions/router/protocol"
)

// Limits of connections.
const (
	maxConns  = 1000
	buffered  = 256              // events that wait for a connection
	pingEvery = 15 * time.Second // so that both ends notice when the other is gone
	doubtTime = 30 * time.Second // what was written so shortly before a connection broke may not have come
	writeTime = 10 * time.Second
)

// event is what a worker is sent. An end that is told has its promise's id, and
// who is to hear of it.
type event struct {
	body  []byte
	ended string
	to    ear
}

// telling is an end that was told, and when.
type telling struct {
	event
	at time.Time
}

// conn is one connection of a worker.
type conn struct {
	ear
	events chan event
	told   []telling // the last ones
}

// put hands an event to the connection unless too many wait there. Hub.mu is
// held.
func (c *conn) put(e event) bool {
	select {
	case c.events <- e:
		return true
	default:
		return false
	}
}

// ServeHTTP serves `GET /poll/{group}/{pid}`.
func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &conn{ear: ear{r.PathValue("group"), r.PathValue("pid")}, events: make(chan event, buffered)}
	if c.group == "" || c.id == "" {
		http.NotFound(w, r)
		return
	}
	if !h.connect(c) {
		http.Error(w, "too many workers are connected", http.StatusServiceUnavailable)
		return
	}
	defer h.disconnect(c)
	header := w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("Cache-Control", "no-cache")
	w.WriteHeader(http.StatusOK)
	out := http.NewResponseController(w)
	if out.Flush() != nil {
		return
	}
	ping := time.NewTicker(pingEvery)
	defer ping.Stop()
	for {
		var text []byte
		select {
		case <-r.Context().Done():
			return
		case <-ping.C:
			text = []byte(": ping\n\n")
		case e := <-c.events:
			text = h.frames(c, e)
		}
		out.SetWriteDeadline(time.Now().Add(writeTime)) // where there is none, the peer's end of the connection decides
		if _, err := w.Write(text); err != nil {
			return
		}
		if out.Flush() != nil {
			return
		}
	}
}

// frames returns an event, and those that wait behind it, as they are written.
func (h *Hub) frames(c *conn, e event) (text []byte) {
	for more := true; more; e, more = h.following(c) {
		text = append(append(append(text, "data: "...), e.body...), "\n\n"...)
		if e.ended != "" {
			h.mu.Lock()
			c.told = append(c.told, telling{e, time.Now()})
			if n := len(c.told); n > buffered {
				c.told = slices.Clone(c.told[n-buffered:])
			}
			h.mu.Unlock()
		}
	}
	return text
}

// following returns the next event that waits for c, also what it had no room
// for when it came.
func (h *Hub) following(c *conn) (e event, ok bool) {
	if len(c.events) == 0 {
		h.mu.Lock()
		h.missed(c)
		h.mu.Unlock()
	}
	select {
	case e = <-c.events:
		return e, true
	default:
		return e, false
	}
}

// connect makes c one of its group, and gives it what it missed.
func (h *Hub) connect(c *conn) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := 0
	for _, g := range h.groups {
		all += len(g.conns)
	}
	if all >= maxConns || h.ctx.Err() != nil {
		return false
	}
	g := h.groups[c.group]
	if g == nil {
		ctx, stop := context.WithCancel(h.ctx)
		g = &group{stop: stop}
		h.groups[c.group] = g
		h.works.Go(func() { h.receive(ctx, c.group) })
	}
	g.conns = append(g.conns, c)
	h.missed(c)
	return true
}

// disconnect forgets c. What it was sent and did not take is offered to others
// at once; what it may not have heard it hears when it comes again.
func (h *Hub) disconnect(c *conn) {
	h.mu.Lock()
	g := h.groups[c.group]
	g.conns = slices.DeleteFunc(g.conns, func(o *conn) bool { return o == c })
	if len(g.conns) == 0 {
		g.stop()
		delete(h.groups, c.group)
	}
	var back []*sent
	for id, s := range h.sent {
		if s.to == c && !s.taken {
			back = append(back, s)
			delete(h.sent, id)
		}
	}
	for _, told := range c.told {
		if time.Since(told.at) < doubtTime {
			h.say(told.to.address(), told.event)
		}
	}
	for len(c.events) > 0 {
		if e := <-c.events; e.ended != "" {
			h.say(e.to.address(), e)
		}
	}
	h.mu.Unlock()
	ctx, stop := context.WithTimeout(context.Background(), takeTime)
	defer stop()
	for _, s := range back {
		if err := h.Engine.Queue.Extend(ctx, s.queue, s.receipt, 0); err != nil {
			h.Log.DebugContext(ctx, "a message comes back later", "error", err)
		}
	}
}

func encode(m protocol.Message) []byte {
	b, err := json.Marshal(m)
	if err != nil { // strings and numbers
		panic(err)
	}
	return b
}
