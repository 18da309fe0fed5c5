package api

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
)

func TestDecodeRefuses(t *testing.T) {
	deep := strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth)
	tests := []struct {
		name, body string
		where      string // Problem.Where
		says       string // in Problem.Detail
	}{
		{"empty", ``, "body", "the body is empty"},
		{"no JSON", `machine=cpu`, "body", "not JSON at byte 0"},
		{"an array", `[]`, "body", "want an object at byte 0"},
		{"broken off", `{"machine":"cpu"`, "body", "not JSON at byte 16"},
		{"trailing data", `{"machine":"cpu"} {}`, "body", "not JSON at byte 18"},
		{"unknown field", `{"machine":"cpu","colour":"red"}`, "colour", `unknown field "colour" at byte 1`},
		{"other case", `{"Machine":"cpu"}`, "Machine", `unknown field "Machine"`},
		{"unknown field below", `{"script":{"text":"x"}}`, "script.text", `unknown field "text"`},
		{"duplicate key", `{"machine":"cpu","machine":"gpu"}`, "machine", `"machine" is there twice, again at byte 17`},
		{"duplicate variable", `{"env":{"A":"1","A":"2"}}`, "env.A", `"A" is there twice, again at byte 16`},
		{"a number for a string", `{"machine":7}`, "machine", "want a string at byte 11, not a number"},
		{"a string for a number", `{"timeout_ms":"9"}`, "timeout_ms", `want a whole number at byte 14, not a string`},
		{"a fraction", `{"timeout_ms":1.5}`, "timeout_ms", "want a whole number at byte 14, not 1.5"},
		{"a string for an array", `{"args":"x"}`, "args", `want an array at byte 8, not a string`},
		{"below an array", `{"args":["x",null,3]}`, "args.2", "want a string"},
		{"invalid UTF-8", "{\"machine\":\"\xff\"}", "machine", "not JSON at byte 1"},
		{"half a surrogate pair", `{"machine":"\ud800"}`, "machine", "not JSON at byte 1"},
		{"one level too deep", `{"args":` + deep + `}`, "body", "more than 64 levels of nesting at byte 71"},
		{"brackets in a string are no levels", `{"machine":"` + strings.Repeat("[", 200) + `\"[","x":1}`, "x", "unknown field"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := Decode(request(tt.body), &Submit{})
			var e *Error
			if !errors.Is(err, ErrInvalid) || !errors.As(err, &e) {
				t.Fatalf("Decode(%s) = %v, want ErrInvalid", tt.body, err)
			}
			if e.Where != tt.where || !strings.Contains(e.Detail, tt.says) {
				t.Errorf("got %q: %s\nwant %q: ...%s...", e.Where, e.Detail, tt.where, tt.says)
			}
		})
	}
}

func TestDecodeDepth(t *testing.T) {
	body := strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth)
	var v any
	if err := Decode(request(body), &v); err != nil {
		t.Errorf("%d levels: %v", MaxDepth, err)
	}
	if err := Decode(request("["+body+"]"), &v); !errors.Is(err, ErrInvalid) {
		t.Errorf("%d levels: %v, want ErrInvalid", MaxDepth+1, err)
	}
}

func TestDecodeSize(t *testing.T) {
	body := func(size int) string { return `"` + strings.Repeat("x", size-2) + `"` }
	for _, known := range []bool{true, false} {
		for size, want := range map[int]error{MaxBody - 1: nil, MaxBody: nil, MaxBody + 1: ErrTooLarge} {
			r := request(body(size))
			if !known {
				r.ContentLength = -1
			}
			var s string
			err := Decode(r, &s)
			if !errors.Is(err, want) {
				t.Errorf("%d bytes, length known %v: %v, want %v", size, known, err, want)
			}
			if err != nil && !strings.Contains(err.Error(), "1048576") {
				t.Errorf("%q does not name the limit", err)
			}
		}
	}
}

func TestDecodeBodyBrokenOff(t *testing.T) {
	r := request(`{"machine":"cpu"}`)
	r.ContentLength++
	if err := Decode(r, &Submit{}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a body shorter than its length: %v", err)
	}
	r = request("")
	r.ContentLength, r.Body = -1, io.NopCloser(io.MultiReader(strings.NewReader(`{`), failing{}))
	if err := Decode(r, &Submit{}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a body that fails: %v", err)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("the line is dead") }

func TestDecodeContentType(t *testing.T) {
	for media, want := range map[string]error{
		"application/json":                  nil,
		"application/json; charset=utf-8":   nil,
		"Application/JSON;charset=UTF-8":    nil,
		"application/json; charset=latin1":  ErrMedia,
		"":                                  ErrMedia,
		"text/plain":                        ErrMedia,
		"application/x-www-form-urlencoded": ErrMedia,
		"application/jsonp":                 ErrMedia,
		"application/problem+json":          ErrMedia,
	} {
		r := request(`{}`)
		r.Header.Set("Content-Type", media)
		if err := Decode(r, &Submit{}); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", media, err, want)
		}
	}
}

// FuzzDecode: whatever comes is read or refused with a position, and what was
// read says the same when it is written and read again.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		`{"machine":"cpu","script":{"name":"a.py","source":"print(1)"}}`,
		`{"id":"x","machine":"gpu","mode":"rfi","parent":"p","script":{"name":"a","sha256":"ab"},"runtime":"bash","args":["1"],"env":{"A":"b"},"stdin":"c","files":[{"name":"f","sha256":"d","size":3}],"timeout_ms":1,"deadline_ms":2,"lease_ms":3,"retry":{"policy":"linear","max_attempts":4,"delay_ms":5,"max_delay_ms":6},"tags":{"t":"u"}}`,
		`{"machine":"cpu","machine":"cpu"}`, `{"a":{"b":[[[]]]}}`, "{\"machine\":\"\xff\"}", `{}{}`, `null`, `"\ud800"`, `{"env":{"A":null}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var sub Submit
		if err := decode(body, &sub); err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Status != http.StatusBadRequest || e.Where == "" || !utf8.ValidString(e.Detail) {
				t.Fatalf("%q is refused by %#v", body, err)
			}
			return
		}
		first, err := json.Marshal(sub, json.Deterministic(true))
		if err != nil {
			t.Fatalf("writing what %q said: %v", body, err)
		}
		var again Submit
		if err := decode(first, &again); err != nil {
			t.Fatalf("%s was written and is refused: %v", first, err)
		}
		second, err := json.Marshal(again, json.Deterministic(true))
		if err != nil || !bytes.Equal(first, second) {
			t.Fatalf("%q says %s, then %s (%v)", body, first, second, err)
		}
	})
}

func request(body string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/v1/promises", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	return r
}
