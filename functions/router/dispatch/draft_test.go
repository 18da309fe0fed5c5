package dispatch

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"modulate/internal/api"
	"modulate/internal/promise"
	"modulate/internal/store"
)

// variables makes n variables, args n arguments.
func variables(n int) map[string]string {
	env := make(map[string]string)
	for i := range n {
		env[fmt.Sprintf("V%d", i)] = ""
	}
	return env
}

func files(n int) []api.File {
	list := make([]api.File, n)
	for i := range list {
		list[i] = api.File{Name: fmt.Sprint("f", i), SHA256: strings.Repeat("ab", 32)}
	}
	return list
}

func labels(n int) map[string]string {
	m := make(map[string]string)
	for i := range n {
		m[fmt.Sprint("t", i)] = "v"
	}
	return m
}

// Everything that can fail without a worker is refused at once: what, where,
// what instead; and nothing is stored.
func TestSubmitRefuses(t *testing.T) {
	x := func(n int) string { return strings.Repeat("x", n) }
	tests := []struct {
		name   string
		change func(*api.Submit)
		is     error
		where  string
		says   string
	}{
		{"no machine", func(s *api.Submit) { s.Machine = "" }, api.ErrInvalid, "machine", "no machine is named"},
		{"bad machine", func(s *api.Submit) { s.Machine = "GPU" }, api.ErrInvalid, "machine", "want a lower-case letter"},
		{"unknown machine", func(s *api.Submit) { s.Machine = "tpu" }, api.ErrInvalid, "machine", `"tpu" is not known; known are: cpu, gpu, seen`},
		{"bad id", func(s *api.Submit) { s.ID = "a b" }, api.ErrInvalid, "id", `"a b": want letters`},
		{"dotted id", func(s *api.Submit) { s.ID = "a.b" }, api.ErrInvalid, "id", "want letters"},
		{"long id", func(s *api.Submit) { s.ID = x(129) }, api.ErrInvalid, "id", "at most 128 bytes"},
		{"bad mode", func(s *api.Submit) { s.Mode = "RPC" }, api.ErrInvalid, "mode", "want rpc, rfi or detached"},
		{"rfi without parent", func(s *api.Submit) { s.Mode = "rfi" }, api.ErrInvalid, "parent", "name its parent, or use mode detached"},
		{"detached with parent", func(s *api.Submit) { s.Mode, s.Parent = "detached", "p" }, api.ErrInvalid, "parent", "a detached promise has no parent"},
		{"bad parent", func(s *api.Submit) { s.Parent = "p..q" }, api.ErrInvalid, "parent", "is not an id"},
		{"child's id elsewhere", func(s *api.Submit) { s.Parent, s.ID = "p", "q.1" }, api.ErrInvalid, "id", "is called p.NAME"},
		{"grandchild's id", func(s *api.Submit) { s.Parent, s.ID = "p", "p.1.2" }, api.ErrInvalid, "id", "is called p.NAME"},
		{"long child's id", func(s *api.Submit) { s.Parent, s.ID = "p", "p."+x(899) }, api.ErrInvalid, "id", "at most 900 bytes"},

		{"no script", func(s *api.Submit) { s.Script.Source = nil }, api.ErrInvalid, "script", "give its source, or the sha256"},
		{"two scripts", func(s *api.Submit) { s.Script.SHA256 = x(64) }, api.ErrInvalid, "script", "give one"},
		{"empty script", func(s *api.Submit) { s.Script.Source = ptr("") }, api.ErrInvalid, "script.source", "the script is empty"},
		{"large source", func(s *api.Submit) { s.Script.Source = ptr(x(api.MaxSource + 1)) }, api.ErrTooLarge, "script.source", "262145 bytes: at most 262144"},
		{"bad hash", func(s *api.Submit) { s.Script = api.Script{Name: "a", SHA256: "ab"} }, api.ErrInvalid, "script.sha256", "want 64 hexadecimal digits"},
		{"unknown script", func(s *api.Submit) { s.Script = api.Script{Name: "a", SHA256: strings.Repeat("ab", 32)} }, api.ErrInvalid, "script.sha256", "upload it first"},
		{"no name", func(s *api.Submit) { s.Script.Name = "" }, api.ErrInvalid, "script.name", "1 to 255 bytes"},
		{"a path", func(s *api.Submit) { s.Script.Name = "../a.py" }, api.ErrInvalid, "script.name", "without directories"},
		{"a dot", func(s *api.Submit) { s.Script.Name = "." }, api.ErrInvalid, "script.name", "want the name of a file"},
		{"two dots", func(s *api.Submit) { s.Script.Name = ".." }, api.ErrInvalid, "script.name", "want the name of a file"},
		{"NUL in name", func(s *api.Submit) { s.Script.Name = "a\x00b" }, api.ErrInvalid, "script.name", "control characters"},
		{"newline in name", func(s *api.Submit) { s.Script.Name = "a\nb" }, api.ErrInvalid, "script.name", "control characters"},
		{"long name", func(s *api.Submit) { s.Script.Name = x(256) }, api.ErrInvalid, "script.name", "1 to 255 bytes"},
		{"unknown runtime", func(s *api.Submit) { s.Runtime = "ruby" }, api.ErrInvalid, "runtime", "known are: python, python-env, uv, bash, node, binary"},

		{"large args", func(s *api.Submit) { s.Args = []string{x(api.MaxInput), "x"} }, api.ErrTooLarge, "args", "65537 bytes together: at most 65536"},
		{"large env", func(s *api.Submit) { s.Env = map[string]string{"A": x(api.MaxInput)} }, api.ErrTooLarge, "args", "65537 bytes together"},
		{"large args and env", func(s *api.Submit) {
			s.Args, s.Env = []string{x(api.MaxInput / 2)}, map[string]string{"A": x(api.MaxInput / 2)}
		}, api.ErrTooLarge, "args", "65537 bytes together"},
		{"many args", func(s *api.Submit) { s.Args = make([]string, 4097) }, api.ErrInvalid, "args", "4097 arguments: at most 4096"},
		{"many variables", func(s *api.Submit) { s.Env = variables(1025) }, api.ErrInvalid, "env", "1025 variables: at most 1024"},
		{"NUL in an argument", func(s *api.Submit) { s.Args = []string{"a", "b\x00"} }, api.ErrInvalid, "args.1", "argument 2 holds a NUL byte"},
		{"NUL in a variable", func(s *api.Submit) { s.Env = map[string]string{"A": "\x00"} }, api.ErrInvalid, "env.A", "NUL byte"},

		{"unknown stdin", func(s *api.Submit) { s.Stdin = strings.Repeat("ab", 32) }, api.ErrInvalid, "stdin", "upload it first"},
		{"bad stdin", func(s *api.Submit) { s.Stdin = "x" }, api.ErrInvalid, "stdin", "want 64 hexadecimal digits"},
		{"unknown file", func(s *api.Submit) { s.Files = files(1) }, api.ErrInvalid, "files.0.sha256", "upload it first"},
		{"bad file hash", func(s *api.Submit) { s.Files = []api.File{{Name: "f", SHA256: "x"}} }, api.ErrInvalid, "files.0.sha256", "want 64 hexadecimal digits"},
		{"bad file name", func(s *api.Submit) { s.Files = []api.File{{Name: "a/b"}} }, api.ErrInvalid, "files.0.name", "without directories"},
		{"file called as the script", func(s *api.Submit) { s.Files = []api.File{{Name: "a.py"}} }, api.ErrInvalid, "files.0.name", "names must differ"},
		{"two files of one name", func(s *api.Submit) {
			s.Files = files(2)
			s.Files[1].Name = s.Files[0].Name
		}, api.ErrInvalid, "files.1.name", "names must differ"},
		{"many files", func(s *api.Submit) { s.Files = files(257) }, api.ErrInvalid, "files", "257 files: at most 256"},

		{"zero timeout", func(s *api.Submit) { s.TimeoutMS = ptr[int64](0) }, api.ErrInvalid, "timeout_ms", "timeout_ms 0: want 1000 to 604800000 (1s to 168h0m0s)"},
		{"negative timeout", func(s *api.Submit) { s.TimeoutMS = ptr[int64](-5) }, api.ErrInvalid, "timeout_ms", "timeout_ms -5"},
		{"short timeout", func(s *api.Submit) { s.TimeoutMS = ptr[int64](999) }, api.ErrInvalid, "timeout_ms", "want 1000"},
		{"long timeout", func(s *api.Submit) { s.TimeoutMS = ptr(api.MaxTimeout.Milliseconds() + 1) }, api.ErrInvalid, "timeout_ms", "604800001"},
		{"absurd timeout", func(s *api.Submit) { s.TimeoutMS = ptr[int64](1<<63 - 1) }, api.ErrInvalid, "timeout_ms", "9223372036854775807"},
		{"zero deadline", func(s *api.Submit) { s.DeadlineMS = ptr[int64](0) }, api.ErrInvalid, "deadline_ms", "deadline_ms 0"},
		{"negative deadline", func(s *api.Submit) { s.DeadlineMS = ptr[int64](-1) }, api.ErrInvalid, "deadline_ms", "deadline_ms -1"},
		{"short deadline", func(s *api.Submit) { s.DeadlineMS = ptr[int64](999) }, api.ErrInvalid, "deadline_ms", "want 1000"},
		{"long deadline", func(s *api.Submit) { s.DeadlineMS = ptr(api.MaxDeadline.Milliseconds() + 1) }, api.ErrInvalid, "deadline_ms", "want 1000 to 2592000000"},
		{"short lease", func(s *api.Submit) { s.LeaseMS = ptr[int64](999) }, api.ErrInvalid, "lease_ms", "want 1000 to 900000"},
		{"long lease", func(s *api.Submit) { s.LeaseMS = ptr[int64](900001) }, api.ErrInvalid, "lease_ms", "900001"},

		{"no policy", func(s *api.Submit) { s.Retry = &api.Retry{} }, api.ErrInvalid, "retry.policy", "want never, constant, linear or exponential"},
		{"never, but thrice", func(s *api.Submit) { s.Retry = &api.Retry{Policy: "never", MaxAttempts: 3} }, api.ErrInvalid, "retry.policy", "makes one attempt"},
		{"many attempts", func(s *api.Submit) { s.Retry = &api.Retry{Policy: "linear", MaxAttempts: 101} }, api.ErrInvalid, "retry.max_attempts", "101: at most 100"},
		{"negative delay", func(s *api.Submit) { s.Retry = &api.Retry{Policy: "linear", DelayMS: -1} }, api.ErrInvalid, "retry.delay_ms", "-1"},
		{"negative longest delay", func(s *api.Submit) { s.Retry = &api.Retry{Policy: "linear", MaxDelayMS: -1} }, api.ErrInvalid, "retry.max_delay_ms", "-1"},
		{"delays crossed", func(s *api.Submit) { s.Retry = &api.Retry{Policy: "linear", DelayMS: 2000, MaxDelayMS: 1999} }, api.ErrInvalid, "retry.max_delay_ms", "1999 is below delay_ms 2000"},

		{"many tags", func(s *api.Submit) { s.Tags = labels(21) }, api.ErrInvalid, "tags", "21 tags: at most 20"},
		{"nameless tag", func(s *api.Submit) { s.Tags = map[string]string{"": "x"} }, api.ErrInvalid, "tags", "has no name"},
		{"long tag", func(s *api.Submit) { s.Tags = map[string]string{x(129): ""} }, api.ErrInvalid, "tags." + x(129), "129 bytes, its value 0: at most 128 each"},
		{"long tag value", func(s *api.Submit) { s.Tags = map[string]string{"t": x(129)} }, api.ErrInvalid, "tags.t", "its value 129"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			announce(t, w, "seen")
			refused(t, w.submit(call(tt.change)), tt.is, tt.where, tt.says)
			if w.records() != 0 || w.blobKeys() != 0 || w.messages() != 0 {
				t.Errorf("stored: %d records, %d blobs, %d messages", w.records(), w.blobKeys(), w.messages())
			}
		})
	}
}

