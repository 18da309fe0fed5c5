package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"modulate/internal/api"
	"modulate/internal/promise"
	"modulate/workerd/uv"
)

// A submission is what the flags of submit say.
type submission struct {
	*app
	machine, mode, id, parent string
	runtime                   string
	env, files, tags          []string
	envFile, stdinFrom        string
	retry                     string
	timeout, deadline, lease  duration
	wait                      bool
	save                      string
}

func (a *app) submitCommand() *cobra.Command {
	s := &submission{app: a}
	cmd := &cobra.Command{
		Use: "submit FILE|- [flags] [-- ARGS...]", Short: "Submit a script and print its id",
		Long: `Submit a script. Its id is printed at once, alone on stdout; with --wait the
command goes on as the script: its stdout, stderr and exit code.

What runs the script follows from its name (.py .sh .js .mjs), its #! line, or
--runtime. ARGS after -- are the script's.`,
		Example: `  modulate submit train.py --machine gpu --timeout 2h -- --epochs 3
  modulate submit --wait --file data.csv --stdin questions.txt ask.py
  modulate submit fetch.py --retry exponential,max_attempts=5,delay=2s,max_delay=1m
  echo 'print(1)' | modulate submit - --wait`,
		RunE: s.command,
	}
	s.addFlags(cmd)
	return cmd
}

func (a *app) runCommand() *cobra.Command {
	s := &submission{app: a}
	cmd := &cobra.Command{
		Use: "run FILE|- [flags] [-- ARGS...]", Short: "Run a script and show its output (submit --wait)",
		Example: `  modulate run hello.py
  modulate run report.py -e REGION=eu --save out/ -- --year 2026`,
		RunE: func(cmd *cobra.Command, args []string) error {
			s.wait = true
			return s.command(cmd, args)
		},
	}
	s.addFlags(cmd)
	cmd.Flags().Lookup("wait").Hidden = true // it does
	return cmd
}

// addFlags adds the flags of submit.
func (s *submission) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVarP(&s.machine, "machine", "m", api.DefaultTarget, "the `MACHINE` that runs it")
	f.BoolVarP(&s.wait, "wait", "w", false, "wait, with the script's output and exit code")
	f.StringVar(&s.runtime, "runtime", "", "`NAME` of what runs it: python, python-env, uv, bash, node, binary")
	f.StringArrayVarP(&s.env, "env", "e", nil, "set `NAME=VALUE` for it; NAME alone takes yours (repeatable)")
	f.StringVar(&s.envFile, "env-file", "", "set those of a `FILE`, one a line")
	f.StringVar(&s.stdinFrom, "stdin", "", "a `FILE` as its stdin, - for this command's; empty by default")
	f.StringArrayVar(&s.files, "file", nil, "lay the file at `[NAME=]PATH` beside it (repeatable)")
	f.Var(&s.timeout, "timeout", "of one attempt: 90s, 10m, 2d (default 120s)")
	f.Var(&s.deadline, "deadline", "of everything (default 24h, or twice the timeout)")
	f.StringVar(&s.retry, "retry", "", "run it again when it fails, by a `POLICY`: never, constant, linear or exponential, and what is not to be as in ,max_attempts=3,delay=1s,max_delay=60s")
	f.StringVar(&s.save, "save", "", "write ID.sout and ID.eout, the exact output, into `DIR`")
	f.StringVar(&s.id, "id", "", "the promise's `ID`; the same call again is the same promise")
	f.StringVar(&s.mode, "mode", "", "the `MODE`: rpc, rfi or detached")
	f.StringVar(&s.parent, "parent", "", "the `ID` of its parent, for an rfi or rpc")
	f.StringArrayVar(&s.tags, "tag", nil, "keep `NAME=VALUE` with the promise (repeatable)")
	f.Var(&s.lease, "lease", "how long a dead worker's claim lasts: 1s to 15m (default 30s), on AWS 90s to 15m (default 120s)")
	completeFlags(cmd)
}

// command takes the arguments apart.
func (s *submission) command(cmd *cobra.Command, args []string) error {
	before, after := split(cmd, args)
	switch {
	case len(before) == 0:
		return badInput("the script is missing; want %s", cmd.UseLine()).hint("arguments of the script follow --, after FILE")
	case len(before) > 1:
		return badInput("one script at a time: %q is one too many", before[1]).hint("arguments of the script follow --")
	}
	return s.run(cmd.Context(), before[0], after)
}

// run submits the script at path with the flags' settings.
func (s *submission) run(ctx context.Context, path string, args []string) error {
	if err := s.settleMode(); err != nil {
		return err
	}
	call, contents, err := s.call(path, args)
	if err != nil {
		return err
	}
	svc, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer svc.close()
	for _, c := range contents {
		if err := svc.client.PutBlob(ctx, c.sum, c.size, c.open); err != nil {
			return err
		}
	}
	if s.wait {
		return s.submitAndWait(ctx, svc, call)
	}
	return s.submitOnly(ctx, svc, call)
}

