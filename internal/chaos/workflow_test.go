//go:build linux

package chaos

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"modulate/functions/router/protocol"
	"modulate/internal/promise"
)

// dev killed with kill -9 again and again while workflows run: programs as the
// Resonate SDKs make them, over POST / and /poll, which begin a child, sleep, and
// wait for people. None is lost, none is settled twice, and what anybody was
// told is what is stored.
func TestDevKilledUnderWorkflows(t *testing.T) {
	t.Parallel()
	workflows, kills := 200, 10
	if testing.Short() {
		workflows, kills = 40, 3
	}
	ctx, w := deadline(t, 4*time.Minute), newWorld(t)
	dev := w.dev(ctx, t, "--machines", "cpu:1")
	p := newCallers(ctx, w)
	all := flood(ctx, workflows, 32, p.run)
	for kill := range kills {
		if err := p.ended.awaitCount(ctx, (kill+1)*workflows*9/10/kills, isWorkflow); err != nil {
			t.Fatalf("before kill %d: workflows ended: %v", kill+1, err)
		}
		w.front.set("")
		dev.kill()
		dev = w.dev(ctx, t, "--machines", "cpu:1")
	}
	w.aMinuteLater(ctx, t) // for messages that went down with a process
	if err := all(); err != nil {
		t.Fatal(err)
	}
	p.close()
	dev.stop(ctx, t)
	p.check(ctx, t)
	w.check(ctx, t)
}

// Callers are two workers of workflows, and whoever calls them. It writes down
// what it is told.
type callers struct {
	*world
	ctx    context.Context
	stop   context.CancelFunc
	parts  sync.WaitGroup
	client *http.Client
	ended  *feed[string] // workflows and children that have come to their end

	mu    sync.Mutex
	told  map[string]shown // ends, as they were told first
	taken map[taking]string
	wrong []string
}

func newCallers(ctx context.Context, w *world) *callers {
	p := &callers{
		world: w, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}},
		ended: newFeed[string](), told: map[string]shown{}, taken: map[taking]string{},
	}
	p.ctx, p.stop = context.WithCancel(ctx)
	for n := range 2 {
		p.parts.Go(func() { p.work(fmt.Sprint("w", n)) })
	}
	return p
}

// close ends the workers.
func (p *callers) close() {
	p.stop()
	p.parts.Wait()
	p.client.CloseIdleConnections()
}

// isWorkflow reports whether id is no child's.
func isWorkflow(id string) bool { return !strings.Contains(id, ".") }

// object is JSON in Go.
type object = map[string]any

// shown is a promise as the protocol shows it.
type shown struct {
	ID    string
	State string
	Value struct{ Data string }
}

// said is an answer, as far as it has that.
type said struct {
	status  int
	Promise *shown
	Task    *struct{ Version uint64 }
	Action  *struct{ Data json.RawMessage }
}

// ask sends a request, as often as it takes.
func (p *callers) ask(kind string, data object) (got said, err error) {
	body, err := json.Marshal(object{"kind": kind, "head": object{"corrId": "c", "version": protocol.Version}, "data": data})
	if err != nil {
		return got, err
	}
	err = p.insist(p.ctx, func() error {
		got, err = p.post(body)
		return err
	})
	return got, err
}

func (p *callers) post(body []byte) (got said, err error) {
	req, err := http.NewRequestWithContext(p.ctx, http.MethodPost, p.front.url(), bytes.NewReader(body))
	if err != nil {
		return got, err
	}
	res, err := p.client.Do(req)
	if err != nil {
		return got, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return got, err
	}
	if got.status = res.StatusCode; got.status >= http.StatusInternalServerError {
		return got, fmt.Errorf("%s: %s", res.Status, text)
	}
	if got.status >= http.StatusBadRequest {
		return got, nil
	}
	envelope := struct{ Data *said }{&got}
	if err := json.Unmarshal(text, &envelope); err != nil {
		return got, err
	}
	if got.Action != nil {
		err = json.Unmarshal(got.Action.Data, &got)
	}
	if err == nil && got.Promise != nil {
		p.hear(*got.Promise)
	}
	return got, err
}

