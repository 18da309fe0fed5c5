package protocol

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"modulate/internal/promise"
)

// value is a Value on the wire; nothing in it is said by nothing.
type value struct {
	Headers map[string]string `json:"headers,omitempty"`
	Data    *string           `json:"data,omitempty"`
}

func (v *value) stored() promise.Value {
	if v == nil {
		return promise.Value{}
	}
	out := promise.Value{Headers: v.Headers}
	if v.Data != nil {
		out.Data, out.HasData = *v.Data, true
	}
	return out
}

func wireValue(v promise.Value) value {
	out := value{Headers: v.Headers}
	if v.HasData {
		out.Data = &v.Data
	}
	return out
}

// promiseView is a promise on the wire.
type promiseView struct {
	ID        string            `json:"id"`
	State     string            `json:"state"`
	Param     value             `json:"param"`
	Value     value             `json:"value"`
	Tags      map[string]string `json:"tags"`
	TimeoutAt int64             `json:"timeoutAt"`
	CreatedAt int64             `json:"createdAt"`
	SettledAt *int64            `json:"settledAt,omitempty"`
}

// View returns the promise as it stands in the protocol. That of a script has
// the tag modulate:call, and as its value what the script came to.
func view(rec promise.Record) promiseView {
	v := promiseView{
		ID: promise.DecodeID(rec.ID), State: rec.State.String(), Tags: map[string]string{},
		TimeoutAt: int64(rec.DeadlineAt), CreatedAt: int64(rec.CreatedAt),
	}
	if rec.State.Terminal() {
		at := int64(rec.SettledAt)
		v.SettledAt = &at
	}
	if p := rec.Protocol; p != nil {
		v.Param, v.Value = wireValue(p.Param), wireValue(p.Value)
		maps.Copy(v.Tags, p.Tags)
	}
	if isScript(rec) {
		v.Tags[promise.TagTarget] = "poll://any@" + rec.Machine
		v.Tags[tagCall] = rec.Call.Name
	}
	if rec.State.Terminal() && v.Value.Data == nil && (isScript(rec) || rec.Outcome.Cause == promise.CauseExhausted) {
		v.Value = outcome(rec)
	}
	return v
}

// weight is about how many bytes a promise has on the wire.
func weight(rec promise.Record) int {
	const frame = 300 // what all have
	n := frame + len(rec.ID) + len(rec.Outcome.Result.Inline) + len(rec.Outcome.Stdout.Tail)
	if p := rec.Protocol; p != nil {
		for _, part := range []map[string]string{p.Tags, p.Param.Headers, p.Value.Headers} {
			for name, v := range part {
				n += len(name) + len(v)
			}
		}
		n += len(p.Param.Data) + len(p.Value.Data)
	}
	return n
}

// tagCall marks the promises of scripts, which their machine's own queue has.
const tagCall = "modulate:call"

func isScript(rec promise.Record) bool { return !rec.Remote() }

// outcome is what became of a script, or of a task that nobody got on with, in
// the form that SDKs give values: JSON in base64, an error with its message.
func outcome(rec promise.Record) value {
	out := map[string]any{"cause": rec.Outcome.Cause}
	if isScript(rec) {
		out["exit_code"] = rec.Outcome.ExitCode
		out["stdout"] = string(rec.Outcome.Stdout.Tail)
	}
	if r := rec.Outcome.Result.Inline; len(r) > 0 && json.Valid(r) {
		out["result"] = json.RawMessage(r)
	}
	if rec.State != promise.Resolved {
		out["__type"] = "error"
		out["message"] = fmt.Sprintf("%s: %s %s", rec.Outcome.Cause, rec.Outcome.Error.Title, rec.Outcome.Error.Detail)
	}
	b, err := json.Marshal(out)
	if err != nil { // strings, a number and valid JSON
		panic(err)
	}
	data := base64.StdEncoding.EncodeToString(b)
	return value{Data: &data}
}

// taskView is a task on the wire.
type taskView struct {
	ID      string  `json:"id"`
	State   string  `json:"state"`
	Version uint64  `json:"version"`
	Resumes int     `json:"resumes"`
	TTL     *int64  `json:"ttl,omitempty"`
	PID     *string `json:"pid,omitempty"`
}

