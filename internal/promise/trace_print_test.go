package promise

import (
	"fmt"
	"strings"
)

// diff lists what b has otherwise than a, one field or attempt a line.
func diff(a, b Record) string {
	was, is := fields(a), fields(b)
	out := ""
	for i, f := range is {
		out += change(f[0], was[i][1], f[1])
	}
	for n := range max(a.Attempt, b.Attempt) {
		out += change(fmt.Sprintf("#%d", n+1), attempt(a.Attempts, n+1), attempt(b.Attempts, n+1))
	}
	if out == "" {
		return "unchanged\n"
	}
	return out
}

func change(name, was, is string) string {
	switch {
	case was == is:
		return ""
	case was == "-":
		return fmt.Sprintf("%-9s %s\n", name, is)
	default:
		return fmt.Sprintf("%-9s %s -> %s\n", name, was, is)
	}
}

// fields is a record in words, but for its attempts: names and values, "-" for
// what is zero.
func fields(r Record) [][2]string {
	task := "-"
	if r.Task.State != TaskNone {
		task = fmt.Sprintf("%s v%d %s", r.Task.State, r.Task.Version, r.Task.Worker)
	}
	state := "-"
	if r.ID != "" {
		state = r.State.String()
	}
	var p Protocol
	if r.Protocol != nil {
		p = *r.Protocol
	}
	runs := "-"
	if p.Schedule != nil {
		runs = fmt.Sprintf("%q, last %s, next %s", p.Schedule.Cron, clockOf(p.Schedule.LastAt), clockOf(p.Schedule.NextAt))
	}
	return [][2]string{
		{"rev", count(r.Rev)},
		{"state", state},
		{"task", strings.TrimSpace(task)},
		{"claim", nameOf(r.Task.ClaimID)},
		{"lease_end", clockOf(r.Task.LeaseEnd)},
		{"attempts", count(uint64(r.Attempt))},
		{"retries", count(uint64(r.Retries))},
		{"crashes", count(uint64(r.Crashes))},
		{"drains", count(uint64(r.Drains))},
		{"outcome", outcome(r.Outcome)},
		{"created", clockOf(r.CreatedAt)},
		{"deadline", clockOf(r.DeadlineAt)},
		{"settled", clockOf(r.SettledAt)},
		{"settle_id", nameOf(r.SettleID)},
		{"cascade", map[bool]string{false: "-", true: "to do"}[r.Cascade]},
		{"start", clockOf(r.NotBefore)},
		{"resend", clockOf(r.ResendAt)},
		{"resends", count(uint64(r.Sends))},
		{"value", word(p.Value.Data)},
		{"callbacks", word(strings.Join(p.Callbacks, " "))},
		{"listeners", word(strings.Join(p.Listeners, " "))},
		{"resumes", word(strings.Join(p.Resumes, " "))},
		{"runs", runs},
		{"due", clockOf(Due(r))},
		{"index", clockOf(r.DueAt)},
	}
}

func word(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func count(n uint64) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

func clockOf(t Time) string {
	if t == 0 {
		return "-"
	}
	return "+" + t.Sub(epoch).String()
}

func nameOf(n Nonce) string {
	if n == (Nonce{}) {
		return "-"
	}
	return strings.TrimRight(string(n[:]), "\x00")
}

// attempt is the attempt of that number in words.
func attempt(all []Attempt, number uint32) string {
	for _, a := range all {
		if a.Number != number {
			continue
		}
		out := fmt.Sprintf("v%d %s %s..", a.Version, a.Worker, clockOf(a.StartedAt))
		if a.EndedAt != 0 {
			out += fmt.Sprintf("%s %s", clockOf(a.EndedAt), a.Cause)
		}
		return out
	}
	return "-"
}

func outcome(o Outcome) string {
	out := string(o.Cause)
	switch o.Cause {
	case "":
		out = "-"
	case CauseExit:
		out += fmt.Sprintf(" %d", o.ExitCode)
	case CauseSignal:
		out += fmt.Sprintf(" %d", o.Signal)
	}
	if o.Version != 0 {
		out += fmt.Sprintf(" of v%d", o.Version)
	}
	if o.Error.Detail != "" {
		out += ": " + o.Error.Detail
	}
	return out
}

func effect(eff Effect) string {
	switch eff := eff.(type) {
	case Send:
		if eff.Delay > 0 {
			return fmt.Sprintf("effect: send %s v%d to %s in %s\n", eff.ID, eff.Version, eff.Machine, eff.Delay)
		}
		return fmt.Sprintf("effect: send %s v%d to %s\n", eff.ID, eff.Version, eff.Machine)
	case CancelDescendants:
		return fmt.Sprintf("effect: cancel the descendants of %s\n", eff.ID)
	case ResumeAwaiter:
		return fmt.Sprintf("effect: in the same write resume %s, which awaits %s\n", eff.Awaiter, eff.Awaited)
	case Notify:
		return fmt.Sprintf("effect: tell %s that %s is settled\n", eff.Address, eff.ID)
	case Fire:
		return fmt.Sprintf("effect: create the promise of the run of %s at %s\n", eff.ID, clockOf(eff.At))
	case Archive:
		return fmt.Sprintf("effect: archive #%d %s\n", eff.Attempt.Number, attempt([]Attempt{eff.Attempt}, eff.Attempt.Number))
	}
	return fmt.Sprintf("effect: %T?\n", eff)
}
