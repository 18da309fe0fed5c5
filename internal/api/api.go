// Package api is the HTTP interface of Modulate, both ends of it: the wire
// types, one table between sentinels and statuses, the generic handler that
// the Lambdas and `dev` serve, and the client that the CLI and the workers
// use. docs/api.md lists the requests.
//
// JSON is that of encoding/json/v2: "omitzero" leaves out what is zero in Go,
// "omitempty" what is an empty JSON string, object or array.
package api

import (
	"encoding/json"
	"time"
)

// Limits of the API, each named in the error of who exceeds it.
const (
	MaxScript     = 16 << 20  // bytes of a script
	MaxSource     = 256 << 10 // bytes of a script inside the request
	MaxInput      = 64 << 10  // bytes of args and env together
	MaxResult     = 256 << 10 // bytes of result.json
	MaxLog        = 16 << 20  // bytes kept of each output stream
	MaxBody       = 1 << 20   // bytes of a JSON request
	MaxDepth      = 64        // levels of a JSON request
	MaxBlob       = 1 << 30   // bytes of an input file
	MaxFiles      = 256       // input files
	MaxTags       = 20        // tags
	MaxTag        = 128       // bytes of a tag's name, and of its value
	MaxWait       = 25        // seconds that a read blocks
	MaxAttempts   = 100       // attempts under a retry policy
	MinTimeout    = time.Second
	MaxTimeout    = 7 * 24 * time.Hour
	MaxDeadline   = 30 * 24 * time.Hour
	MinLease      = time.Second
	MaxLease      = 15 * time.Minute
	DefaultWait   = 120 * time.Second // timeout of a call that names none
	DefaultLease  = 30 * time.Second  // embedded
	DefaultLimit  = 50                // promises on a page of a list
	MaxLimit      = 1000              // likewise
	MaxLogPage    = 1 << 20           // bytes of a log in one answer
	DefaultTarget = "cpu"             // machine of a submission by the CLI that names none
)

// Submit is the body of POST /v1/promises. Times are in milliseconds; a
// pointer is nil where the submitter left the limit to us.
type Submit struct {
	ID         string            `json:"id,omitempty"`
	Machine    string            `json:"machine"`
	Mode       string            `json:"mode,omitempty"` // rpc, rfi or detached
	Parent     string            `json:"parent,omitempty"`
	Script     Script            `json:"script"`
	Runtime    string            `json:"runtime,omitempty"` // python when empty
	Args       []string          `json:"args,omitempty"`
	Env        map[string]string `json:"env,omitempty"`
	Stdin      string            `json:"stdin,omitempty"` // sha256 of a blob
	Files      []File            `json:"files,omitempty"`
	TimeoutMS  *int64            `json:"timeout_ms,omitzero"`
	DeadlineMS *int64            `json:"deadline_ms,omitzero"` // from the submission on
	LeaseMS    *int64            `json:"lease_ms,omitzero"`
	Retry      *Retry            `json:"retry,omitzero"`
	Tags       map[string]string `json:"tags,omitempty"`
}

// Script names what to run: Source is its text, or SHA256 that of a blob.
type Script struct {
	Name   string  `json:"name"`
	SHA256 string  `json:"sha256,omitempty"`
	Source *string `json:"source,omitzero"`
}

// File is an input laid beside the script.
type File struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"`
}

// Retry is a retry policy: never, constant, linear or exponential.
type Retry struct {
	Policy      string `json:"policy"`
	MaxAttempts uint32 `json:"max_attempts,omitzero"` // the first one too; 3 when 0
	DelayMS     int64  `json:"delay_ms,omitzero"`     // 1,000 when 0
	MaxDelayMS  int64  `json:"max_delay_ms,omitzero"` // 60,000 when 0
}

// Promise is the state of a submission, as every endpoint returns it.
type Promise struct {
	ID         string            `json:"id"`
	State      string            `json:"state"`
	Machine    string            `json:"machine"`
	Mode       string            `json:"mode"`
	Parent     string            `json:"parent,omitempty"`
	Owner      string            `json:"owner"`
	Call       Call              `json:"call"`
	Outcome    *Outcome          `json:"outcome,omitzero"`
	Attempts   []Attempt         `json:"attempts"`
	Tags       map[string]string `json:"tags,omitempty"`
	CreatedAt  time.Time         `json:"created_at"`
	DeadlineAt time.Time         `json:"deadline_at"`
	SettledAt  *time.Time        `json:"settled_at,omitzero"`
}

