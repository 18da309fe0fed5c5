package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"modulate/internal/blob"
	"modulate/internal/promise"
)

// View returns rec as the API shows it, the parts too that are kept beside
// the record. Parts that are gone are left out, and logged.
func (s *Service) View(ctx context.Context, rec promise.Record) (Promise, error) {
	p := Summary(rec)
	if int(rec.Attempt) > len(rec.Attempts) {
		all, err := s.Engine.Attempts(ctx, rec)
		if err := s.gone(rec.ID, "attempts", err); err != nil {
			return Promise{}, err
		}
		if err == nil {
			p.Attempts = attempts(all)
		}
	}
	if !rec.Call.InputBlob.IsZero() {
		in, err := s.Engine.Input(ctx, rec.Call)
		if err := s.gone(rec.ID, "input", err); err != nil {
			return Promise{}, err
		}
		p.setInput(in)
	}
	if p.Outcome == nil {
		return p, nil
	}
	if err := s.viewOutcome(ctx, rec, p.Outcome); err != nil {
		return Promise{}, err
	}
	return p, nil
}

// viewOutcome fills in what of the outcome is kept in blobs.
func (s *Service) viewOutcome(ctx context.Context, rec promise.Record, out *Outcome) error {
	if b := rec.Outcome.Result; spilled(b) {
		body, err := s.read(ctx, blob.ResultKey(rec.ID, rec.Outcome.Version), MaxResult)
		if err := s.gone(rec.ID, "result", err); err != nil {
			return err
		}
		out.Result = result(body)
	}
	if spilled(rec.Outcome.Artifacts) {
		list, err := s.Artifacts(ctx, rec)
		if err := s.gone(rec.ID, "artifacts", err); err != nil {
			return err
		}
		out.Artifacts = list
	}
	return nil
}

// Artifacts returns what rec's script left, in the order of their keys.
func (s *Service) Artifacts(ctx context.Context, rec promise.Record) ([]Artifact, error) {
	body := rec.Outcome.Artifacts.Inline
	if spilled(rec.Outcome.Artifacts) {
		var err error
		body, err = s.read(ctx, blob.ArtifactsKey(rec.ID, rec.Outcome.Version), rec.Outcome.Artifacts.Size)
		if err != nil {
			return nil, err
		}
	}
	if len(body) == 0 {
		return nil, nil
	}
	var list []Artifact
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("reading the artifacts of %s: %w", rec.ID, err)
	}
	return list, nil
}

// gone passes err on, but for a blob that is not there any more.
func (s *Service) gone(id, what string, err error) error {
	if errors.Is(err, blob.ErrNotFound) {
		s.log().Warn("a part of a promise is gone", "id", id, "part", what, "error", err)
		return nil
	}
	return err
}

// read returns a blob of at most limit bytes.
func (s *Service) read(ctx context.Context, key string, limit int64) ([]byte, error) {
	src, err := s.Engine.Blobs.Get(ctx, key, 0)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	body, err := io.ReadAll(io.LimitReader(src, limit))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", key, err)
	}
	return body, nil
}

func spilled(b promise.Body) bool { return b.Size > 0 && len(b.Inline) == 0 }

// Summary is View without what is kept beside the record: inputs, results and
// lists of artifacts that are large, and attempts that were archived.
func Summary(rec promise.Record) Promise {
	call := rec.Call
	p := Promise{
		ID: rec.ID, State: rec.State.String(), Machine: rec.Machine, Mode: rec.Mode.String(),
		Parent: rec.Parent, Owner: rec.Owner,
		Call: Call{
			Script:  Script{Name: call.Name, SHA256: call.Script.String()},
			Runtime: call.Runtime, TimeoutMS: call.Timeout.Milliseconds(),
			DeadlineMS: rec.DeadlineAt.Sub(rec.CreatedAt).Milliseconds(),
			LeaseMS:    call.Lease.Milliseconds(), Retry: retry(call.Retry),
		},
		Attempts: attempts(rec.Attempts), CreatedAt: rec.CreatedAt.Std(),
		DeadlineAt: rec.DeadlineAt.Std(), SettledAt: stdOrNil(rec.SettledAt),
	}
	if !call.Stdin.IsZero() {
		p.Call.Stdin = call.Stdin.String()
	}
	p.setInput(call.Input)
	if rec.State.Terminal() {
		p.Outcome = outcome(rec.Outcome)
	}
	return p
}

func (p *Promise) setInput(in promise.Input) {
	p.Call.Args, p.Call.Env, p.Tags = in.Args, in.Env, in.Tags
	for _, f := range in.Files {
		p.Call.Files = append(p.Call.Files, File{Name: f.Name, SHA256: f.SHA256.String(), Size: f.Size})
	}
}

func retry(r promise.Retry) *Retry {
	if r.Policy == promise.Never {
		return nil
	}
	return &Retry{
		Policy: r.Policy.String(), MaxAttempts: r.MaxAttempts,
		DelayMS: r.Delay.Milliseconds(), MaxDelayMS: r.MaxDelay.Milliseconds(),
	}
}

func attempts(list []promise.Attempt) []Attempt {
	out := make([]Attempt, len(list))
	for i, a := range list {
		out[i] = Attempt{
			Number: a.Number, Version: a.Version, Worker: a.Worker,
			StartedAt: a.StartedAt.Std(), EndedAt: stdOrNil(a.EndedAt), Cause: string(a.Cause),
		}
	}
	return out
}

func outcome(o promise.Outcome) *Outcome {
	out := &Outcome{
		Cause: string(o.Cause), Stdout: stream(o.Stdout), Stderr: stream(o.Stderr),
		Result: result(o.Result.Inline),
		Usage:  Usage{WallMS: o.Usage.Wall.Milliseconds(), CPUMS: o.Usage.CPU.Milliseconds(), MaxRSSBytes: o.Usage.MaxRSS},
	}
	switch o.Cause {
	case promise.CauseOK, promise.CauseExit:
		out.ExitCode = &o.ExitCode
	case promise.CauseSignal:
		out.Signal = &o.Signal
	}
	if o.Error != (promise.Problem{}) {
		out.Error = &Problem{Type: o.Error.Type, Title: o.Error.Title, Detail: o.Error.Detail}
	}
	if len(o.Artifacts.Inline) > 0 && json.Unmarshal(o.Artifacts.Inline, &out.Artifacts) != nil {
		out.Artifacts = nil // Artifacts says what is wrong with it
	}
	return out
}

// result returns what a script left as its result, if it can stand in JSON.
func result(body []byte) []byte {
	if len(body) == 0 || !jsontext.Value(body).IsValid(jsontext.AllowDuplicateNames(true)) {
		return nil
	}
	return body
}

func stream(s promise.Stream) Stream {
	return Stream{Size: s.Size, Truncated: s.Cut > 0, Tail: strings.ToValidUTF8(string(s.Tail), "\uFFFD")}
}

func stdOrNil(t promise.Time) *time.Time {
	if t == 0 {
		return nil
	}
	std := t.Std()
	return &std
}
