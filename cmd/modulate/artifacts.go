package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"modulate/internal/api"
	"modulate/internal/promise"
)

func (a *app) artifactsCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use: "artifacts ID [-o DIR]", Short: "List or fetch what a script left in MODULATE_OUTPUT", Args: oneID,
		ValidArgsFunction: a.completeIDs,
		Long: `List what a script left in MODULATE_OUTPUT, or with -o write it below a folder,
and never outside it. Off a terminal: name, size and SHA-256, separated by tabs.`,
		Example: "  modulate artifacts ID -o out/",
		RunE: func(cmd *cobra.Command, ids []string) error {
			return a.artifacts(cmd.Context(), ids[0], dir)
		},
	}
	cmd.Flags().StringVarP(&dir, "output", "o", "", "write them below `DIR`")
	return cmd
}

// artifacts lists the artifacts of id, or writes them below dir.
func (a *app) artifacts(ctx context.Context, id, dir string) error {
	svc, err := a.lookFor(ctx, id)
	if err != nil {
		return err
	}
	defer svc.close()
	p, err := svc.client.Get(ctx, id, 0)
	if err != nil {
		return err
	}
	if !terminal(p) {
		return badInput("%s is %s: its artifacts are there when it has ended", id, p.State).hint("wait for it: modulate wait %s", id)
	}
	var items []api.Artifact
	if p.Outcome != nil {
		items = p.Outcome.Artifacts
	}
	if dir == "" {
		return a.listArtifacts(p, items)
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return badInput("-o %q: %w", dir, reason(err))
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return badInput("-o %q: %w", dir, reason(err))
	}
	defer root.Close()
	for _, item := range items {
		if err := fetch(ctx, svc.client, root, want{id, item}); err != nil {
			return err
		}
		a.line("wrote " + filepath.Join(dir, item.Name) + ", " + bytesText(item.Size))
	}
	return nil
}

func (a *app) listArtifacts(p api.Promise, items []api.Artifact) error {
	if a.json {
		return a.printJSON(p)
	}
	var rows [][]string
	for _, item := range items {
		rows = append(rows, []string{item.Name, strconv.FormatInt(item.Size, 10), item.SHA256})
	}
	return a.table([]string{"NAME", "BYTES", "SHA256"}, rows)
}

// want is an artifact to fetch.
type want struct {
	id string
	api.Artifact
}

// fetch writes one artifact below root, whole or not at all. A name that
// leads elsewhere is refused, and so is a link that stands in the way.
func fetch(ctx context.Context, client *api.Client, root *os.Root, w want) error {
	if !filepath.IsLocal(w.Name) || path.Clean(w.Name) != w.Name || sanitize(w.Name) != w.Name {
		return fmt.Errorf("artifact %q: its name leads outside the folder or cannot be one here; nothing is written for it", w.Name)
	}
	body, err := client.Artifact(ctx, w.id, w.Name)
	if err != nil {
		return err
	}
	defer body.Close()
	if parent := path.Dir(w.Name); parent != "." {
		if err := root.MkdirAll(parent, 0o777); err != nil {
			return fmt.Errorf("artifact %q: %w", w.Name, reason(err))
		}
	}
	part := w.Name + ".part"
	if err := w.write(root, part, body); err != nil {
		return errors.Join(fmt.Errorf("artifact %q: %w", w.Name, err), root.Remove(part))
	}
	if err := root.Rename(part, w.Name); err != nil {
		return fmt.Errorf("artifact %q: %w", w.Name, reason(err))
	}
	return nil
}

// write copies body to a new file and checks it.
func (w want) write(root *os.Root, name string, body io.Reader) error {
	f, err := root.Create(name)
	if err != nil {
		return reason(err)
	}
	sum := sha256.New()
	_, err = io.Copy(f, io.TeeReader(body, sum))
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if got := digest(sum); got != w.SHA256 {
		return fmt.Errorf("what arrived has the SHA-256 %s, not %s", got, w.SHA256)
	}
	return nil
}

func digest(h hash.Hash) string { return promise.Hash(h.Sum(nil)).String() }