func announce(t *testing.T, w *world, machine string) {
	t.Helper()
	err := w.store.Announce(t.Context(), store.Presence{Worker: "w-" + machine, Machine: machine, Slots: 1, Seen: w.engine.Time()})
	if err != nil {
		t.Fatal(err)
	}
}

func TestSubmitEnvNames(t *testing.T) {
	w := newWorld(t)
	for name, ok := range map[string]bool{
		"A": true, "_": true, "A1_B": true, "HOME": true, "LANG": true, "CUDA_VISIBLE_DEVICES": true, "MY_PATH": true, "PATHS": true, "AWS": true,
		strings.Repeat("A", 64): true, strings.Repeat("A", 65): false,
		"": false, "a": false, "1A": false, "A-B": false, "A B": false, "A=B": false, "Ä": false,
		"PATH": false, "LD_PRELOAD": false, "LD_": false, "PYTHONPATH": false, "PYTHON": false,
		"AWS_SECRET_ACCESS_KEY": false, "MODULATE_ID": false, "MODULATE_": false,
	} {
		a := w.submit(call(func(s *api.Submit) { s.Env = map[string]string{name: "x"} }))
		if got := a.status == 201; got != ok {
			t.Errorf("%q: got %d %s", name, a.status, a.body)
		}
		if !ok && (!strings.HasPrefix(a.problem.Where, "env") || a.problem.Detail == "") {
			t.Errorf("%q: got %+v", name, a.problem)
		}
	}
}