// hear writes down what an answer says of an end.
func (p *callers) hear(s shown) {
	if s.State == "pending" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	first, known := p.told[s.ID]
	if !known {
		p.told[s.ID] = s
	} else if first != s {
		p.wrong = append(p.wrong, fmt.Sprintf("%s was told as %+v and is told as %+v", s.ID, first, s))
	}
}

// taking is a task at a version, which one worker is given.
type taking struct {
	id      string
	version uint64
}

// target is where the workers are.
const target = "poll://any@workflows"

// run calls a workflow, and waits until a worker says that it has come to its end.
func (p *callers) run(ctx context.Context, name string) error {
	id := p.id(name)
	got, err := p.ask("promise.create", create(id, time.Hour, object{promise.TagTarget: target}))
	if err != nil || got.status != http.StatusOK {
		return fmt.Errorf("%s: %d, %w", id, got.status, err)
	}
	if _, err := p.ended.await(ctx, func(ended string) bool { return ended == id }); err != nil {
		return fmt.Errorf("%s has not ended: %w", id, err)
	}
	if got, err = p.ask("promise.get", object{"id": id}); err != nil || got.Promise == nil || got.Promise.State != "resolved" {
		return fmt.Errorf("%s is %+v, %w", id, got.Promise, err)
	}
	return nil
}

func create(id string, timeout time.Duration, tags object) object {
	return object{"id": id, "timeoutAt": time.Now().Add(timeout).UnixMilli(), "tags": tags}
}

func settle(id, value string) object {
	return object{"id": id, "state": "resolved", "value": object{"data": value}}
}

func action(kind string, data object) object {
	return object{"kind": kind, "head": object{}, "data": data}
}

// work is a worker: it takes what it is sent, for as long as there is time, and
// connects again whenever the connection has broken.
func (p *callers) work(pid string) {
	var turns sync.WaitGroup
	defer turns.Wait()
	for p.front.ready(p.ctx) == nil {
		req, err := http.NewRequestWithContext(p.ctx, http.MethodGet, p.front.url()+"/poll/workflows/"+pid, nil)
		if err != nil {
			panic(err) // of our own making
		}
		res, err := p.client.Do(req)
		if err != nil {
			continue
		}
		for events := bufio.NewScanner(res.Body); events.Scan(); {
			text, is := strings.CutPrefix(events.Text(), "data: ")
			var m struct {
				Kind string
				Data struct {
					Task struct {
						ID      string
						Version uint64
					}
				}
			}
			if !is || json.Unmarshal([]byte(text), &m) != nil || m.Kind != "execute" {
				continue
			}
			turns.Go(func() { p.turn(pid, m.Data.Task.ID, m.Data.Task.Version) })
		}
		res.Body.Close()
	}
}

// ttl is that of every task.
const ttl = 2 * time.Second

// turn is a worker's time with a task: an error is that its time is over, or its
// lease.
func (p *callers) turn(pid, id string, version uint64) {
	got, err := p.ask("task.acquire", object{"id": id, "version": version, "pid": pid, "ttl": ttl.Milliseconds()})
	if err != nil || got.Task == nil {
		return // another has it, or the answer was lost and its lease has to end
	}
	h := held{p, pid, id, got.Task.Version}
	p.take(h)
	ctx, stop := context.WithCancel(p.ctx)
	defer stop()
	p.parts.Go(func() { h.beat(ctx) })
	value := "child"
	if isWorkflow(id) {
		if value, err = h.workflow(); err != nil || value == "" {
			return
		}
	}
	got, err = p.ask("task.fulfill", object{"id": id, "version": h.version, "action": action("promise.settle", settle(id, value))})
	if err == nil && got.status != http.StatusOK { // done the first time, or by another
		got, err = p.ask("promise.get", object{"id": id})
	}
	if err == nil && got.Promise.State != "pending" {
		p.ended.add(id)
	}
}

