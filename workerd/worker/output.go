package worker

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"modulate/internal/api"
	"modulate/internal/blob"
	"modulate/internal/promise"
	"modulate/workerd/runner"
	"modulate/workerd/uv"
)

// outcome is what is reported of a run, once all of it that does not ride in
// the record stands in the blobs. nil: nothing is reported.
func (j *job) outcome(res runner.Result) *promise.Outcome {
	j.stdout.end()
	j.stderr.end()
	if res.End == runner.Killed || res.End == runner.Failed && j.reason() != running {
		return nil
	}
	out := &promise.Outcome{Usage: promise.Usage{Wall: res.Wall, CPU: res.CPU, MaxRSS: res.MaxRSS}}
	j.fate(out, res)
	if out.Cause != promise.CauseBadHost {
		if err := j.keepOutput(out); err != nil {
			if j.reason() != running {
				return nil
			}
			j.badHost(out, fmt.Errorf("its output cannot be kept: %w", err))
		}
	}
	return out
}

// fate says how the script ended. What it ran out of is the cause only where it
// failed by itself: who ends well has managed with what there is.
func (j *job) fate(out *promise.Outcome, res runner.Result) {
	switch res.End {
	case runner.Exited:
		out.Cause, out.ExitCode = promise.CauseOK, res.Code
		if res.Code != 0 {
			out.Cause = promise.CauseExit
		}
	case runner.Signalled:
		out.Cause, out.Signal = promise.CauseSignal, int(res.Signal)
	case runner.TimedOut:
		out.Cause = promise.CauseTimeout
		out.Error = problem("timeout", "the script ran too long",
			"the script ran longer than its timeout of %v", j.claimed.Call.Timeout)
	case runner.Lost:
		out.Cause = promise.CauseLost
		out.Error = problem("lost", "the script died with what kept it", "%v", res.Err)
	default:
		j.badHost(out, res.Err)
	}
	if out.Cause == promise.CauseExit || out.Cause == promise.CauseSignal {
		j.short(out, res)
	}
	switch {
	case j.left.err != nil:
		j.badHost(out, j.left.err)
	case out.Error != promise.Problem{}:
	case errors.As(res.Err, new(*uv.Refused)):
		out.Error = problem("dependencies", "the script's dependencies cannot be had", "%v", res.Err)
	case errors.Is(res.Err, runner.ErrNotExecutable):
		out.Error = problem("not-executable", "the script is not an executable of this machine", "%v", res.Err)
	case res.Err != nil:
		j.w.log.Warn("not all was in order with a script's output", "id", j.id, "version", j.version, "error", res.Err)
		out.Error = problem("output", "not all of its output was taken", "%v", res.Err)
	default:
		out.Error = j.left.problem
	}
}

// short says what the script ran out of, if it did.
func (j *job) short(out *promise.Outcome, res runner.Result) {
	switch {
	case j.memoryOut != "":
		out.Cause = promise.CauseGPUOutOfMemory
		out.Error = problem("gpu-out-of-memory", "the script ran out of its device's memory", "%s", j.memoryOut)
	case res.OOM:
		out.Cause = promise.CauseOutOfMemory
		out.Error = problem("out-of-memory", "the script ran out of memory",
			"the kernel killed a process of it that wanted more memory than a script has on this machine")
	case res.DiskFull:
		out.Cause = promise.CauseDiskFull
		out.Error = problem("disk-full", "the script filled its disk",
			"it failed with nothing left of the room for files that a script has on this machine")
	}
}

// badHost says that the attempt failed by the host's doing: another is to try.
func (j *job) badHost(out *promise.Outcome, err error) {
	*out = promise.Outcome{
		Cause: promise.CauseBadHost, Usage: out.Usage,
		Error: problem("bad-host", "the worker could not run it", "%v", err),
	}
	j.w.log.Warn("a script could not be run here", "id", j.id, "version", j.version, "error", err)
}

func problem(slug, title, format string, args ...any) promise.Problem {
	return promise.Problem{Type: api.TypePrefix + slug, Title: title, Detail: fmt.Sprintf(format, args...)}
}