// The other side of every limit.
func TestSubmitAccepts(t *testing.T) {
	x := func(n int) string { return strings.Repeat("x", n) }
	for name, change := range map[string]func(*api.Submit){
		"the least":         nil,
		"gpu":               func(s *api.Submit) { s.Machine = "gpu" },
		"a machine seen":    func(s *api.Submit) { s.Machine = "seen" },
		"longest id":        func(s *api.Submit) { s.ID = x(128) },
		"largest source":    func(s *api.Submit) { s.Script.Source = ptr(x(api.MaxSource)) },
		"smallest source":   func(s *api.Submit) { s.Script.Source = ptr("\n") },
		"longest name":      func(s *api.Submit) { s.Script.Name = x(255) },
		"name with spaces":  func(s *api.Submit) { s.Script.Name = "ä b.py" },
		"bash":              func(s *api.Submit) { s.Runtime = "bash" },
		"most args":         func(s *api.Submit) { s.Args = make([]string, 4096) },
		"most variables":    func(s *api.Submit) { s.Env = variables(1024) },
		"largest args":      func(s *api.Submit) { s.Args = []string{x(api.MaxInput)} },
		"largest env":       func(s *api.Submit) { s.Env = map[string]string{"A": x(api.MaxInput - 1)} },
		"shortest timeout":  func(s *api.Submit) { s.TimeoutMS = ptr[int64](1000) },
		"longest timeout":   func(s *api.Submit) { s.TimeoutMS = ptr(api.MaxTimeout.Milliseconds()) },
		"shortest deadline": func(s *api.Submit) { s.DeadlineMS = ptr[int64](1000) },
		"longest deadline":  func(s *api.Submit) { s.DeadlineMS = ptr(api.MaxDeadline.Milliseconds()) },
		"shortest lease":    func(s *api.Submit) { s.LeaseMS = ptr[int64](1000) },
		"longest lease":     func(s *api.Submit) { s.LeaseMS = ptr(api.MaxLease.Milliseconds()) },
		"never":             func(s *api.Submit) { s.Retry = &api.Retry{Policy: "never"} },
		"most attempts":     func(s *api.Submit) { s.Retry = &api.Retry{Policy: "constant", MaxAttempts: 100} },
		"most tags":         func(s *api.Submit) { s.Tags = labels(20) },
		"longest tag":       func(s *api.Submit) { s.Tags = map[string]string{x(128): x(128)} },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			announce(t, w, "seen")
			a := w.submit(call(change))
			if a.status != 201 || w.records() != 1 {
				t.Errorf("got %d %s, %d records", a.status, a.body, w.records())
			}
		})
	}
}

