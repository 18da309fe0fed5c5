package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"modulate/internal/api"
)

// fixed are the flags whose values are known beforehand.
var fixed = map[string][]string{
	"runtime": runtimes,
	"mode":    {"rpc", "rfi", "detached"},
	"state":   {"pending", "resolved", "rejected", "rejected_canceled", "rejected_timedout"},
	"retry":   {"never", "constant", "linear", "exponential"},
	"stream":  {"stdout", "stderr"},
	"machine": {"cpu", "gpu"},
}

// completeFlags lets a shell complete the flags of cmd whose values are known.
func completeFlags(cmd *cobra.Command) {
	for name, values := range fixed {
		if cmd.Flags().Lookup(name) == nil {
			continue
		}
		complete := func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return values, cobra.ShellCompDirectiveNoFileComp
		}
		if err := cmd.RegisterFlagCompletionFunc(name, complete); err != nil {
			panic(err) // the flag is registered twice: a mistake in this program
		}
	}
}

// completeIDs completes ids of recent promises.
func (a *app) completeIDs(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), time.Second)
	defer cancel()
	svc, err := a.look(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer svc.close()
	page, err := svc.client.List(ctx, api.ListQuery{Prefix: prefix, Limit: 20})
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var ids []string
	for _, p := range page.Items {
		ids = append(ids, p.ID+"\t"+p.State+" "+p.Call.Script.Name)
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}
