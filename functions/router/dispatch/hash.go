package dispatch

import (
	"crypto/sha256"

	"github.com/go-json-experiment/json"

	"modulate/internal/api"
	"modulate/internal/promise"
)

// canonical is what makes two submissions the same call, its fields in the
// order of RFC 8785. Limits are in it as they were given, so that other
// defaults in another version change nothing. Mode, wait, parent and tags are
// not, nor is the script's name.
type canonical struct {
	Args       []string          `json:"args,omitempty"`
	DeadlineMS *int64            `json:"deadline_ms,omitzero"`
	Env        map[string]string `json:"env,omitempty"`
	Files      []canonicalFile   `json:"files,omitempty"`
	LeaseMS    *int64            `json:"lease_ms,omitzero"`
	Machine    string            `json:"machine"`
	Retry      *canonicalRetry   `json:"retry,omitzero"`
	Runtime    string            `json:"runtime"`
	Script     string            `json:"script"`
	Stdin      string            `json:"stdin,omitempty"`
	TimeoutMS  *int64            `json:"timeout_ms,omitzero"`
}

type canonicalFile struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"`
}

type canonicalRetry struct {
	DelayMS     int64  `json:"delay_ms,omitzero"`
	MaxAttempts uint32 `json:"max_attempts,omitzero"`
	MaxDelayMS  int64  `json:"max_delay_ms,omitzero"`
	Policy      string `json:"policy"`
}

// hashCall returns the SHA-256 of the canonical JSON of a checked draft.
func hashCall(d *draft) promise.Hash { return sha256.Sum256(canonicalJSON(d)) }

func canonicalJSON(d *draft) []byte {
	c := canonical{
		Args: d.sub.Args, Env: d.sub.Env, Machine: d.rec.Machine, Runtime: d.rec.Call.Runtime,
		Script: d.rec.Call.Script.String(), Retry: canonicalRetryOf(d.sub.Retry),
		TimeoutMS: d.sub.TimeoutMS, DeadlineMS: d.sub.DeadlineMS, LeaseMS: d.sub.LeaseMS,
	}
	if !d.rec.Call.Stdin.IsZero() {
		c.Stdin = d.rec.Call.Stdin.String()
	}
	for _, f := range d.input.Files {
		c.Files = append(c.Files, canonicalFile{Name: f.Name, SHA256: f.SHA256.String()})
	}
	body, err := json.Marshal(c, json.Deterministic(true))
	if err != nil { // its strings came out of JSON
		panic(err)
	}
	return body
}

func canonicalRetryOf(r *api.Retry) *canonicalRetry {
	if r == nil {
		return nil
	}
	return &canonicalRetry{DelayMS: r.DelayMS, MaxAttempts: r.MaxAttempts, MaxDelayMS: r.MaxDelayMS, Policy: r.Policy}
}