// What was left out is filled in, as the promise says.
func TestSubmitDefaults(t *testing.T) {
	day := int64(24 * time.Hour / time.Millisecond)
	tests := []struct {
		change                   func(*api.Submit)
		timeout, deadline, lease int64
		retry                    *api.Retry
	}{
		{nil, 120_000, day, 30_000, nil},
		{func(s *api.Submit) { s.TimeoutMS = ptr(day/2 + 1) }, day/2 + 1, day + 2, 30_000, nil},
		{func(s *api.Submit) { s.TimeoutMS = ptr(7 * day) }, 7 * day, 14 * day, 30_000, nil},
		{func(s *api.Submit) {
			s.TimeoutMS, s.DeadlineMS, s.LeaseMS = ptr(day), ptr[int64](1500), ptr[int64](2500)
		}, day, 1500, 2500, nil},
		{func(s *api.Submit) { s.Retry = &api.Retry{Policy: "never"} }, 120_000, day, 30_000, nil},
		{func(s *api.Submit) { s.Retry = &api.Retry{Policy: "exponential"} }, 120_000, day, 30_000, &api.Retry{Policy: "exponential", MaxAttempts: 3, DelayMS: 1000, MaxDelayMS: 60_000}},
		{func(s *api.Submit) { s.Retry = &api.Retry{Policy: "linear", DelayMS: 90_000} }, 120_000, day, 30_000, &api.Retry{Policy: "linear", MaxAttempts: 3, DelayMS: 90_000, MaxDelayMS: 90_000}},
		{func(s *api.Submit) {
			s.Retry = &api.Retry{Policy: "constant", MaxAttempts: 7, DelayMS: 5, MaxDelayMS: 6}
		}, 120_000, day, 30_000, &api.Retry{Policy: "constant", MaxAttempts: 7, DelayMS: 5, MaxDelayMS: 6}},
	}
	for i, tt := range tests {
		w := newWorld(t)
		a := w.must(call(tt.change))
		c := a.promise.Call
		if c.TimeoutMS != tt.timeout || c.DeadlineMS != tt.deadline || c.LeaseMS != tt.lease || c.Runtime != "python" {
			t.Errorf("%d: got %+v", i, c)
		}
		if (c.Retry == nil) != (tt.retry == nil) || c.Retry != nil && *c.Retry != *tt.retry {
			t.Errorf("%d: retry %+v", i, c.Retry)
		}
		p := a.promise
		if !promise.ValidID(p.ID) || p.ID != strings.ToLower(p.ID) || p.State != "pending" || p.Owner != "alice" || p.Mode != "detached" || p.Machine != "cpu" {
			t.Errorf("%d: got %+v", i, p)
		}
	}
}

