package main

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// A program is one call of the command, with its surroundings.
type program struct {
	args           []string // without the program's own name
	getenv         lookup
	stdin          io.Reader
	stdout, stderr io.Writer
	server         func() // called before a server begins; nil: nothing is
}

// An app is a program that runs: what its commands share.
type app struct {
	program
	*screen
	signals *signals

	// Flags of every command.
	url   string
	stage string
	dir   string
	file  string
	json  bool
	raw   bool
}

// run does what the arguments say and returns the exit code.
func (p program) run(ctx context.Context) int {
	ctx, sig := catchSignals(ctx)
	defer sig.stop()
	a := &app{program: p, screen: newScreen(p.stderr), signals: sig}
	root := a.root()
	root.SetArgs(append([]string{}, p.args...)) // nil would mean os.Args
	root.SetIn(p.stdin)
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	err := root.ExecuteContext(ctx)
	a.setStatus("")
	if err == nil {
		return 0
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = context.Cause(ctx)
	}
	return a.fail(asFailure(err))
}

const longHelp = `Modulate runs your scripts on the right machines, and never loses one.

  modulate run hello.py                     run a script and show its output
  modulate submit train.py --machine gpu    submit it and print its id
  modulate wait ID                          wait for its end, through any restart
  modulate dev                              a whole server for this folder

Without --url or --stage, and without a running dev, the commands work on the
store in .modulate of the current directory themselves.`

const exitHelp = `Exit codes:
  the script's own; 128+N when signal N killed it; 124 timeout or deadline;
  125 cancelled, exhausted or a failure of the service; 1 a cancel that came
  too late; 2 bad input; 3 unknown id; 4 no server there; 75 wait --for is
  over; 130 interrupted. Of several ids the first that is not 0.
`

// root builds the tree of commands. The root itself takes the forms
// `modulate --script F --machine M --wait` and `modulate --get ID`.
func (a *app) root() *cobra.Command {
	sub := &submission{app: a}
	var file, get string
	root := &cobra.Command{
		Use: "modulate", Short: "Run scripts on the right machines, and never lose one", Long: longHelp,
		SilenceErrors: true, SilenceUsage: true, SuggestionsMinimumDistance: 2,
		Args: a.noCommand,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case file != "" && get != "":
				return badInput("--script and --get exclude each other")
			case file != "":
				return sub.run(cmd.Context(), file, args)
			case get != "":
				return a.getAll(cmd.Context(), []string{get})
			case cmd.Flags().NFlag() > 0:
				return badInput("there is no command; want --script FILE or --get ID with these flags").hint("see modulate --help")
			}
			return cmd.Help()
		},
	}
	flags := root.Flags()
	flags.StringVar(&file, "script", "", "submit `FILE`; takes every flag of submit")
	flags.StringVar(&get, "get", "", "show the promise with that `ID`")
	sub.addFlags(root)
	flags.VisitAll(func(f *pflag.Flag) { f.Hidden = !slices.Contains([]string{"script", "get", "machine", "wait"}, f.Name) })
	a.addFlags(root)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return badInput("%w", err).hint("see %s --help", cmd.CommandPath())
	})
	usage := strings.ReplaceAll(root.UsageTemplate(), ".FlagUsages ", ".FlagUsagesWrapped 80 ")
	root.SetUsageTemplate(usage + "\n" + exitHelp)
	for _, add := range []func() *cobra.Command{
		a.runCommand, a.submitCommand, a.getCommand, a.waitCommand, a.cancelCommand, a.logsCommand,
		a.artifactsCommand, a.promisesCommand, a.treeCommand, a.listCommand, a.machinesCommand, a.devCommand, a.doctorCommand, a.versionCommand,
	} {
		root.AddCommand(add())
	}
	return root
}

// addFlags adds the flags of every command.
func (a *app) addFlags(root *cobra.Command) {
	flags := root.PersistentFlags()
	flags.StringVar(&a.url, "url", "", "`URL` of the server (MODULATE_URL)")
	flags.StringVar(&a.stage, "stage", "", "`STAGE` of an AWS account, found by its stack (MODULATE_STAGE)")
	flags.StringVar(&a.dir, "dir", "", "`FOLDER` of the store (MODULATE_DIR; else .modulate)")
	flags.StringVar(&a.file, "config", "", "`FILE` that describes this machine, for scripts that run here: machine.toml (MODULATE_CONFIG)")
	flags.BoolVar(&a.json, "json", false, "print promises as JSON, one a line")
	flags.BoolVar(&a.raw, "raw", false, "do not strip terminal escapes from a script's output")
}

// noCommand refuses arguments of the root that are no command; what follows
// -- is the script's.
func (a *app) noCommand(cmd *cobra.Command, args []string) error {
	before, _ := split(cmd, args)
	if len(before) == 0 {
		return nil
	}
	f := badInput("there is no command %q", before[0])
	if info, err := os.Stat(before[0]); err == nil && info.Mode().IsRegular() {
		return f.hint("to run that file: modulate run %s", before[0])
	}
	if like := cmd.SuggestionsFor(before[0]); len(like) > 0 {
		return f.hint("did you mean modulate %s?", strings.Join(like, " or modulate "))
	}
	return f.hint("see modulate --help")
}

// split parts the arguments before -- from those after it.
func split(cmd *cobra.Command, args []string) (before, after []string) {
	if dash := cmd.ArgsLenAtDash(); dash >= 0 {
		return args[:dash], args[dash:]
	}
	return args, nil
}

// someIDs requires one id or more.
func someIDs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return badInput("the ID is missing; want %s", cmd.UseLine())
	}
	return nil
}

// oneID requires exactly one.
func oneID(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return badInput("one ID at a time, not %d; want %s", len(args), cmd.UseLine())
	}
	return someIDs(cmd, args)
}

// noArgs requires that there are none.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return badInput("%s takes no arguments, not %q", cmd.CommandPath(), args[0])
	}
	return nil
}
