package worker

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"

	"modulate/internal/api"
	"modulate/internal/promise"
)

// children numbers the children that one attempt submits without an id, in
// order of submission, attached and detached ones apart. A script that runs
// again counts again, and so meets the children that it had made.
//
// The numbers stand in a file before they are used, one JSON object a line, so
// that whoever adopts the job counts on.
type children struct {
	mu                 sync.Mutex
	attached, detached int
	byKey              map[string]string // a client's key to the id that its request was given
	path               string            // of the file; "": nobody can adopt the job
	file               *os.File          // nil: it is not open, for there was no child
	broken             error             // the file is not as it should be: nothing is numbered
}

// A number is a line of the file.
type number struct {
	ID       string `json:"id"`
	Key      string `json:"key,omitempty"`
	Detached bool   `json:"detached,omitempty"`
}

// open counts on from what stands in the file. A line that is not whole was
// never used.
func (c *children) open(path string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.path = path
	if info, err := os.Lstat(path); path == "" || err == nil && info.Size() == 0 {
		return nil
	}
	body, err := c.readAll()
	if err != nil {
		c.broken = err
		return err
	}
	whole := bytes.LastIndexByte(body, '\n') + 1
	for line := range bytes.Lines(body[:whole]) {
		var n number
		if err = errors.Join(err, json.Unmarshal(line, &n)); err == nil {
			c.take(n)
		}
	}
	_, seek := c.file.Seek(int64(whole), io.SeekStart)
	c.broken = errors.Join(err, seek, c.file.Truncate(int64(whole)))
	return c.broken
}

// readAll opens the file, which is made if it is not there, and reads it.
func (c *children) readAll() (body []byte, err error) {
	if c.file, err = os.OpenFile(c.path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	return io.ReadAll(c.file)
}

// close closes the file.
func (c *children) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.file != nil {
		c.file.Close()
	}
}

// keep writes n down. It stands on the disk before keep returns.
func (c *children) keep(n number) error {
	if c.path == "" || c.broken != nil {
		return c.broken
	}
	line, err := json.Marshal(n)
	if err == nil && c.file == nil {
		_, err = c.readAll() // nothing: it was empty
	}
	if err == nil {
		_, err = c.file.Write(append(line, '\n'))
	}
	if err == nil {
		err = c.file.Sync()
	}
	c.broken = err
	return err
}

// take counts n.
func (c *children) take(n number) {
	if n.Detached {
		c.detached++
	} else {
		c.attached++
	}
	if n.Key != "" {
		if c.byKey == nil {
			c.byKey = make(map[string]string)
		}
		c.byKey[n.Key] = n.ID
	}
}

// adopt gives the submission in r an id if it has none, and returns the id. A
// request with a key that was seen before gets the id that it had. With hasten
// the answer will not wait for the child's end, and the mode that the wait
// implied is written down. A body that cannot be read is left for the API to
// refuse; the id is empty then. An error means that the number could not be
// kept.
func (c *children) adopt(parent string, r *http.Request, hasten bool) (string, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, api.MaxBody+1))
	defer func() { setBody(r, body) }()
	var fields map[string]json.RawMessage
	if err != nil || len(body) > api.MaxBody || json.Unmarshal(body, &fields) != nil || fields == nil {
		return "", nil
	}
	if hasten {
		if asksToWait(r) && text(fields["mode"]) == "" {
			body = withField(body, fields, "mode", "rpc")
		}
		r.Header.Set("Prefer", "respond-async")
	}
	if id := text(fields["id"]); id != "" {
		return id, nil
	}
	id, err := c.number(parent, r.Header.Get(api.KeyHeader), text(fields["mode"]) == promise.Detached.String())
	if err == nil {
		body = withField(body, fields, "id", id)
	}
	return id, err
}

// number returns the id of the next child, or of the one with that key.
func (c *children) number(parent, key string, detached bool) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id, ok := c.byKey[key]; ok {
		return id, nil
	}
	n := number{ID: promise.ChildID(parent, c.attached+1), Key: key, Detached: detached}
	if detached {
		n.ID = promise.DetachedID(parent, c.detached+1)
	}
	if err := c.keep(n); err != nil {
		return "", err
	}
	c.take(n)
	return n.ID, nil
}

// withField returns the object in body with a field more. The rest stays byte
// for byte as it is, duplicates too, which the API refuses; only where the
// field was there and empty the object is written anew.
func withField(body []byte, fields map[string]json.RawMessage, name, value string) []byte {
	if _, empty := fields[name]; empty {
		delete(fields, name)
		body, _ = json.Marshal(fields) // it was JSON
	}
	quoted, _ := json.Marshal(value) // a string
	fields[name] = quoted
	field, _ := json.Marshal(name)
	rest := bytes.TrimSpace(body)[1:] // beyond the brace
	comma := ","
	if bytes.HasPrefix(bytes.TrimSpace(rest), []byte("}")) {
		comma = ""
	}
	return bytes.Join([][]byte{[]byte("{"), field, []byte(":"), quoted, []byte(comma), rest}, nil)
}

// setBody makes body what is read of r, followed by what was not read yet.
func setBody(r *http.Request, body []byte) {
	if len(body) > api.MaxBody {
		r.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(body), r.Body), r.Body}
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	r.ContentLength = int64(len(body))
}

// text returns a JSON string's value; empty for all else.
func text(raw json.RawMessage) (s string) {
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

// asksToWait reports whether r prefers an answer that waits.
func asksToWait(r *http.Request) bool {
	for _, line := range r.Header.Values("Prefer") {
		for item := range strings.SplitSeq(line, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(item), "=")
			if strings.EqualFold(name, "wait") && value != "0" {
				return true
			}
		}
	}
	return false
}
