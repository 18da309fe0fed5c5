package promise

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write testdata/*.txt anew")

// TestTraces replays testdata/*.txt. A file is prose after '#', and blocks:
// commands, "----", and what the last of them does to the one record there is.
// Run it with -update after changing Step, and read the diff.
//
//	new                           forget the record; the clock is at +0s
//	at +10s | at due | at start   set the clock; due: when the record is due; start: when it may be claimed
//	create [deadline=24h] [lease=30s] [retry=exponential,MAX,DELAY,MAXDELAY]
//	claim WORKER CLAIM            acquire VERSION WORKER CLAIM [LEASE]
//	extend VERSION CLAIM          release VERSION CLAIM [CAUSE]
//	fulfil VERSION CLAIM SETTLE CAUSE[=N|=WHY]  late, likewise: a late settle
//	settle STATE SETTLE           cancel SETTLE
//	tick [hold], view, cascaded   parent VERSION CLAIM: may a child be attached?
//	show                          the whole record
//
// and those of the protocol:
//
//	open [target] [timer] [exact] [deadline=24h] [delay=+10s] [worker=W,TTL]    create by the protocol's door
//	schedule CRON_WITH_UNDERSCORES    fired AT    reschedule CRON
//	take WORKER TTL               acquire whatever the version is
//	heartbeat VERSION WORKER      complete VERSION STATE VALUE
//	suspend VERSION ID...         ready VERSION: one of them is settled
//	fence VERSION, halt, continue, await ID, resume ID, listen ADDRESS
//
// CLAIM and SETTLE name nonces; '-' is none.
func TestTraces(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no traces: %v", err)
	}
	seen := map[error]bool{nil: true}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			tr := &trace{t: t, seen: seen}
			tr.do([]string{"new"})
			got := tr.replay(string(want))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if !bytes.Equal(want, []byte(got)) {
				t.Errorf("%s is another now (go test -update writes it): %s", file, firstDifference(string(want), got))
			}
		})
	}
	for _, sentinel := range []error{ErrExists, ErrNotFound, ErrSettled, ErrVersion, ErrLeased, ErrNotYet, ErrState, ErrParent, ErrReady} {
		if !seen[sentinel] {
			t.Errorf("no trace shows %q", sentinel)
		}
	}
}

func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range min(len(w), len(g)) {
		if w[i] != g[i] {
			return fmt.Sprintf("line %d\nwant %s\ngot  %s", i+1, w[i], g[i])
		}
	}
	return fmt.Sprintf("%d lines, want %d", len(g), len(w))
}

// epoch is what the traces call +0s.
const epoch Time = 1_700_000_000_000

// trace is the state of one replay.
type trace struct {
	t    *testing.T
	rec  Record
	now  Time
	seen map[error]bool
}

// replay returns text with the output of every block as it is now.
func (tr *trace) replay(text string) string {
	var out strings.Builder
	for block := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n\n") {
		commands, _, _ := strings.Cut(block, "\n----\n")
		result := ""
		for line := range strings.SplitSeq(commands, "\n") {
			if strings.HasPrefix(line, "#") {
				continue
			}
			if strings.Contains(result, "error: ") {
				tr.t.Errorf("%q follows what went wrong", line)
			}
			result = tr.do(strings.Fields(line))
		}
		out.WriteString(commands + "\n")
		if result != "" {
			out.WriteString("----\n" + result)
		}
		out.WriteString("\n")
	}
	return strings.TrimRight(out.String(), "\n") + "\n"
}

func (tr *trace) do(cmd []string) string {
	switch cmd[0] {
	case "new":
		tr.rec, tr.now = Record{}, epoch
		return ""
	case "at":
		if cmd[1] == "due" {
			tr.now = Due(tr.rec)
			return clockOf(tr.now) + "\n"
		}
		if cmd[1] == "start" {
			tr.now = tr.rec.NotBefore
			return clockOf(tr.now) + "\n"
		}
		tr.now = epoch.Add(tr.duration(strings.TrimPrefix(cmd[1], "+")))
		return ""
	case "show":
		return diff(Record{}, tr.rec)
	case "parent":
		err := CheckParent(tr.rec, tr.version(cmd[1]), nonce(cmd[2]), tr.now)
		if err == nil {
			return "yes\n"
		}
		return tr.verdict(err)
	}
	next, effects, err := Step(tr.rec, tr.event(cmd), tr.now)
	out := diff(tr.rec, next)
	for _, eff := range effects {
		out += effect(eff)
	}
	out += tr.verdict(err)
	tr.rec = next
	return out
}

func (tr *trace) verdict(err error) string {
	for sentinel := range map[error]bool{ErrExists: true, ErrNotFound: true, ErrSettled: true, ErrVersion: true, ErrLeased: true, ErrNotYet: true, ErrState: true, ErrParent: true, ErrReady: true} {
		if errors.Is(err, sentinel) {
			tr.seen[sentinel] = true
		}
	}
	if err == nil {
		return ""
	}
	return fmt.Sprintf("error: %s\n", err)
}

func (tr *trace) event(cmd []string) Event {
	arg := append(cmd[1:], "", "", "", "")
	switch cmd[0] {
	case "create":
		return tr.create(cmd[1:])
	case "open":
		return tr.open(cmd[1:])
	case "schedule":
		return Create{Record: Record{ID: "s", Owner: "local", DeadlineAt: 1 << 62, Protocol: &Protocol{Schedule: tr.schedule(arg[0])}}}
	case "reschedule":
		return Reschedule{Schedule: *tr.schedule(arg[0])}
	case "fired":
		return Fired{At: epoch.Add(tr.duration(strings.TrimPrefix(arg[0], "+")))}
	case "take":
		return Acquire{Latest: true, Worker: arg[0], Lease: tr.duration(arg[1])}
	case "heartbeat":
		return Heartbeat{Version: tr.version(arg[0]), Worker: arg[1]}
	case "complete":
		return Complete{Version: tr.version(arg[0]), State: tr.state(arg[1]), Value: Value{Data: arg[2]}}
	case "suspend":
		return Suspend{Version: tr.version(arg[0]), Awaits: cmd[2:]}
	case "ready":
		return Suspend{Version: tr.version(arg[0]), Ready: true}
	case "fence":
		return Fence{Version: tr.version(arg[0])}
	case "halt":
		return Halt{}
	case "continue":
		return Continue{}
	case "await":
		return Await{Awaiter: arg[0]}
	case "resume":
		return Resume{Awaited: arg[0]}
	case "listen":
		return Listen{Address: arg[0]}
	case "claim":
		return Claim{Worker: arg[0], ClaimID: nonce(arg[1])}
	case "acquire":
		return Acquire{Version: tr.version(arg[0]), Worker: arg[1], ClaimID: nonce(arg[2]), Lease: tr.duration(arg[3])}
	case "extend":
		return Extend{Version: tr.version(arg[0]), ClaimID: nonce(arg[1])}
	case "release":
		return Release{Version: tr.version(arg[0]), ClaimID: nonce(arg[1]), Cause: Cause(arg[2])}
	case "fulfil":
		return tr.fulfil(arg)
	case "late":
		return LateSettle(tr.fulfil(arg))
	case "settle":
		return Settle{State: tr.state(arg[0]), SettleID: nonce(arg[1]), Outcome: Outcome{Cause: CauseOK}}
	case "cancel":
		return Cancel{SettleID: nonce(arg[0])}
	case "tick":
		return Tick{Hold: arg[0] == "hold"}
	case "view":
		return View{}
	case "cascaded":
		return CascadeDone{}
	}
	tr.t.Fatalf("%v: no such command", cmd)
	return nil
}

func (tr *trace) state(name string) State {
	state, ok := ParseState(name)
	if !ok {
		tr.t.Fatalf("%s: no such state", name)
	}
	return state
}

func (tr *trace) schedule(cron string) *Schedule {
	return &Schedule{ID: "s", Cron: strings.ReplaceAll(cron, "_", " "), PromiseID: "{{.id}}.{{.timestamp}}", Timeout: 1000}
}

func (tr *trace) open(args []string) Create {
	p := &Protocol{Tags: map[string]string{}}
	c := Create{Record: Record{ID: "p", Owner: "local", Machine: "sdk:gpu", DeadlineAt: tr.now.Add(24 * time.Hour), Protocol: p}}
	for _, arg := range args {
		switch key, value, _ := strings.Cut(arg, "="); key {
		case "target":
			p.Tags[TagTarget] = "poll://any@gpu"
		case "timer":
			p.Tags[TagTimer] = "true"
		case "exact":
			p.Exact = true
		case "deadline":
			c.Record.DeadlineAt = tr.now.Add(tr.duration(value))
		case "delay":
			p.Tags[TagDelay] = strconv.FormatInt(int64(epoch.Add(tr.duration(strings.TrimPrefix(value, "+")))), 10)
		case "worker":
			worker, ttl, _ := strings.Cut(value, ",")
			c.Worker, c.Lease = worker, tr.duration(ttl)
		default:
			tr.t.Fatalf("%s: no such part of an open", arg)
		}
	}
	return c
}

func (tr *trace) fulfil(arg []string) Fulfil {
	cause, number, _ := strings.Cut(arg[3], "=")
	out := Outcome{Cause: Cause(cause)}
	n, _ := strconv.Atoi(number)
	switch {
	case out.Cause == CauseSignal:
		out.Signal = n
	case out.Cause.blame() == theHost:
		out.Error.Detail = number
	default:
		out.ExitCode = n
	}
	return Fulfil{Version: tr.version(arg[0]), ClaimID: nonce(arg[1]), SettleID: nonce(arg[2]), Outcome: out}
}

func (tr *trace) create(args []string) Create {
	rec := Record{
		ID: "p", Owner: "local", Machine: "cpu", DeadlineAt: tr.now.Add(24 * time.Hour),
		Call: Call{Name: "foo.py", Timeout: 2 * time.Minute, Lease: 30 * time.Second},
	}
	for _, arg := range args {
		key, value, _ := strings.Cut(arg, "=")
		switch key {
		case "deadline":
			rec.DeadlineAt = tr.now.Add(tr.duration(value))
		case "lease":
			rec.Call.Lease = tr.duration(value)
		case "retry":
			f := append(strings.Split(value, ","), "0", "0", "0")
			policy, ok := ParsePolicy(f[0])
			if !ok {
				tr.t.Fatalf("%s: no such policy", arg)
			}
			rec.Call.Retry = Retry{Policy: policy, MaxAttempts: uint32(tr.version(f[1])), Delay: tr.duration(f[2]), MaxDelay: tr.duration(f[3])}
		default:
			tr.t.Fatalf("%s: no such part of a create", arg)
		}
	}
	return Create{Record: rec}
}

func (tr *trace) duration(s string) time.Duration {
	if s == "" || s == "0" {
		return 0
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		tr.t.Fatal(err)
	}
	return d
}

func (tr *trace) version(s string) uint64 {
	v, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		tr.t.Fatal(err)
	}
	return v
}

func nonce(name string) (n Nonce) {
	if name != "-" {
		copy(n[:], name)
	}
	return n
}