// held is a task that a worker has.
type held struct {
	*callers
	pid, id string
	version uint64
}

// take writes down who has a task: one only at each version.
func (p *callers) take(h held) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := taking{h.id, h.version}
	if other := p.taken[at]; other != "" {
		p.wrong = append(p.wrong, fmt.Sprintf("%s at version %d was given to %s and to %s", h.id, h.version, other, h.pid))
	}
	p.taken[at] = h.pid
}

// beat extends the lease.
func (h held) beat(ctx context.Context) {
	beats := time.NewTicker(ttl / 3)
	defer beats.Stop()
	for {
		select {
		case <-beats.C:
			_, _ = h.ask("task.heartbeat", object{"pid": h.pid, "tasks": []object{{"id": h.id, "version": h.version}}})
		case <-ctx.Done():
			return
		}
	}
}

var errLost = errors.New("the task is lost")

// fence does something under the task.
func (h held) fence(kind string, data object) (*shown, error) {
	got, err := h.ask("task.fence", object{"id": h.id, "version": h.version, "action": action(kind, data)})
	if err == nil && got.Promise == nil {
		err = errLost
	}
	return got.Promise, err
}

// workflow begins a child, a sleep and what people settle, and returns what they
// came to, "" if the task was suspended.
func (h held) workflow() (value string, err error) {
	for {
		var pending []object
		value = ""
		for _, piece := range []object{
			create(h.id+".child", time.Hour, object{promise.TagTarget: target}),
			create(h.id+".sleep", 200*time.Millisecond, object{promise.TagTimer: "true"}),
			create(h.id+".people", time.Hour, object{}),
			create(h.id+".own", time.Hour, object{}),
		} {
			made, err := h.fence("promise.create", piece)
			if err == nil && made.State == "pending" && strings.HasSuffix(made.ID, ".own") {
				made, err = h.fence("promise.settle", settle(made.ID, "own"))
			}
			if err != nil {
				return "", err
			}
			if made.State == "pending" {
				pending = append(pending, action("promise.register_callback", object{"awaited": made.ID, "awaiter": h.id}))
			}
			value += made.State + " " + made.Value.Data + ";"
		}
		if len(pending) == 0 {
			return value, nil
		}
		h.parts.Go(func() { // people hear of it, once or twice
			_, _ = h.ask("promise.settle", settle(h.id+".people", "yes"))
		})
		got, err := h.ask("task.suspend", object{"id": h.id, "version": h.version, "actions": pending})
		if err != nil || got.status != http.StatusMultipleChoices {
			return "", err // suspended, or lost
		}
	}
}

// check holds what was told against what is stored.
func (p *callers) check(ctx context.Context, t *testing.T) {
	t.Helper()
	for _, wrong := range p.wrong {
		t.Error(wrong)
	}
	past := p.history(ctx, t)
	for id, told := range p.told {
		forms := past[id]
		if len(forms) == 0 {
			t.Errorf("%s was told as %+v and is not in the store", id, told)
			continue
		}
		last := forms[len(forms)-1]
		if told.State != last.State.String() || told.Value.Data != last.Protocol.Value.Data {
			t.Errorf("%s was told as %+v, and is stored as %s", id, told, ending(last))
		}
		const all = "resolved child;resolved ;resolved yes;resolved own;"
		if isWorkflow(id) && told.Value.Data != all {
			t.Errorf("%s came to %q, want %q", id, told.Value.Data, all)
		}
	}
	for at, pid := range p.taken {
		if !slices.ContainsFunc(past[at.id], func(rec promise.Record) bool {
			return rec.Task.Version == at.version && rec.Task.Worker == pid
		}) {
			t.Errorf("%s was given to %s at version %d, and the store never knew of that", at.id, pid, at.version)
		}
	}
}
