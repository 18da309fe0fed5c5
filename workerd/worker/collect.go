package worker

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"modulate/internal/api"
	"modulate/internal/blob"
	"modulate/internal/promise"
	"modulate/workerd/runner"
)

// resultName is the file in MODULATE_OUTPUT that is the result and no
// artifact.
const resultName = "result.json"

// left is what a script left in MODULATE_OUTPUT.
type left struct {
	result    []byte          // valid JSON; nil: none
	artifacts []api.Artifact  // as they stand in the blobs
	problem   promise.Problem // with what it left; the script's doing
	err       error           // of keeping it; the host's
}

// collect takes what the script left. The runner's context ends when the script
// is to stop; what is taken here is of use as long as the attempt is.
func (j *job) collect(_ context.Context, output *os.Root) error {
	j.dead = time.Now()
	skipped, err := runner.Artifacts(j.work, output, func(name string, size int64, open func() (io.ReadCloser, error)) error {
		if name == resultName {
			j.left.err = j.takeResult(size, open)
		} else {
			j.left.err = j.takeArtifact(api.Artifact{Name: name, Size: size}, open)
		}
		return j.left.err
	})
	if n := len(skipped); n > 0 && j.left.problem == (promise.Problem{}) {
		first := skipped[0]
		j.left.problem = problem("skipped", "not every file became an artifact",
			"%d left out, the first %.80q: %s", n, first.Name, first.Why)
	}
	return err
}

// takeResult reads result.json. One that is too large or not JSON is a problem
// of the outcome and nothing else.
func (j *job) takeResult(size int64, open func() (io.ReadCloser, error)) error {
	if size > api.MaxResult {
		j.left.problem = problem("result", "result.json was not taken", "result.json is %d bytes: at most %d", size, api.MaxResult)
		return nil
	}
	src, err := open()
	if err != nil {
		return err
	}
	defer src.Close()
	body, err := io.ReadAll(src)
	if err != nil {
		return err
	}
	if !json.Valid(body) {
		j.left.problem = problem("result", "result.json was not taken", "result.json is not valid JSON")
		return nil
	}
	j.left.result = body
	return nil
}

// takeArtifact puts a file into the blobs, under its place in the list.
func (j *job) takeArtifact(a api.Artifact, open func() (io.ReadCloser, error)) error {
	key := blob.ArtifactKey(j.id, j.version, len(j.left.artifacts))
	long := callTime + time.Duration(a.Size>>20)*time.Second // a slow line carries 1 MiB/s
	err := j.w.blobs.again(j.work, patience{long, blobTime}, func(ctx context.Context) error {
		src, err := open()
		if err != nil {
			return err
		}
		defer src.Close()
		sum := sha256.New()
		if err := j.w.engine.Blobs.Put(ctx, key, io.TeeReader(src, sum), a.Size, promise.Hash{}); err != nil {
			return err
		}
		a.SHA256 = fmt.Sprintf("%x", sum.Sum(nil))
		return nil
	})
	if err != nil {
		return fmt.Errorf("keeping artifact %q: %w", a.Name, err)
	}
	j.left.artifacts = append(j.left.artifacts, a)
	return nil
}