func taskOf(rec promise.Record) taskView {
	t := taskView{ID: promise.DecodeID(rec.ID), State: rec.Task.State.String(), Version: rec.Task.Version}
	if rec.Protocol != nil {
		t.Resumes = len(rec.Protocol.Resumes)
	}
	if rec.Task.State == promise.TaskAcquired {
		ttl, pid := rec.Task.Lease.Milliseconds(), rec.Task.Worker
		t.TTL, t.PID = &ttl, &pid
	}
	return t
}

// read decodes data into v, unknown fields left alone.
func read(data []byte, v any) error {
	if err := json.Unmarshal(data, v); err != nil {
		return invalid("Invalid data: %v", err)
	}
	return nil
}

// ident is an id in a request; it must be there.
func ident(name string, id *string) (string, error) {
	if id == nil || *id == "" {
		return "", invalid("Invalid data: %s is missing", name)
	}
	stored := promise.EncodeID(*id)
	if len(stored) > promise.MaxChildID {
		return "", invalid("Invalid data: %s has %d bytes as it is stored, at most %d are possible", name, len(stored), promise.MaxChildID)
	}
	return stored, nil
}

// newPromise is the data of promise.create.
type newPromise struct {
	ID        *string           `json:"id"`
	TimeoutAt *int64            `json:"timeoutAt"`
	Param     *value            `json:"param"`
	Tags      map[string]string `json:"tags"`
}

// draft checks the data of promise.create and returns the record to be.
func (c *call) draft(n newPromise) (promise.Record, error) {
	if _, err := ident("id", n.ID); err != nil {
		return promise.Record{}, err
	}
	if n.TimeoutAt == nil || *n.TimeoutAt < 0 {
		return promise.Record{}, invalid("Invalid data: timeoutAt must be a time, in milliseconds since 1970")
	}
	if err := checkTags(*n.ID, n.Tags); err != nil {
		return promise.Record{}, err
	}
	if delay, ok := n.Tags[promise.TagDelay]; ok {
		at, err := strconv.ParseInt(delay, 10, 64)
		if err != nil || at < 0 || at >= *n.TimeoutAt || n.Tags[promise.TagTarget] == "" {
			return promise.Record{}, invalid("Invalid %s: want milliseconds since 1970, before timeoutAt, and with a target", promise.TagDelay)
		}
	}
	if _, ok := n.Tags[tagCall]; ok {
		return promise.Record{}, invalid("%s marks scripts, which are submitted by POST /v1/promises", tagCall)
	}
	return promise.NewRemote(c.owner, *n.ID, promise.Time(*n.TimeoutAt), promise.Protocol{
		Param: n.Param.stored(), Tags: n.Tags, Exact: c.Debug != nil,
	}), nil
}

// checkTags checks the tags that mean something. An id belongs to an origin,
// branch or parent if it is that, or goes on after it with "." or ":".
func checkTags(id string, tags map[string]string) error {
	if target, ok := tags[promise.TagTarget]; ok {
		if _, ok := promise.ParseAddress(target); !ok {
			return invalid("Invalid %s address %q: want poll://any@GROUP, poll://any@GROUP/ID or poll://uni@GROUP/ID", promise.TagTarget, target)
		}
	}
	for _, name := range []string{promise.TagOrigin, promise.TagBranch, "resonate:parent"} {
		if of, ok := tags[name]; ok && id != of && !strings.HasPrefix(id, of+".") && !strings.HasPrefix(id, of+":") {
			return invalid("Invalid %s: %q is not %q and does not begin with it and a separator", name, id, of)
		}
	}
	return nil
}

// state reads the state that a promise is to end in.
func endState(name *string) (promise.State, error) {
	if name != nil {
		if s, ok := promise.ParseState(*name); ok && s >= promise.Resolved && s <= promise.Canceled {
			return s, nil
		}
	}
	return 0, invalid("Invalid data: state must be resolved, rejected or rejected_canceled")
}

// matches reports whether tags hold all of want.
func matches(tags, want map[string]string) bool {
	for name, v := range want {
		if has, ok := tags[name]; !ok || has != v {
			return false
		}
	}
	return true
}

// taskStates are the states of tasks that can be searched for.
var taskStates = []promise.TaskState{
	promise.TaskPending, promise.TaskAcquired, promise.TaskSuspended, promise.TaskHalted, promise.TaskFulfilled,
}

func parseTaskState(name string) (promise.TaskState, bool) {
	i := slices.IndexFunc(taskStates, func(s promise.TaskState) bool { return s.String() == name })
	if i < 0 {
		return 0, false
	}
	return taskStates[i], true
}
