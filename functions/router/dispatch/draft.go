package dispatch

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"modulate/internal/api"
	"modulate/internal/engine"
	"modulate/internal/promise"
)

// A draft is a submission on its way to a record: first what it says, checked
// without looking anywhere, then what is found of it.
type draft struct {
	sub    api.Submit
	caller api.Caller
	wait   bool // the submitter waits for the end
	leases leases

	rec      promise.Record // what is to be stored, but for id, deadline and input
	input    promise.Input
	attached string // the parent's id, or "" at the top of a call graph
	deadline time.Duration
}

// newDraft checks all of a submission that can be checked by itself.
func newDraft(sub api.Submit, caller api.Caller, wait bool, leases leases) (*draft, error) {
	d := &draft{sub: sub, caller: caller, wait: wait, leases: leases}
	d.rec = promise.Record{Owner: caller.Owner, Machine: sub.Machine}
	for _, check := range []func() error{d.place, d.id, d.script, d.runtime, d.arguments, d.environment, d.files, d.limits, d.retry, d.tags} {
		if err := check(); err != nil {
			return nil, err
		}
	}
	d.rec.CallHash = hashCall(d)
	return d, nil
}

// place finds the mode, and the parent to attach to.
func (d *draft) place() error {
	script := d.caller.Parent != nil // a script submits: its promise is the parent
	parent := d.sub.Parent
	switch {
	case parent != "" && !promise.ValidAnyID(parent):
		return api.Invalid("parent", "parent %q is not an id", parent)
	case script && parent != "" && parent != d.caller.Parent.ID:
		return api.Invalid("parent", "the script of %s cannot submit children of %s", d.caller.Parent.ID, parent)
	case script:
		parent = d.caller.Parent.ID
	}
	switch d.sub.Mode {
	case "":
		d.rec.Mode = impliedMode(parent != "", d.wait)
	case "rpc":
		d.rec.Mode = promise.RPC
	case "rfi":
		d.rec.Mode = promise.RFI
	case "detached":
		d.rec.Mode = promise.Detached
	default:
		return api.Invalid("mode", "mode %q: want rpc, rfi or detached", d.sub.Mode)
	}
	switch {
	case d.rec.Mode == promise.RFI && parent == "":
		return api.Invalid("parent", "an rfi is a child: name its parent, or use mode detached")
	case d.rec.Mode == promise.Detached && parent != "" && !script:
		return api.Invalid("parent", "a detached promise has no parent: leave it out, or use mode rfi")
	case d.rec.Mode == promise.Detached:
		parent = ""
	}
	d.attached, d.rec.Parent = parent, parent
	return nil
}

func impliedMode(child, wait bool) promise.Mode {
	switch {
	case wait:
		return promise.RPC
	case child:
		return promise.RFI
	default:
		return promise.Detached
	}
}

// id checks the id that was given. One that was not is made later.
func (d *draft) id() error {
	switch id := d.sub.ID; {
	case id == "":
		return nil
	case d.attached != "" && !promise.ValidChildID(d.attached, id):
		return api.Invalid("id", "id %q: a child of %s is called %s.NAME, NAME of letters, digits, _ and -, at most %d bytes in all", id, d.attached, d.attached, promise.MaxChildID)
	case d.attached == "" && !promise.ValidID(id):
		return api.Invalid("id", "id %q: want letters, digits, _ and -, a letter or digit first, at most %d bytes", id, promise.MaxID)
	}
	return nil
}

// setID fills in the id, made at now where none was given.
func (d *draft) setID(now promise.Time) {
	d.rec.ID = d.sub.ID
	if d.rec.ID == "" {
		d.rec.ID = api.NewID(now)
		if d.attached != "" {
			d.rec.ID = d.attached + "." + d.rec.ID
		}
	}
}

// parent is what the engine attaches the promise to; nil at the top.
func (d *draft) parent() *engine.Parent {
	if d.attached == "" {
		return nil
	}
	if d.caller.Parent != nil {
		return &d.caller.Claim
	}
	return &engine.Parent{ID: d.attached}
}

func (d *draft) script() error {
	s := d.sub.Script
	if err := fileName("script.name", s.Name); err != nil {
		return err
	}
	d.rec.Call.Name = s.Name
	switch {
	case s.Source != nil && s.SHA256 != "":
		return api.Invalid("script", "both source and sha256 are given: give one")
	case s.SHA256 != "":
		return d.hash("script.sha256", s.SHA256, &d.rec.Call.Script)
	case s.Source == nil:
		return api.Invalid("script", "no script is given: give its source, or the sha256 of an upload")
	case *s.Source == "":
		return api.Invalid("script.source", "the script is empty")
	case len(*s.Source) > api.MaxSource:
		return api.Fail(api.ErrTooLarge, "script.source", "the script is %d bytes: at most %d fit into the request; upload it and name its sha256", len(*s.Source), api.MaxSource)
	}
	d.rec.Call.Script = sha256.Sum256([]byte(*s.Source))
	return nil
}

