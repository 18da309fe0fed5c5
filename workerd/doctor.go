package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"modulate/workerd/host"
)

// doctorCommand tells what this machine can do, beside what its machine.toml
// asks for.
func doctorCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "doctor", Short: "Print what this machine has for scripts", Args: cobra.NoArgs,
		Long: `Try what scripts are contained by and run with on this machine, and print a line for each:
"ok" what works, "no" what does not and what to do about it. Exit code 1 when
machine.toml asks for something that is not there: workerd does not start then.
Nothing is left behind but the parents of the scripts' cgroups.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := host.Read(file)
			if err != nil {
				return fmt.Errorf("%w: %w", errInput, err)
			}
			found, err := host.Examine(m)
			for _, f := range append(found, host.Equipment(cmd.Context(), m)...) {
				word := "ok"
				if !f.OK {
					word = "no"
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%-2s %-8s %s\n", word, f.Name, f.Text)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "`FILE` that describes this machine: machine.toml")
	return cmd
}