// Call is what a promise runs, limits filled in.
type Call struct {
	Script     Script            `json:"script"`
	Runtime    string            `json:"runtime"`
	Args       []string          `json:"args,omitempty"`
	Env        map[string]string `json:"env,omitempty"`
	Stdin      string            `json:"stdin,omitempty"`
	Files      []File            `json:"files,omitempty"`
	TimeoutMS  int64             `json:"timeout_ms"`
	DeadlineMS int64             `json:"deadline_ms"`
	LeaseMS    int64             `json:"lease_ms"`
	Retry      *Retry            `json:"retry,omitzero"`
}

// Outcome is what came of a call.
type Outcome struct {
	Cause     string          `json:"cause"`
	ExitCode  *int            `json:"exit_code,omitzero"`
	Signal    *int            `json:"signal,omitzero"`
	Result    json.RawMessage `json:"result,omitzero"`
	Stdout    Stream          `json:"stdout"`
	Stderr    Stream          `json:"stderr"`
	Artifacts []Artifact      `json:"artifacts,omitempty"`
	Usage     Usage           `json:"usage"`
	Error     *Problem        `json:"error,omitzero"`
}

// Stream describes an output stream. Tail is its end, at most 512 bytes, with
// what is not UTF-8 replaced; the exact bytes are read from logs.
type Stream struct {
	Size      int64  `json:"size"` // bytes written
	Truncated bool   `json:"truncated"`
	Tail      string `json:"tail"`
}

// Artifact is a file that a script left in MODULATE_OUTPUT.
type Artifact struct {
	Name   string `json:"name"` // slash-separated, relative
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Usage is what the attempt used.
type Usage struct {
	WallMS      int64 `json:"wall_ms"`
	CPUMS       int64 `json:"cpu_ms"`
	MaxRSSBytes int64 `json:"max_rss_bytes"`
}

// Attempt is one execution.
type Attempt struct {
	Number    uint32     `json:"number"`
	Version   uint64     `json:"version"`
	Worker    string     `json:"worker"`
	StartedAt time.Time  `json:"started_at"`
	EndedAt   *time.Time `json:"ended_at,omitzero"`
	Cause     string     `json:"cause,omitempty"`
}

// Problem is an error of RFC 9457. Where names the field or flag at fault;
// State the state that won, of a cancel that lost.
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status,omitzero"`
	Detail string `json:"detail,omitempty"`
	Where  string `json:"where,omitempty"`
	State  string `json:"state,omitempty"`
}

// BlobRequest is the body of POST /v1/blobs, and BlobUpload its answer: empty for
// content that is there (200), else (201) where to PUT it, perhaps a path of this
// server, with these headers.
type (
	BlobRequest struct {
		SHA256 string `json:"sha256"`
		Size   int64  `json:"size"`
	}
	BlobUpload struct {
		URL     string            `json:"url,omitempty"`
		Headers map[string]string `json:"headers,omitempty"`
	}
)

// List is a page of GET /v1/promises, newest first. It may lag behind.
type List struct {
	Items  []Promise `json:"items"`
	Cursor string    `json:"cursor,omitempty"`
}

// Artifacts is the answer of GET /v1/promises/{id}/artifacts.
type Artifacts struct {
	Items []Artifact `json:"items"`
}

// Machine is an item of GET /v1/machines. Depth is about how many messages
// wait.
type Machine struct {
	Name    string   `json:"name"`
	Depth   int      `json:"depth"`
	Workers []Worker `json:"workers"`
	Slots   int      `json:"slots"`
	Running int      `json:"running"`
}

// Worker is a worker that is up.
type Worker struct {
	Name    string    `json:"name"`
	Slots   int       `json:"slots"`
	Running int       `json:"running"`
	Started time.Time `json:"started_at"`
	Seen    time.Time `json:"seen_at"`
}

// Machines is the answer of GET /v1/machines.
type Machines struct {
	Items []Machine `json:"items"`
}

// Headers of ours. ParentHeader carries "ID VERSION CLAIM_ID" from a script's
// socket; KeyHeader the client's key for one submission, so that a repeated
// request keeps its child's number. The log headers tell where the bytes of an
// answer start, where to read on, how large the stream is so far, which
// attempt it is of, and "true" when nothing more will come.
const (
	ParentHeader     = "Modulate-Parent"
	KeyHeader        = "Modulate-Key"
	LogOffsetHeader  = "Modulate-Log-Offset"
	LogNextHeader    = "Modulate-Log-Next"
	LogSizeHeader    = "Modulate-Log-Size"
	LogAttemptHeader = "Modulate-Log-Attempt"
	LogEndHeader     = "Modulate-Log-End"
)

// mediaJSON and mediaProblem are the content types of bodies.
const (
	mediaJSON    = "application/json"
	mediaProblem = "application/problem+json"
)
