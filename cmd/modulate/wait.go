package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"modulate/internal/account"
	"modulate/internal/api"
)

func (a *app) waitCommand() *cobra.Command {
	var limit duration
	var saveDir string
	cmd := &cobra.Command{
		Use: "wait ID... [flags]", Short: "Wait for the end, with the script's output and exit code",
		Long: `Wait for promises to end. The output of each is shown from its start, one after
the other, and the exit code is the first that is not 0. Where no server runs,
the promises and what they submit are run here.`,
		Example: "  modulate wait ID --for 10m",
		Args:    someIDs, ValidArgsFunction: a.completeIDs,
		RunE: func(cmd *cobra.Command, ids []string) error {
			if limit.given && limit.value <= 0 {
				return badInput("--for: want more than 0, such as 90s, 10m or 2d")
			}
			ctx, cancel := cmd.Context(), context.CancelFunc(func() {})
			if limit.given {
				ctx, cancel = context.WithTimeoutCause(ctx, limit.value, fmt.Errorf("%w (--for %s)", errWaited, limit.value))
			}
			defer cancel()
			return a.waitAll(ctx, ids, saveDir)
		},
	}
	cmd.Flags().Var(&limit, "for", "how long to wait: 90s, 10m, 2d; exit code 75 when it is over")
	cmd.Flags().StringVar(&saveDir, "save", "", "`DIR` in which to write ID.sout and ID.eout, the exact output")
	return cmd
}

// waitAll waits for each of ids.
func (a *app) waitAll(ctx context.Context, ids []string, saveDir string) error {
	svc, err := a.lookFor(ctx, ids[0])
	if err != nil {
		return a.unfinished(ctx, err, ids...)
	}
	defer svc.close()
	ctx, done, err := svc.wait(ctx)
	if err != nil {
		return a.unfinished(ctx, err, ids...)
	}
	defer done()
	for _, id := range ids {
		if err := svc.resume(ctx, id); err != nil {
			return a.unfinished(ctx, err, ids...)
		}
	}
	code := 0
	for i, id := range ids {
		err = a.awaited(ctx, svc, id, saveDir, func(ctx context.Context) (api.Promise, error) {
			return svc.client.Get(ctx, id, api.WaitStep)
		})
		code = cmp.Or(code, a.say(a.unfinished(ctx, err, ids[i:]...)))
		if ctx.Err() != nil {
			break
		}
	}
	return ends(cmp.Or(code, a.say(a.finish(ctx, svc, err))))
}

// submitAndWait submits and waits. A server that knows the id from us answers
// the submission when it is settled, if that is soon.
func (s *submission) submitAndWait(ctx context.Context, svc *service, call api.Submit) error {
	ctx, done, err := svc.wait(ctx)
	if err != nil {
		return err
	}
	defer done()
	if call.ID == "" && !svc.socket {
		call.ID = newID(call)
	}
	first := func(ctx context.Context) (api.Promise, error) {
		p, _, err := s.post(ctx, svc, call, api.SubmitOptions{Wait: api.WaitStep})
		return p, err
	}
	if svc.here != nil || call.ID == "" {
		p, _, err := s.post(ctx, svc, call, api.SubmitOptions{Async: true})
		if err != nil {
			return err
		}
		svc.run(p.ID)
		call.ID = p.ID
		first = func(ctx context.Context) (api.Promise, error) {
			return svc.client.Get(ctx, p.ID, api.WaitStep)
		}
	}
	err = s.awaited(ctx, svc, call.ID, s.save, first)
	code := s.say(s.unfinished(ctx, err, call.ID))
	return ends(cmp.Or(code, s.say(s.finish(ctx, svc, err))))
}

// finish waits for what else runs here. waited is what became of what was
// asked for: where that was broken off, waiting for it goes on with the rest
// too.
func (a *app) finish(ctx context.Context, svc *service, waited error) error {
	broken, err := svc.finish(ctx)
	if err != nil || len(broken) == 0 || stopped(waited) {
		return err
	}
	return a.unfinished(ctx, context.Cause(ctx), broken...)
}

// stopped reports whether it was us who did not wait for the end.
func stopped(err error) bool { return errors.Is(err, errInterrupted) || errors.Is(err, errWaited) }

// awaited follows one promise, prints it where that is asked, and returns how
// it ends the command.
func (a *app) awaited(ctx context.Context, svc *service, id, saveDir string, first request) error {
	watch, err := a.watch(svc, id, saveDir)
	if err != nil {
		return err
	}
	p, err := watch.follow(ctx, first)
	if err != nil {
		return err
	}
	if a.json {
		if err := a.printJSON(p); err != nil {
			return err
		}
	}
	return a.verdict(p)
}

// unfinished adds to err, where it is us who did not wait for the end of ids,
// or may not any more, how to go on.
func (a *app) unfinished(ctx context.Context, err error, ids ...string) error {
	switch {
	case stopped(err):
		err = context.Cause(ctx) // without what was broken off
	case !errors.Is(err, account.ErrCredentials):
		return err
	}
	again := "modulate wait " + strings.Join(ids, " ")
	if a.url != "" {
		again += " --url " + a.url
	}
	if a.stage != "" {
		again += " --stage " + a.stage
	}
	if a.dir != "" {
		again += " --dir " + a.dir
	}
	return asFailure(err).hint("to go on: %s", again)
}

func (a *app) getCommand() *cobra.Command {
	return &cobra.Command{
		Use: "get ID...", Short: "Show promises as they are now", Args: someIDs, ValidArgsFunction: a.completeIDs,
		Example: "  modulate get ID --json",
		RunE:    func(cmd *cobra.Command, ids []string) error { return a.getAll(cmd.Context(), ids) },
	}
}

// getAll shows each of ids.
func (a *app) getAll(ctx context.Context, ids []string) error {
	return a.each(ctx, ids, func(svc *service, id string) error {
		p, err := svc.client.Get(ctx, id, 0)
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(p)
		}
		return a.print(a.describe(p))
	})
}

func (a *app) cancelCommand() *cobra.Command {
	return &cobra.Command{
		Use: "cancel ID...", Short: "Cancel promises, and what is attached below them", Args: someIDs,
		ValidArgsFunction: a.completeIDs,
		Long: `Cancel promises. A script that runs is killed, with all that it started; what is
attached below it is cancelled too. A promise that ended before stays as it is:
exit code 1.`,
		RunE: func(cmd *cobra.Command, ids []string) error {
			ctx := cmd.Context()
			return a.each(ctx, ids, func(svc *service, id string) error {
				p, err := svc.client.Cancel(ctx, id)
				if err != nil {
					return err
				}
				if a.json {
					return a.printJSON(p)
				}
				return a.print(p.ID + "\t" + p.State + "\n")
			})
		},
	}
}

// each does something for each of ids and says what fails. It returns the
// first failure in order.
func (a *app) each(ctx context.Context, ids []string, do func(svc *service, id string) error) error {
	svc, err := a.lookFor(ctx, ids[0])
	if err != nil {
		return err
	}
	defer svc.close()
	code := 0
	for _, id := range ids {
		code = cmp.Or(code, a.say(do(svc, id)))
		if ctx.Err() != nil {
			break
		}
	}
	return ends(code)
}

// print writes to stdout what the command is asked for.
func (a *app) print(text string) error {
	if _, err := a.stdout.Write([]byte(text)); err != nil {
		return outputFailure(fmt.Errorf("writing to standard output: %w", err))
	}
	return nil
}
