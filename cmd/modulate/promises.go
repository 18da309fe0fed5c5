package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"modulate/internal/api"
)

// durable is a promise of the Resonate protocol, whoever executes it.
type durable struct {
	ID        string            `json:"id"`
	State     string            `json:"state"`
	Param     json.RawMessage   `json:"param"`
	Value     json.RawMessage   `json:"value"`
	Tags      map[string]string `json:"tags"`
	TimeoutAt int64             `json:"timeoutAt"`
	CreatedAt int64             `json:"createdAt"`
	SettledAt *int64            `json:"settledAt,omitempty"`
}

// oneDurable is an answer that is about one of them.
type oneDurable struct {
	Promise durable `json:"promise"`
}

func (a *app) promisesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "promises", Short: "Make, see and settle promises of the Resonate protocol", Args: noArgs,
		Long: `Make, see and settle promises of the Resonate protocol: what a workflow waits for
until a person or another system decides. docs/resonate.md says more.`,
		Example: "  modulate promises resolve order-7.3 --data '{\"approved\": true}'",
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.promiseCreateCommand(), a.promiseGetCommand())
	for _, end := range []struct{ name, short, state string }{
		{"resolve", "End a promise well", "resolved"},
		{"reject", "End a promise badly", "rejected"},
		{"cancel", "End a promise because it is not wanted any more", "rejected_canceled"},
	} {
		cmd.AddCommand(a.promiseSettleCommand(end.name, end.short, end.state))
	}
	return cmd
}

func (a *app) promiseCreateCommand() *cobra.Command {
	timeout := duration{value: 24 * time.Hour, given: true}
	var data string
	var tags []string
	cmd := &cobra.Command{
		Use: "create ID", Short: "Make a promise, or show the one that there is", Args: oneID,
		RunE: func(cmd *cobra.Command, ids []string) error {
			param, err := dataOf(data)
			if err != nil {
				return err
			}
			named := map[string]string{}
			for _, tag := range tags {
				name, value, ok := strings.Cut(tag, "=")
				if !ok {
					return badInput("--tag %q: want NAME=VALUE", tag)
				}
				named[name] = value
			}
			return a.protocol(cmd.Context(), ids[0], "promise.create", map[string]any{
				"id": ids[0], "timeoutAt": time.Now().Add(timeout.value).UnixMilli(), "param": param, "tags": named,
			})
		},
	}
	cmd.Flags().Var(&timeout, "timeout", "when it times out, if nobody settles it before")
	cmd.Flags().StringVar(&data, "data", "", "`JSON` that it is made with")
	cmd.Flags().StringArrayVar(&tags, "tag", nil, "`NAME=VALUE`, any number of times")
	return cmd
}

func (a *app) promiseGetCommand() *cobra.Command {
	return &cobra.Command{
		Use: "get ID", Short: "Show a promise as it is now", Args: oneID,
		RunE: func(cmd *cobra.Command, ids []string) error {
			return a.protocol(cmd.Context(), ids[0], "promise.get", map[string]any{"id": ids[0]})
		},
	}
}

func (a *app) promiseSettleCommand(name, short, state string) *cobra.Command {
	var data string
	cmd := &cobra.Command{
		Use: name + " ID", Short: short, Args: oneID,
		Long: short + `. The first end counts: one that has ended stays as it is, which is
shown, with exit code 1.`,
		RunE: func(cmd *cobra.Command, ids []string) error {
			value, err := dataOf(data)
			if err != nil {
				return err
			}
			var was, is oneDurable
			err = a.ask(cmd.Context(), ids[0], func(ctx context.Context, c *api.Client) error {
				if err := c.Protocol(ctx, "promise.get", map[string]any{"id": ids[0]}, &was); err != nil {
					return err
				}
				return c.Protocol(ctx, "promise.settle", map[string]any{"id": ids[0], "state": state, "value": value}, &is)
			})
			if err != nil {
				return err
			}
			if was.Promise.State != "pending" || is.Promise.State != state {
				return &failure{code: exitLost, err: fmt.Errorf("%s is %s already", ids[0], is.Promise.State)}
			}
			return a.printDurable(is.Promise)
		},
	}
	cmd.Flags().StringVar(&data, "data", "", "`JSON` that it ends with")
	return cmd
}

// dataOf is JSON as SDKs carry it: in base64.
func dataOf(text string) (map[string]any, error) {
	if text == "" {
		return map[string]any{}, nil
	}
	if !json.Valid([]byte(text)) {
		return nil, badInput("--data %q: want JSON, such as '{\"approved\": true}' or '\"text\"'", text)
	}
	return map[string]any{"data": base64.StdEncoding.EncodeToString([]byte(text))}, nil
}

// ask makes requests about a promise.
func (a *app) ask(ctx context.Context, id string, do func(context.Context, *api.Client) error) error {
	svc, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer svc.close()
	return do(ctx, svc.client)
}

// protocol makes a request and shows the promise that is its answer.
func (a *app) protocol(ctx context.Context, id, kind string, data map[string]any) error {
	var got oneDurable
	err := a.ask(ctx, id, func(ctx context.Context, c *api.Client) error { return c.Protocol(ctx, kind, data, &got) })
	if err != nil {
		return err
	}
	return a.printDurable(got.Promise)
}

// printDurable prints a promise: its id, its state and what it ended with.
func (a *app) printDurable(p durable) error {
	if a.json {
		return a.printJSON(p)
	}
	line := sanitize(p.ID) + "\t" + p.State
	var value struct{ Data string }
	if json.Unmarshal(p.Value, &value) == nil && value.Data != "" {
		if plain, err := base64.StdEncoding.DecodeString(value.Data); err == nil && json.Valid(plain) {
			value.Data = string(plain)
		}
		line += "\t" + sanitize(value.Data)
	}
	return a.print(line + "\n")
}