// keepOutput divides the room in the record and puts the rest into the blobs.
func (j *job) keepOutput(out *promise.Outcome) error {
	var list []byte
	if len(j.left.artifacts) > 0 {
		var err error
		if list, err = json.Marshal(j.left.artifacts); err != nil {
			return err
		}
	}
	result := j.left.result
	allowed := share(room, [4]int64{int64(len(result)), int64(len(list)), j.stdout.size, j.stderr.size})
	var err error
	if out.Result, err = j.body(result, allowed[0], blob.ResultKey(j.id, j.version)); err != nil {
		return err
	}
	if out.Artifacts, err = j.body(list, allowed[1], blob.ArtifactsKey(j.id, j.version)); err != nil {
		return err
	}
	// An attempt that is tried again leaves no outcome: its output is read
	// from the blobs or not at all.
	retried := out.Cause != promise.CauseOK && j.claimed.Call.Retry.Policy != promise.Never
	out.Stdout = j.stdout.describe(allowed[2], retried)
	out.Stderr = j.stderr.describe(allowed[3], retried)
	for s, stored := range map[*stream]bool{&j.stdout: out.Stdout.Stored, &j.stderr: out.Stderr.Stored} {
		if stored {
			if err := s.flush(j.work, j.putFirm); err != nil {
				return err
			}
		}
	}
	return nil
}

// share divides room among four outputs of those sizes: result, artifacts,
// stdout, stderr. The smallest ride whole; what room is then left goes to the
// tails of the streams.
func share(room int64, sizes [4]int64) (allowed [4]int64) {
	order := []int{0, 1, 2, 3}
	slices.SortStableFunc(order, func(a, b int) int { return int(min(1, max(-1, sizes[a]-sizes[b]))) })
	var cut []int64 // indexes of streams that do not fit
	for _, i := range order {
		switch {
		case sizes[i] <= room:
			allowed[i] = sizes[i]
			room -= sizes[i]
		case i >= 2:
			cut = append(cut, int64(i))
		}
	}
	for n, i := range cut {
		allowed[i] = room / int64(len(cut)-n)
		room -= allowed[i]
	}
	return allowed
}

// body returns what the record says of b, which rides in it if allowed, else
// is put under key.
func (j *job) body(b []byte, allowed int64, key string) (promise.Body, error) {
	size := int64(len(b))
	if size <= allowed {
		return promise.Body{Size: size, Inline: b}, nil
	}
	sum := promise.Hash(sha256.Sum256(b))
	err := j.w.blobs.again(j.work, patience{callTime, blobTime}, func(ctx context.Context) error {
		return j.w.engine.Blobs.Put(ctx, key, bytes.NewReader(b), size, sum)
	})
	return promise.Body{Size: size, SHA256: sum}, err
}

// shipRest ships what is left of the output of a script that was killed, as
// far as that goes quickly: there is no outcome that would wait for it.
func (j *job) shipRest() {
	ctx, cancel := context.WithTimeout(j.base, callTime)
	defer cancel()
	for _, s := range []*stream{&j.stdout, &j.stderr} {
		if err := s.flush(ctx, j.putChunk); err != nil {
			j.w.log.Debug("the last output of a killed script is lost", "id", j.id, "stream", s.name, "error", err)
		}
	}
}

// resumeOutput finds out what another worker has shipped of the attempt's
// output, before any of it is written again: see stream.resume.
func (j *job) resumeOutput(ctx context.Context) error {
	for _, s := range []*stream{&j.stdout, &j.stderr} {
		err := j.w.blobs.again(ctx, patience{callTime, listTime}, func(ctx context.Context) error {
			chunks, err := j.w.engine.Blobs.List(ctx, j.logPrefix(s.name))
			if err == nil {
				s.resume(blob.LogEnd(chunks))
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("looking for the shipped %s of %s: %w", s.name, j.id, err)
		}
	}
	return nil
}

// putChunk keeps a chunk, in one try.
func (j *job) putChunk(ctx context.Context, stream string, offset int64, chunk []byte) error {
	return j.w.blobs.call(ctx, callTime, j.keep(blob.LogKeyAt(j.logPrefix(stream), offset), chunk))
}

// putNewest keeps a chunk behind a stream's head for who follows, in one try.
func (j *job) putNewest(ctx context.Context, stream string, offset int64, chunk []byte) error {
	return j.w.blobs.call(ctx, callTime, j.keep(blob.NewestKeyAt(j.logPrefix(stream), offset), chunk))
}

// putFirm keeps a chunk, trying again for as long as a blob is worth it.
func (j *job) putFirm(ctx context.Context, stream string, offset int64, chunk []byte) error {
	return j.w.blobs.again(ctx, patience{callTime, blobTime}, j.keep(blob.LogKeyAt(j.logPrefix(stream), offset), chunk))
}

func (j *job) logPrefix(stream string) string { return blob.LogPrefix(j.id, j.version, stream) }

// keep puts a chunk under key.
func (j *job) keep(key string, chunk []byte) func(context.Context) error {
	return func(ctx context.Context) error {
		return j.w.engine.Blobs.Put(ctx, key, bytes.NewReader(chunk), int64(len(chunk)), promise.Hash{})
	}
}