// What makes a call another call, and what does not.
func TestCallHash(t *testing.T) {
	sum := strings.Repeat("ab", 32)
	hash := func(change func(*api.Submit)) promise.Hash {
		d, err := newDraft(call(change), api.Caller{Owner: "alice"}, false, leases{unasked: time.Minute, least: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		canonical := jsontext.Value(canonicalJSON(d))
		if err := canonical.Canonicalize(); err != nil || string(canonical) != string(canonicalJSON(d)) {
			t.Errorf("RFC 8785 has %s, not %s (%v)", canonical, canonicalJSON(d), err)
		}
		return d.rec.CallHash
	}
	base := hash(nil)
	for name, change := range map[string]func(*api.Submit){
		"id":              func(s *api.Submit) { s.ID = "other" },
		"mode":            func(s *api.Submit) { s.Mode = "rpc" },
		"parent":          func(s *api.Submit) { s.Parent = "p" },
		"tags":            func(s *api.Submit) { s.Tags = labels(1) },
		"script's name":   func(s *api.Submit) { s.Script.Name = "b.py" },
		"default runtime": func(s *api.Submit) { s.Runtime = "python" },
		"no arguments":    func(s *api.Submit) { s.Args, s.Env = []string{}, map[string]string{} },
	} {
		if hash(change) != base {
			t.Errorf("%s makes it another call", name)
		}
	}
	seen := map[promise.Hash]string{base: "nothing"}
	for name, change := range map[string]func(*api.Submit){
		"script":         func(s *api.Submit) { s.Script.Source = ptr("print(2)\n") },
		"machine":        func(s *api.Submit) { s.Machine = "gpu" },
		"runtime":        func(s *api.Submit) { s.Runtime = "bash" },
		"args":           func(s *api.Submit) { s.Args = []string{"a", "b"} },
		"args, order":    func(s *api.Submit) { s.Args = []string{"b", "a"} },
		"args, joined":   func(s *api.Submit) { s.Args = []string{"a b"} },
		"an empty arg":   func(s *api.Submit) { s.Args = []string{""} },
		"env":            func(s *api.Submit) { s.Env = map[string]string{"A": "<\u2028é>", "B": "2"} },
		"stdin":          func(s *api.Submit) { s.Stdin = sum },
		"files":          func(s *api.Submit) { s.Files = files(1) },
		"file's name":    func(s *api.Submit) { s.Files = []api.File{{Name: "g", SHA256: sum}} },
		"default limit":  func(s *api.Submit) { s.TimeoutMS = ptr[int64](120_000) },
		"deadline":       func(s *api.Submit) { s.DeadlineMS = ptr[int64](120_000) },
		"lease":          func(s *api.Submit) { s.LeaseMS = ptr[int64](60_000) },
		"retry":          func(s *api.Submit) { s.Retry = &api.Retry{Policy: "linear"} },
		"retry attempts": func(s *api.Submit) { s.Retry = &api.Retry{Policy: "linear", MaxAttempts: 3} },
	} {
		h := hash(change)
		if other, taken := seen[h]; taken {
			t.Errorf("%s is the same call as %s", name, other)
		}
		seen[h] = name
	}
}

// The script's source and its sha256 are one call.
func TestCallHashOfUpload(t *testing.T) {
	w := newWorld(t)
	w.must(named("x"))
	sum := w.upload("print(1)\n")
	a := w.submit(call(func(s *api.Submit) { s.ID, s.Script = "x", api.Script{Name: "a.py", SHA256: sum} }))
	if a.status != 200 {
		t.Errorf("got %d %s", a.status, a.body)
	}
	upper := call(func(s *api.Submit) {
		s.ID, s.Script = "x", api.Script{Name: "a.py", SHA256: strings.ToUpper(sum)}
	})
	if a := w.submit(upper); a.status != 200 || a.promise.Call.Script.SHA256 != sum {
		t.Errorf("in capitals: got %d %s", a.status, a.body)
	}
}

func TestSubmitWrongBody(t *testing.T) {
	w := newWorld(t)
	if a := w.send("POST", "/v1/promises", `{"machine":"cpu","colour":1}`); a.status != 400 {
		t.Errorf("an unknown field: %d %s", a.status, a.body)
	}
	a := w.send("POST", "/v1/promises", "{}", "Content-Type", "text/plain")
	refused(t, a, api.ErrMedia, "Content-Type", "send JSON")
	a = w.send("POST", "/v1/promises", strings.Repeat(" ", api.MaxBody+1))
	refused(t, a, api.ErrTooLarge, "body", "1048577 bytes: a JSON body has at most 1048576")
	a = w.send("POST", "/v1/promises", `{}`, "Prefer", "wait=soon")
	refused(t, a, api.ErrInvalid, "Prefer", "want whole seconds")
	for path, want := range map[string]error{"/v1/promises": api.ErrMethod, "/v1/machines": api.ErrMethod, "/v1/x": api.ErrRoute} {
		if a := w.send("PATCH", path, ""); !errors.Is(&api.Error{Problem: a.problem}, want) {
			t.Errorf("PATCH %s: %d %s", path, a.status, a.body)
		}
	}
}

// Where a deployment can look after no shorter one, a lease is refused that
// the others take.
func TestLeaseOfTheDeployment(t *testing.T) {
	w := newWorld(t)
	w.handler = New(Config{Engine: w.engine, Lease: 2 * time.Minute, MinLease: 90 * time.Second})
	if a := w.submit(call(nil)); a.status != 201 || a.promise.Call.LeaseMS != 120_000 {
		t.Errorf("got %d %s, want a lease of 2 min", a.status, a.body)
	}
	if a := w.submit(call(func(s *api.Submit) { s.LeaseMS = ptr[int64](90_000) })); a.status != 201 || a.promise.Call.LeaseMS != 90_000 {
		t.Errorf("got %d %s, want a lease of 90 s", a.status, a.body)
	}
	a := w.submit(call(func(s *api.Submit) { s.LeaseMS = ptr[int64](89_999) }))
	refused(t, a, api.ErrInvalid, "lease_ms", "lease_ms 89999: want 90000 to 900000 (1m30s to 15m0s)")
}
