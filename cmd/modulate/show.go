package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"modulate/internal/api"
)

// printJSON prints v as one line of JSON.
func (a *app) printJSON(v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("writing JSON: %w", err)
	}
	if isTerminal(a.stdout) && !a.raw {
		line = escapeControls(line)
	}
	return a.print(string(line) + "\n")
}

// escapeControls writes what a terminal would obey as JSON's own escapes. It
// can stand in strings only.
func escapeControls(line []byte) []byte {
	var safe []byte
	for _, r := range string(line) {
		if obeyed(r) {
			safe = fmt.Appendf(safe, "\\u%04x", r)
			continue
		}
		safe = utf8.AppendRune(safe, r)
	}
	return safe
}

// describe is a promise for a person: a line for each thing worth knowing.
func (a *app) describe(p api.Promise) string {
	var text strings.Builder
	rows := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(rows, "%s\t%s\n", name, sanitize(fmt.Sprintf(format, args...)))
	}
	row("id", "%s", p.ID)
	row("state", "%s%s", p.State, why(p))
	row("machine", "%s", p.Machine)
	row("mode", "%s", p.Mode)
	if p.Parent != "" {
		row("parent", "%s", p.Parent)
	}
	row("script", "%s (%s)", p.Call.Script.Name, p.Call.Runtime)
	if len(p.Call.Args) > 0 {
		row("args", "%q", p.Call.Args)
	}
	for name, value := range p.Tags {
		row("tag", "%s=%s", name, value)
	}
	row("created", "%s", stamp(p.CreatedAt))
	if p.SettledAt != nil {
		row("settled", "%s, after %s", stamp(*p.SettledAt), span(p.SettledAt.Sub(p.CreatedAt)))
	} else {
		row("deadline", "%s", stamp(p.DeadlineAt))
	}
	for _, at := range p.Attempts {
		row(fmt.Sprintf("attempt %d", at.Number), "%s", attemptText(at))
	}
	if p.Outcome != nil {
		describeOutcome(row, p.Outcome)
	}
	rows.Flush() // into memory
	return text.String()
}

// describeOutcome adds what came of a call.
func describeOutcome(row func(name, format string, args ...any), out *api.Outcome) {
	if out.Error != nil {
		row("error", "%s: %s", out.Error.Title, out.Error.Detail)
	}
	if len(out.Result) > 0 {
		row("result", "%s", out.Result)
	}
	for _, stream := range []struct {
		name string
		api.Stream
	}{{"stdout", out.Stdout}, {"stderr", out.Stderr}} {
		cut := ""
		if stream.Truncated {
			cut = ", its middle cut"
		}
		row(stream.name, "%s%s", bytesText(stream.Size), cut)
	}
	for _, art := range out.Artifacts {
		row("artifact", "%s (%s)", art.Name, bytesText(art.Size))
	}
	if u := out.Usage; u.WallMS > 0 {
		row("used", "%s, %s of CPU, %s of memory", milliseconds(u.WallMS), milliseconds(u.CPUMS), bytesText(u.MaxRSSBytes))
	}
}

// why says how a promise ended, where its state does not.
func why(p api.Promise) string {
	if !terminal(p) || p.Outcome == nil {
		return ""
	}
	if _, text, _ := exitOf(p); text != "" {
		return ": " + text
	}
	return ""
}

func attemptText(at api.Attempt) string {
	text := "on " + at.Worker + " from " + stamp(at.StartedAt)
	if at.EndedAt == nil {
		return text + ", running"
	}
	return fmt.Sprintf("%s, %s after %s", text, at.Cause, span(at.EndedAt.Sub(at.StartedAt)))
}

// stamp shows a time to the second, in UTC.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") }

// span shows a duration without more digits than a person reads.
func span(d time.Duration) string {
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	default:
		return d.Round(time.Second).String()
	}
}

// table prints rows: aligned and headed on a terminal, elsewhere separated by
// tabs and nothing else. No cell holds a tab or a newline.
func (a *app) table(head []string, rows [][]string) error {
	var text strings.Builder
	if !isTerminal(a.stdout) {
		for _, r := range rows {
			text.WriteString(strings.Join(cells(r), "\t") + "\n")
		}
		return a.print(text.String())
	}
	aligned := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(aligned, strings.Join(head, "\t"))
	for _, r := range rows {
		fmt.Fprintln(aligned, strings.Join(cells(r), "\t"))
	}
	aligned.Flush() // into memory
	return a.print(text.String())
}

func cells(row []string) []string {
	clean := make([]string, len(row))
	for i, c := range row {
		clean[i] = sanitize(c)
	}
	return clean
}
