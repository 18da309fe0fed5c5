// Package protocol is the door for programs with a Resonate SDK: it serves the
// protocol of version 2026-04-01 on `POST /`, over the same core, store and
// queues as everything else. docs/resonate.md says how it differs from the
// reference server.
//
// A request is an envelope {kind, head, data}, and so is the answer; its HTTP
// status is that of its head. Any number of these handlers may stand on one
// store.
package protocol

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"modulate/internal/engine"
	"modulate/internal/promise"
	"modulate/internal/store"
)

// Version is the protocol's.
const Version = "2026-04-01"

// Limits, in bytes.
const (
	maxBody = 8 << 20 // of a request
	// enough is when an answer with several promises brings no more of them: a
	// Lambda function answers 6 MB at most ("Lambda quotas").
	enough = 3 << 20
)

// Config is what the handler needs. Engine and Search must be set.
type Config struct {
	Engine   *engine.Engine
	Search   store.Searcher
	Delivery Delivery                            // nil: nobody delivers from this process
	Owner    func(*http.Request) (string, error) // who calls; nil: always "local"
	Log      *slog.Logger                        // nil: discarded

	// Debug serves the kinds debug.* and lets a request say what time it is. What
	// is created then follows the protocol to the letter, without back-off and
	// budgets. Everything is open to everyone who can reach it.
	Debug *Debug
}

// A Delivery brings messages to the workers. It is told what it might not see
// otherwise.
type Delivery interface {
	// Acquired: a worker holds the task until its ttl is over.
	Acquired(id string, version uint64, pid string, ttl time.Duration)
	// Left: the task is held no longer at that version, nor at any before it.
	Left(id string, version uint64)
	// Listening: the address is to be told of the promise's end.
	Listening(id string, address promise.Address)
	// Held returns the tasks that a worker was seen to acquire.
	Held(pid string) []Held
}

// Held is a task as its worker acquired it. ID is the stored one.
type Held struct {
	ID      string
	Version uint64
}

// door is the handler.
type door struct{ Config }

// WorkPath is where workers send what they would send to /: who may send there
// executes the tasks of every owner. On AWS it is for the roles of machines.
const WorkPath = "/work"

// New returns the handler of `POST /` and [WorkPath], /health, /ready, and what
// is left of the interface of earlier versions.
func New(c Config) http.Handler {
	if c.Owner == nil {
		c.Owner = func(*http.Request) (string, error) { return "local", nil }
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	d := &door{c}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /{$}", d.serve)
	mux.HandleFunc("POST "+WorkPath, d.serve)
	mux.HandleFunc("GET /health", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /ready", d.ready)
	for _, gone := range []string{"/promises", "/schedules", "/tasks"} {
		mux.HandleFunc(gone, legacy)
		mux.HandleFunc(gone+"/", legacy)
	}
	return mux
}

// Join serves by door what is the protocol's, and everything else by rest.
func Join(door, rest http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if Serves(r) {
			door.ServeHTTP(w, r)
			return
		}
		rest.ServeHTTP(w, r)
	})
}

// Serves reports whether the handler, and not another, is to have the request.
func Serves(r *http.Request) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch first {
	case "":
		return r.Method == http.MethodPost
	case WorkPath[1:], "health", "ready", "promises", "schedules", "tasks":
		return true
	}
	return false
}

// legacy answers programs with an SDK older than the protocol.
func legacy(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusGone)
	io.WriteString(w, `{"error":"This endpoint is no longer supported: the REST interface of Resonate SDKs before 0.7 (Python) and 0.9 (TypeScript) is not served. Use a newer SDK, which sends everything to POST /."}`+"\n")
}