// hash reads a sha256 into h.
func (d *draft) hash(where, s string, h *promise.Hash) error {
	sum, err := promise.ParseHash(s)
	if err != nil {
		return api.Invalid(where, "%v", err)
	}
	*h = sum
	return nil
}

// The runtimes that every worker knows, some perhaps as not configured.
const runtimes = "python, python-env, uv, bash, node, binary"

func (d *draft) runtime() error {
	switch d.sub.Runtime {
	case "":
		d.rec.Call.Runtime = "python"
	case "python", "python-env", "uv", "bash", "node", "binary":
		d.rec.Call.Runtime = d.sub.Runtime
	default:
		return api.Invalid("runtime", "runtime %q is not known; known are: %s", d.sub.Runtime, runtimes)
	}
	return nil
}

// Limits that the API does not print: how many arguments and variables there
// may be, whatever their size.
const (
	maxArgs = 4096
	maxEnv  = 1024
)

func (d *draft) arguments() error {
	if len(d.sub.Args) > maxArgs {
		return api.Invalid("args", "%d arguments: at most %d", len(d.sub.Args), maxArgs)
	}
	for i, arg := range d.sub.Args {
		if strings.Contains(arg, "\x00") {
			return api.Invalid(fmt.Sprintf("args.%d", i), "argument %d holds a NUL byte", i+1)
		}
	}
	d.input.Args = d.sub.Args
	return nil
}

func (d *draft) environment() error {
	if len(d.sub.Env) > maxEnv {
		return api.Invalid("env", "%d variables: at most %d", len(d.sub.Env), maxEnv)
	}
	size := 0
	for name, value := range d.sub.Env {
		if err := envName(name); err != nil {
			return err
		}
		if strings.Contains(value, "\x00") {
			return api.Invalid("env."+name, "the value of %s holds a NUL byte", name)
		}
		size += len(name) + len(value)
	}
	for _, arg := range d.sub.Args {
		size += len(arg)
	}
	if size > api.MaxInput {
		return api.Fail(api.ErrTooLarge, "args", "args and env are %d bytes together: at most %d; pass more by stdin or files", size, api.MaxInput)
	}
	d.input.Env = d.sub.Env
	return nil
}

// envName refuses names that no shell would take, and those by which a script
// would not be the one that was submitted.
func envName(name string) error {
	where := "env." + name
	if !validEnvName(name) {
		return api.Invalid("env", "variable %q: want A-Z, 0-9 and _, no digit first, at most 64", name)
	}
	for _, prefix := range []string{"LD_", "PYTHON", "AWS_", "MODULATE_"} {
		if strings.HasPrefix(name, prefix) {
			return api.Invalid(where, "variable %s: names that start with %s are not passed on; choose another name", name, prefix)
		}
	}
	if name == "PATH" {
		return api.Invalid(where, "variable PATH is the worker's; call programs by their full path")
	}
	return nil
}

func validEnvName(name string) bool {
	for i := range len(name) {
		c := name[i]
		if !(c >= 'A' && c <= 'Z' || c == '_' || i > 0 && c >= '0' && c <= '9') {
			return false
		}
	}
	return name != "" && len(name) <= 64
}

func (d *draft) files() error {
	if d.sub.Stdin != "" {
		if err := d.hash("stdin", d.sub.Stdin, &d.rec.Call.Stdin); err != nil {
			return err
		}
	}
	if len(d.sub.Files) > api.MaxFiles {
		return api.Invalid("files", "%d files: at most %d", len(d.sub.Files), api.MaxFiles)
	}
	taken := map[string]bool{d.sub.Script.Name: true}
	for i, f := range d.sub.Files {
		where := fmt.Sprintf("files.%d", i)
		if err := fileName(where+".name", f.Name); err != nil {
			return err
		}
		if taken[f.Name] {
			return api.Invalid(where+".name", "two files are called %q, or the script is: names must differ", f.Name)
		}
		taken[f.Name] = true
		file := promise.File{Name: f.Name, Size: f.Size}
		if err := d.hash(where+".sha256", f.SHA256, &file.SHA256); err != nil {
			return err
		}
		d.input.Files = append(d.input.Files, file)
	}
	return nil
}

// fileName refuses what is not the plain name of one file.
func fileName(where, name string) error {
	bad := strings.ContainsFunc(name, func(r rune) bool { return r == '/' || r == '\\' || unicode.IsControl(r) })
	if name == "" || len(name) > 255 || name == "." || name == ".." || bad || !utf8.ValidString(name) {
		return api.Invalid(where, "%q: want the name of a file, without directories and control characters, 1 to 255 bytes", name)
	}
	return nil
}
