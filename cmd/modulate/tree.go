package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"modulate/internal/api"
)

// graph is a promise and all that is below it.
type graph struct {
	Promises []durable `json:"promises"`
	Tasks    []struct {
		ID      string `json:"id"`
		State   string `json:"state"`
		Version uint64 `json:"version"` // how often it was taken
	} `json:"tasks"`
	Cursor *string `json:"cursor"` // there is more
}

func (a *app) treeCommand() *cobra.Command {
	return &cobra.Command{
		Use: "tree ID", Short: "Show a promise and all that is below it", Args: oneID,
		Long: `Show a promise and all that is below it: states, how often each was taken by a
worker, and how long it took, or has taken so far.`,
		Example: "  modulate tree order-7",
		RunE: func(cmd *cobra.Command, ids []string) error {
			var g graph
			err := a.ask(cmd.Context(), ids[0], func(ctx context.Context, c *api.Client) (err error) {
				g, err = graphOf(ctx, c, ids[0])
				return err
			})
			if err != nil {
				return err
			}
			if a.json {
				for _, p := range g.Promises {
					if err := a.printJSON(p); err != nil {
						return err
					}
				}
				return nil
			}
			return a.print(a.draw(g, time.Now()))
		},
	}
}

// graphOf reads a graph, page by page.
func graphOf(ctx context.Context, c *api.Client, id string) (g graph, err error) {
	for {
		var page graph
		if err := c.Protocol(ctx, "promise.search", map[string]any{"modulate:below": id, "cursor": g.Cursor}, &page); err != nil {
			return g, err
		}
		g.Promises, g.Tasks = append(g.Promises, page.Promises...), append(g.Tasks, page.Tasks...)
		if g.Cursor = page.Cursor; g.Cursor == nil {
			return g, nil
		}
	}
}

// draw draws a graph, one promise a line, each below the one it is attached to.
func (a *app) draw(g graph, now time.Time) string {
	tries := map[string]string{}
	for _, t := range g.Tasks {
		tries[t.ID] = fmt.Sprintf(", %s, taken %d times", t.State, t.Version)
		if t.Version == 1 {
			tries[t.ID] = fmt.Sprintf(", %s, taken once", t.State)
		}
	}
	slices.SortStableFunc(g.Promises, func(x, y durable) int { return compareIDs(x.ID, y.ID) })
	var text strings.Builder
	var path []string // of the promise before
	for _, p := range g.Promises {
		for len(path) > 0 && !under(p.ID, path[len(path)-1]) {
			path = path[:len(path)-1]
		}
		end := now
		if p.SettledAt != nil {
			end = time.UnixMilli(*p.SettledAt)
		}
		took := end.Sub(time.UnixMilli(p.CreatedAt)).Round(time.Millisecond)
		fmt.Fprintf(&text, "%s%s  %s%s, %s\n", strings.Repeat("  ", len(path)), sanitize(p.ID), p.State, tries[p.ID], took)
		path = append(path, p.ID)
	}
	return text.String()
}

// under reports whether id is attached somewhere below parent.
func under(id, parent string) bool {
	return strings.HasPrefix(id, parent+".") || strings.HasPrefix(id, parent+":")
}

// compareIDs orders ids so that what is below a promise follows it, and numbers
// as numbers.
func compareIDs(x, y string) int {
	split := func(r rune) bool { return r == '.' || r == ':' }
	a, b := strings.FieldsFunc(x, split), strings.FieldsFunc(y, split)
	return slices.CompareFunc(a, b, func(s, t string) int {
		if len(s) != len(t) && digits(s) && digits(t) {
			return len(s) - len(t)
		}
		return strings.Compare(s, t)
	})
}

func digits(s string) bool { return strings.Trim(s, "0123456789") == "" }