func (d *door) ready(w http.ResponseWriter, r *http.Request) {
	if _, err := d.Engine.Store.Get(r.Context(), "ready"); err != nil && !errors.Is(err, store.ErrNotFound) {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
}

// envelope is a request. What is unknown in it is left alone.
type envelope struct {
	Kind string `json:"kind"`
	Head struct {
		CorrID    *string         `json:"corrId"`
		Version   *string         `json:"version"`
		DebugTime json.RawMessage `json:"resonate:debug_time"`
	} `json:"head"`
	Data json.RawMessage `json:"data"`
}

// answer is the envelope of an answer.
type answer struct {
	Kind string     `json:"kind"`
	Head answerHead `json:"head"`
	Data any        `json:"data"`
}

type answerHead struct {
	CorrID  string `json:"corrId"`
	Status  int    `json:"status"`
	Version string `json:"version"`
}

// call is one request as it is being done.
type call struct {
	*door
	ctx    context.Context
	engine *engine.Engine // at the request's own time, if it has one
	owner  string
	worker bool // for every owner's tasks
	data   json.RawMessage
}

// reply is what a kind answers: 200 unless it says otherwise.
type reply struct {
	status int
	data   any
}

// empty is a reply without anything in it.
var empty = reply{data: struct{}{}}

// failure is an error with its status in the protocol.
type failure struct {
	status int
	text   string
}

func (f *failure) Error() string { return f.text }

func fail(status int, format string, args ...any) error {
	return &failure{status, fmt.Sprintf(format, args...)}
}

func invalid(format string, args ...any) error { return fail(http.StatusBadRequest, format, args...) }

func (d *door) serve(w http.ResponseWriter, r *http.Request) {
	var env envelope
	rep, err := d.answer(r, &env)
	if err != nil {
		rep = d.failed(r, env.Kind, err)
	}
	if rep.status == 0 {
		rep.status = http.StatusOK
	}
	a := answer{Kind: env.Kind, Head: answerHead{CorrID: "0", Status: rep.status, Version: Version}, Data: rep.data}
	if env.Kind == "" {
		a.Kind = "unknown"
	}
	if env.Head.CorrID != nil {
		a.Head.CorrID = *env.Head.CorrID
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(rep.status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.Encode(a) // who went away misses it
}

// answer reads a request into env and does it.
func (d *door) answer(r *http.Request, env *envelope) (reply, error) {
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxBody))
	if err != nil {
		return reply{}, invalid("Unreadable body: %v", err)
	}
	if err := json.Unmarshal(body, env); err != nil {
		recoverHead(body, env)
		return reply{}, invalid("Invalid request: %v", err)
	}
	switch {
	case env.Kind == "":
		return reply{}, invalid("Invalid request: kind is missing")
	case env.Head.CorrID == nil || env.Head.Version == nil:
		return reply{}, invalid("Invalid request: head.corrId and head.version are needed")
	case *env.Head.Version != Version:
		return reply{}, invalid("Unsupported protocol version %q, this server speaks %s", *env.Head.Version, Version)
	case len(env.Data) == 0 || env.Data[0] != '{':
		return reply{}, invalid("Invalid request: data must be an object")
	}
	do, ok := kinds[env.Kind]
	if !ok {
		return reply{}, invalid("Unknown operation: %s", env.Kind)
	}
	owner, err := d.Owner(r)
	if err != nil {
		return reply{}, fail(http.StatusForbidden, "%v", err)
	}
	c := &call{door: d, ctx: r.Context(), engine: d.Engine, owner: owner, worker: r.URL.Path == WorkPath, data: env.Data}
	if strings.HasPrefix(env.Kind, "debug.") && d.Debug == nil {
		return reply{}, fail(http.StatusForbidden, "%s needs a server in debug mode", env.Kind)
	}
	if d.Debug != nil {
		var at *int64
		if len(env.Head.DebugTime) > 0 {
			if err := read(env.Head.DebugTime, &at); err != nil {
				return reply{}, err
			}
		}
		c.engine = d.Debug.engine(d.Engine, at)
	}
	return do(c)
}

// recoverHead finds what an answer to an ill-formed request is to repeat.
func recoverHead(body []byte, env *envelope) {
	var loose struct {
		Kind any `json:"kind"`
		Head any `json:"head"`
	}
	*env = envelope{}
	if json.Unmarshal(body, &loose) != nil {
		return
	}
	env.Kind, _ = loose.Kind.(string)
	if head, ok := loose.Head.(map[string]any); ok {
		if id, ok := head["corrId"].(string); ok {
			env.Head.CorrID = &id
		}
	}
}

// failed is the table of errors.
func (d *door) failed(r *http.Request, kind string, err error) reply {
	var f *failure
	switch {
	case errors.As(err, &f):
		return reply{f.status, f.text}
	case errors.Is(err, promise.ErrNotFound):
		return reply{http.StatusNotFound, "Not found"}
	case errors.Is(err, promise.ErrSettled), errors.Is(err, promise.ErrState), errors.Is(err, promise.ErrVersion):
		return reply{http.StatusConflict, "The task is not in that state or not at that version: " + err.Error()}
	case errors.Is(err, engine.ErrAwaited):
		return reply{http.StatusUnprocessableEntity, err.Error()}
	case errors.Is(err, store.ErrTooMany):
		return reply{http.StatusNotImplemented, err.Error()}
	case errors.Is(err, store.ErrThrottled):
		return reply{http.StatusServiceUnavailable, "The store has no capacity left for now: try again"}
	case errors.Is(err, store.ErrFull):
		return reply{http.StatusInsufficientStorage, "There is no room for this"}
	}
	if r.Context().Err() == nil {
		d.Log.ErrorContext(r.Context(), "a request of the protocol failed", "kind", kind, "error", err)
	}
	return reply{http.StatusInternalServerError, "Internal error"}
}

// kinds are all kinds of requests.
var kinds = map[string]func(*call) (reply, error){
	"promise.get":               (*call).promiseGet,
	"promise.create":            (*call).promiseCreate,
	"promise.settle":            (*call).promiseSettle,
	"promise.register_callback": (*call).registerCallback,
	"promise.register_listener": (*call).registerListener,
	"promise.search":            (*call).promiseSearch,
	"task.get":                  (*call).taskGet,
	"task.create":               (*call).taskCreate,
	"task.acquire":              (*call).taskAcquire,
	"task.release":              (*call).taskRelease,
	"task.fulfill":              (*call).taskFulfill,
	"task.suspend":              (*call).taskSuspend,
	"task.fence":                (*call).taskFence,
	"task.heartbeat":            (*call).taskHeartbeat,
	"task.halt":                 (*call).taskHalt,
	"task.continue":             (*call).taskContinue,
	"task.search":               (*call).taskSearch,
	"schedule.create":           (*call).scheduleCreate,
	"schedule.get":              (*call).scheduleGet,
	"schedule.delete":           (*call).scheduleDelete,
	"schedule.search":           (*call).scheduleSearch,
	"debug.start":               (*call).debugNothing,
	"debug.stop":                (*call).debugNothing,
	"debug.reset":               (*call).debugReset,
	"debug.tick":                (*call).debugTick,
	"debug.snap":                (*call).debugSnap,
}
