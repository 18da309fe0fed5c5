package main

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"modulate/internal/api"
)

func (a *app) listCommand() *cobra.Command {
	var q api.ListQuery
	var since string
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List promises, newest first", Args: noArgs,
		Long: `List promises, newest first. The list may lag behind a moment; get does not.
Off a terminal: id, state, machine, script, created, settled and the number of
attempts, separated by tabs.`,
		Example: "  modulate list --state pending --machine gpu --since 2h",
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if q.Since, err = parseSince(since, time.Now()); err != nil {
				return err
			}
			if q.Limit < 1 {
				return badInput("--limit %d: want 1 or more", q.Limit)
			}
			return a.list(cmd.Context(), q)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&q.Machine, "machine", "m", "", "only on `MACHINE`")
	f.StringVar(&q.State, "state", "", "only in `STATE`: pending, resolved, rejected, rejected_canceled, rejected_timedout")
	f.StringVar(&q.Prefix, "prefix", "", "only ids that start with `TEXT`")
	f.StringVar(&since, "since", "", "only those created since a `TIME`, or a duration ago")
	f.IntVarP(&q.Limit, "limit", "n", api.DefaultLimit, "at most `N`")
	completeFlags(cmd)
	return cmd
}

// list prints up to q.Limit promises, page by page.
func (a *app) list(ctx context.Context, q api.ListQuery) error {
	svc, err := a.look(ctx)
	if errors.Is(err, errNoStore) {
		a.hint("nothing was ever submitted to " + a.storeDir())
		return nil
	}
	if err != nil {
		return err
	}
	defer svc.close()
	var items []api.Promise
	for want := q.Limit; ; {
		q.Limit = min(want-len(items), api.MaxLimit)
		page, err := svc.client.List(ctx, q)
		if err != nil {
			return err
		}
		items = append(items, page.Items...)
		if page.Cursor == "" || len(items) >= want {
			break
		}
		q.Cursor = page.Cursor
	}
	return a.printList(items)
}

func (a *app) printList(items []api.Promise) error {
	var rows [][]string
	for _, p := range items {
		if a.json {
			if err := a.printJSON(p); err != nil {
				return err
			}
			continue
		}
		settled := "-"
		if p.SettledAt != nil {
			settled = p.SettledAt.UTC().Format(time.RFC3339)
		}
		rows = append(rows, []string{
			p.ID, p.State, p.Machine, p.Call.Script.Name, p.CreatedAt.UTC().Format(time.RFC3339),
			settled, strconv.Itoa(int(lastAttempt(p))),
		})
	}
	if a.json {
		return nil
	}
	return a.table([]string{"ID", "STATE", "MACHINE", "SCRIPT", "CREATED", "SETTLED", "ATTEMPTS"}, rows)
}

func (a *app) machinesCommand() *cobra.Command {
	return &cobra.Command{
		Use: "machines", Short: "List machines: their workers, slots and queues", Args: noArgs,
		Long: `List the machines that are known. Off a terminal: name, workers, slots, running
and about how many wait, separated by tabs.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.machines(cmd.Context()) },
	}
}

func (a *app) machines(ctx context.Context) error {
	svc, err := a.look(ctx)
	if errors.Is(err, errNoStore) {
		a.hint("nothing was ever submitted to " + a.storeDir())
		return nil
	}
	if err != nil {
		return err
	}
	defer svc.close()
	all, err := svc.client.Machines(ctx)
	if err != nil {
		return err
	}
	var rows [][]string
	for _, m := range all.Items {
		if a.json {
			if err := a.printJSON(m); err != nil {
				return err
			}
			continue
		}
		rows = append(rows, []string{
			m.Name, strconv.Itoa(len(m.Workers)), strconv.Itoa(m.Slots), strconv.Itoa(m.Running), strconv.Itoa(m.Depth),
		})
	}
	if a.json {
		return nil
	}
	return a.table([]string{"MACHINE", "WORKERS", "SLOTS", "RUNNING", "WAITING"}, rows)
}