// settleMode makes mode and wait say the same, and refuses what cannot be a
// child. Inside a script its own promise is the parent.
func (s *submission) settleMode() error {
	inside, _ := s.getenv("MODULATE_SOCKET")
	switch {
	case s.mode == "rfi" && s.parent == "" && inside == "":
		return badInput("--mode rfi: the parent is missing; want --parent ID, or the mode detached")
	case s.mode == "rpc":
		s.wait = true
	case s.mode == "" && s.wait:
		s.mode = "rpc"
	}
	if s.save != "" && !s.wait {
		return badInput("--save needs --wait").hint("save the output of an id with modulate wait ID --save %s", s.save)
	}
	return nil
}

// call reads everything that the flags name, and returns the request with the
// contents to upload first.
func (s *submission) call(path string, args []string) (api.Submit, []content, error) {
	if path == "-" && s.stdinFrom == "-" {
		return api.Submit{}, nil, badInput("the script and --stdin cannot both be standard input")
	}
	code, err := readScript(path, s.stdin)
	if err != nil {
		return api.Submit{}, nil, err
	}
	sub := api.Submit{
		ID: s.id, Machine: s.machine, Mode: s.mode, Parent: s.parent, Runtime: s.runtime, Args: args,
		Script:    api.Script{Name: code.name},
		TimeoutMS: s.timeout.ms(), DeadlineMS: s.deadline.ms(), LeaseMS: s.lease.ms(),
	}
	if sub.Runtime == "" {
		if sub.Runtime, err = code.runtime(path); err != nil {
			return sub, nil, err
		}
	} else if strings.HasPrefix(sub.Runtime, "python") && uv.HasBlock(code.text) {
		s.line(fmt.Sprintf("hint: %s names its dependencies (# /// script), which --runtime %s does not install; --runtime uv does", code.name, sub.Runtime))
	}
	if err := s.settings(&sub); err != nil {
		return sub, nil, err
	}
	contents, err := s.inputs(&sub)
	if err != nil {
		return sub, nil, err
	}
	if len(code.text) <= api.MaxSource && utf8.Valid(code.text) {
		text := string(code.text)
		sub.Script.Source = &text
		return sub, contents, nil
	}
	c := code.content()
	sub.Script.SHA256 = c.sum.String()
	return sub, append(contents, c), nil
}

// settings fills in what stands in the flags themselves.
func (s *submission) settings(sub *api.Submit) (err error) {
	if sub.Env, err = parseEnv(s.envFile, s.env, s.getenv); err != nil {
		return err
	}
	if sub.Tags, err = parsePairs("--tag", s.tags); err != nil {
		return err
	}
	sub.Retry, err = parseRetry(s.retry)
	return err
}

// inputs fills in the files that the flags name, and returns their contents.
func (s *submission) inputs(sub *api.Submit) ([]content, error) {
	files, err := parseFiles(s.files)
	if err != nil {
		return nil, err
	}
	var contents []content
	for _, f := range files {
		sub.Files = append(sub.Files, api.File{Name: f.name, SHA256: f.sum.String(), Size: f.size})
		contents = append(contents, f.content)
	}
	in, err := stdinContent(s.stdinFrom, s.stdin)
	if err != nil || in.size == 0 {
		return contents, err
	}
	sub.Stdin = in.sum.String()
	return append(contents, in), nil
}

// submitOnly stores the call and prints its id.
func (s *submission) submitOnly(ctx context.Context, svc *service, call api.Submit) error {
	p, _, err := s.post(ctx, svc, call, api.SubmitOptions{Async: true})
	if err != nil {
		return err
	}
	if err := s.printID(p); err != nil {
		return err
	}
	switch {
	case svc.local != nil && !terminal(p):
		s.hint("nothing runs it yet: start `modulate dev`, or run it here with `modulate wait " + p.ID + "`")
	case s.terminal:
		s.hint("follow it with `modulate wait " + p.ID + "`")
	}
	return nil
}

// printID prints what submit is asked for.
func (s *submission) printID(p api.Promise) error {
	if s.json {
		return s.printJSON(p)
	}
	return s.print(p.ID + "\n")
}

// post submits under an id of ours, so that a repeated request does nothing
// twice; at a script's socket, where ids count, under a key.
func (s *submission) post(ctx context.Context, svc *service, call api.Submit, opts api.SubmitOptions) (api.Promise, api.Submitted, error) {
	if call.ID == "" && svc.socket {
		opts.Key = rand.Text()
	}
	p, done, err := svc.client.Submit(ctx, call, opts)
	if errors.Is(err, api.ErrConflict) && call.ID != "" {
		return p, done, asFailure(err).hint("leave out --id for a fresh one")
	}
	return p, done, err
}

// newID is the id of a call that names none.
func newID(call api.Submit) string {
	id := api.NewID(promise.TimeOf(time.Now()))
	if call.Parent != "" && call.Mode != "detached" {
		return call.Parent + "." + id
	}
	return id
}
