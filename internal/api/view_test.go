package api

import (
	"bytes"
	stdjson "encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"modulate/internal/blob"
	"modulate/internal/engine"
	"modulate/internal/promise"
)

// full is a record with everything in it.
func full() promise.Record {
	at := promise.TimeOf(time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC))
	return promise.Record{
		ID: "p.c", Owner: "local", Machine: "gpu", Mode: promise.RFI, Parent: "p",
		Call: promise.Call{
			Name: "a.py", Script: promise.Hash{1}, Runtime: "python", Stdin: promise.Hash{2},
			Input:   promise.Input{Args: []string{"x"}, Env: map[string]string{"A": "b"}, Files: []promise.File{{Name: "f", SHA256: promise.Hash{3}, Size: 4}}, Tags: map[string]string{"t": "u"}},
			Timeout: 2 * time.Minute, Lease: 30 * time.Second,
			Retry: promise.Retry{Policy: promise.Linear, MaxAttempts: 3, Delay: time.Second, MaxDelay: time.Minute},
		},
		State: promise.Rejected, CreatedAt: at, DeadlineAt: at.Add(time.Hour), SettledAt: at.Add(time.Second),
		Outcome: promise.Outcome{
			Cause: promise.CauseExit, ExitCode: 3, Version: 1, Result: promise.Body{Size: 9, Inline: []byte(`{"a": 1 }`)},
			Stdout:    promise.Stream{Size: 20 << 20, Cut: 4 << 20, Tail: []byte("\xa9tail"), Stored: true},
			Stderr:    promise.Stream{Size: 3, Tail: []byte("err")},
			Artifacts: promise.Body{Inline: []byte(`[{"name":"d/m.bin","size":7,"sha256":"ab"}]`)},
			Usage:     promise.Usage{Wall: 1500 * time.Millisecond, CPU: time.Second, MaxRSS: 4096},
			Error:     promise.Problem{Type: "t", Title: "u", Detail: "v"},
		},
		Attempts: []promise.Attempt{{Number: 1, Version: 1, Worker: "w", StartedAt: at, EndedAt: at.Add(time.Second), Cause: promise.CauseExit}},
		Attempt:  1,
	}
}

func TestSummary(t *testing.T) {
	zeros := func(n int) string { return strings.Repeat("0", n) }
	want := `{"id":"p.c","state":"rejected","machine":"gpu","mode":"rfi","parent":"p","owner":"local",` +
		`"call":{"script":{"name":"a.py","sha256":"01` + zeros(62) + `"},"runtime":"python","args":["x"],"env":{"A":"b"},"stdin":"02` + zeros(62) + `",` +
		`"files":[{"name":"f","sha256":"03` + zeros(62) + `","size":4}],"timeout_ms":120000,"deadline_ms":3600000,"lease_ms":30000,` +
		`"retry":{"policy":"linear","max_attempts":3,"delay_ms":1000,"max_delay_ms":60000}},` +
		`"outcome":{"cause":"exit","exit_code":3,"result":{"a":1},"stdout":{"size":20971520,"truncated":true,"tail":"` + "\uFFFD" + `tail"},` +
		`"stderr":{"size":3,"truncated":false,"tail":"err"},"artifacts":[{"name":"d/m.bin","size":7,"sha256":"ab"}],` +
		`"usage":{"wall_ms":1500,"cpu_ms":1000,"max_rss_bytes":4096},"error":{"type":"t","title":"u","detail":"v"}},` +
		`"attempts":[{"number":1,"version":1,"worker":"w","started_at":"2026-01-02T03:04:05.678Z","ended_at":"2026-01-02T03:04:06.678Z","cause":"exit"}],` +
		`"tags":{"t":"u"},"created_at":"2026-01-02T03:04:05.678Z","deadline_at":"2026-01-02T04:04:05.678Z","settled_at":"2026-01-02T03:04:06.678Z"}`
	got, err := encode(Summary(full()))
	if err != nil || string(got) != want+"\n" {
		t.Errorf("got  %s, %v\nwant %s", got, err, want)
	}
	var back Promise
	if err := json.Unmarshal(got, &back); err != nil {
		t.Errorf("the client cannot read it: %v", err)
	}
}

func TestSummaryPending(t *testing.T) {
	rec := full()
	rec.State, rec.Outcome, rec.SettledAt, rec.Attempts, rec.Call.Retry = promise.Pending, promise.Outcome{}, 0, nil, promise.Retry{}
	p := Summary(rec)
	if p.Outcome != nil || p.SettledAt != nil || p.Call.Retry != nil || p.Attempts == nil {
		t.Errorf("got %+v", p)
	}
}

