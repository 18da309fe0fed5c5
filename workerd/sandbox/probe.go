package sandbox

import "strings"

// A Finding is one thing that a sandbox is made of, and whether this machine
// has it.
type Finding struct {
	Name string
	OK   bool
	Text string // what is there, or what is missing and what to do
}

// A Report is what a machine can do.
type Report struct {
	Sandbox Finding // one was started, and ended well
	Groups  Finding // cgroups: limits, and the evidence of a script that ran out of memory
	UIDs    Finding // a uid for each script
	Egress  Finding // rules for a network that reaches nothing private
}

// Findings are all of r, in the order in which they matter.
func (r Report) Findings() []Finding { return []Finding{r.Sandbox, r.Groups, r.UIDs, r.Egress} }

// short is the first line of what a program has said.
func short(text []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	return line
}