func TestSummaryCauses(t *testing.T) {
	for _, tt := range []struct {
		out  promise.Outcome
		want string
	}{
		{promise.Outcome{Cause: promise.CauseOK}, `"cause":"ok","exit_code":0,"stdout"`},
		{promise.Outcome{Cause: promise.CauseSignal, Signal: 11}, `"cause":"signal","signal":11,"stdout"`},
		{promise.Outcome{Cause: promise.CauseTimeout, ExitCode: 1}, `"cause":"timeout","stdout"`},
		{promise.Outcome{Cause: promise.CauseOK, Result: promise.Body{Size: 4, Inline: []byte("null")}}, `"result":null`},
		{promise.Outcome{Cause: promise.CauseOK, Result: promise.Body{Size: 2, Inline: []byte(`""`)}}, `"result":""`},
		{promise.Outcome{Cause: promise.CauseOK, Result: promise.Body{Size: 13, Inline: []byte(`{"a":1,"a":2}`)}}, `"result":{"a":1,"a":2}`},
		{promise.Outcome{Cause: promise.CauseOK, Result: promise.Body{Size: 5, Inline: []byte(`{"a":`)}}, `"exit_code":0,"stdout"`},
	} {
		rec := full()
		rec.Outcome = tt.out
		if got, err := encode(Summary(rec)); err != nil || !strings.Contains(string(got), tt.want) {
			t.Errorf("%+v: got %s, %v", tt.out, got, err)
		}
	}
}

// What is kept beside the record is there too; what is gone is left out.
func TestView(t *testing.T) {
	e := memory()
	rec := full()
	in := rec.Call.Input
	rec.Call.Input, rec.Call.InputBlob = promise.Input{}, promise.Hash{9}
	rec.Outcome.Result = promise.Body{Size: 300}
	rec.Outcome.Artifacts = promise.Body{Size: 2000}
	rec.Attempt = 8
	rec.Attempts = nil
	for _, n := range []uint32{1, 2, 3, 6, 7, 8} {
		rec.Attempts = append(rec.Attempts, promise.Attempt{Number: n, Version: uint64(n)})
	}
	var log bytes.Buffer
	s := &Service{Engine: e, Log: slog.New(slog.NewTextHandler(&log, nil))}
	p, err := s.View(t.Context(), rec)
	if err != nil || p.Call.Args != nil || p.Outcome.Result != nil || p.Outcome.Artifacts != nil || len(p.Attempts) != 6 {
		t.Errorf("without its blobs: %+v, %v", p, err)
	}
	if got := strings.Count(log.String(), "a part of a promise is gone"); got != 4 {
		t.Errorf("%d parts are said to be gone: %s", got, &log)
	}

	input, _ := stdjson.Marshal(in)
	put(t, e, blob.ContentKey(rec.Call.InputBlob), string(input))
	put(t, e, blob.ResultKey(rec.ID, 1), `{"big": true}`)
	put(t, e, blob.ArtifactsKey(rec.ID, 1), `[{"name":"a","size":1,"sha256":"x"}]`)
	for n := uint32(4); n <= 5; n++ {
		body, _ := stdjson.Marshal(promise.Attempt{Number: n, Version: uint64(n)})
		put(t, e, blob.AttemptKey(rec.ID, n), string(body))
	}
	p, err = s.View(t.Context(), rec)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprintf("%v %v %v %v", p.Call.Args, p.Call.Env, p.Call.Files[0].Name, p.Tags) != "[x] map[A:b] f map[t:u]" {
		t.Errorf("the input is %+v, %v", p.Call, p.Tags)
	}
	if string(p.Outcome.Result) != `{"big": true}` || len(p.Outcome.Artifacts) != 1 || p.Outcome.Artifacts[0].Name != "a" {
		t.Errorf("the outcome is %+v", p.Outcome)
	}
	for i, a := range p.Attempts {
		if len(p.Attempts) != 8 || int(a.Number) != i+1 {
			t.Errorf("the attempts are %+v", p.Attempts)
		}
	}
}

func put(t *testing.T, e *engine.Engine, key, body string) {
	t.Helper()
	if err := e.Blobs.Put(t.Context(), key, strings.NewReader(body), int64(len(body)), promise.Hash{}); err != nil {
		t.Fatal(err)
	}
}

// noop is what the hot path answers with.
func noop() Promise {
	rec := full()
	rec.Call.Input, rec.Call.Retry, rec.Outcome.Artifacts, rec.Outcome.Result, rec.Outcome.Error = promise.Input{}, promise.Retry{}, promise.Body{}, promise.Body{}, promise.Problem{}
	return Summary(rec)
}

func BenchmarkEncode(b *testing.B) {
	p := noop()
	b.Run("experiment", func(b *testing.B) {
		for b.Loop() {
			if _, err := json.Marshal(p); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("stdlib", func(b *testing.B) {
		for b.Loop() {
			if _, err := encode(p); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("view", func(b *testing.B) {
		rec := full()
		for b.Loop() {
			Summary(rec)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	body := `{"id":"01jzzzzzzzzzzzzzzzzzzzzzzz","machine":"cpu","script":{"name":"noop.py","sha256":"` + strings.Repeat("ab", 32) + `"}}`
	b.Run("experiment", func(b *testing.B) {
		for b.Loop() {
			var sub Submit
			r := request(body)
			if err := Decode(r, &sub); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("stdlib, lenient", func(b *testing.B) {
		for b.Loop() {
			var sub Submit
			r := request(body)
			all, _ := io.ReadAll(r.Body)
			if err := stdjson.Unmarshal(all, &sub); err != nil {
				b.Fatal(err)
			}
		}
	})
}
