package store

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"modulate/internal/promise"
)

func TestEveryFieldIsStored(t *testing.T) {
	rec := full()
	b, err := Encode(&rec)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, rec) {
		t.Errorf("stored and read:\n%+v\nwant\n%+v", got, rec)
	}
}

// The longest-lived form of a plain call: settled after one attempt with 512
// bytes of output.
func plain() promise.Record {
	now := promise.TimeOf(time.Date(2026, 11, 23, 15, 0, 0, 0, time.UTC))
	nonce := promise.Nonce(slices.Repeat([]byte{0xab}, 16))
	hash := promise.Hash(slices.Repeat([]byte{0xcd}, 32))
	return promise.Record{
		ID: "01kaqk2f5r8w3v9x7y6z5t4s3q", Rev: 3, WriteID: nonce,
		Owner: "local", Machine: "gpu-a100", Mode: promise.Detached,
		Call: promise.Call{
			Name: "train_model.py", Script: hash, Runtime: "python",
			Input:   promise.Input{Args: []string{"--epochs", "10"}, Env: map[string]string{"SEED": "42"}},
			Timeout: 2 * time.Minute, Lease: 30 * time.Second,
		},
		CallHash: hash,
		State:    promise.Resolved,
		Outcome: promise.Outcome{
			Cause: promise.CauseOK, Version: 1,
			Stdout: promise.Stream{Size: 512, Tail: []byte(strings.Repeat("x", 512))},
			Usage:  promise.Usage{Wall: 1234 * time.Millisecond, CPU: time.Second, MaxRSS: 12 << 20},
		},
		CreatedAt: now, DeadlineAt: now.Add(24 * time.Hour), SettledAt: now.Add(2 * time.Second), SettleID: nonce,
		Task: promise.Task{State: promise.TaskFulfilled, Version: 1, Worker: "laptop-4711-1", ClaimID: nonce, Lease: 30 * time.Second},
		Attempts: []promise.Attempt{{
			Number: 1, Version: 1, Worker: "laptop-4711-1",
			StartedAt: now, EndedAt: now.Add(2 * time.Second), Cause: promise.CauseOK,
		}},
		Attempt: 1,
	}
}

// Every write is billed on the whole item, and one group commit carries many.
func TestPlainRecordStaysBelowOneKilobyte(t *testing.T) {
	rec := plain()
	b, err := Encode(&rec)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > 1024 {
		t.Errorf("the stored form of a plain call is %d bytes", len(b))
	}
	t.Logf("%d bytes, of which 512 are output", len(b))
}

// A newer version may have written fields that this one does not know.
func TestDecodeDropsUnknownFields(t *testing.T) {
	b, err := cbor.Marshal(map[int]any{1: "a", 2: 7, 999: "of a later version"})
	if err != nil {
		t.Fatal(err)
	}
	rec, err := Decode(b)
	if err != nil || rec.ID != "a" || rec.Rev != 7 {
		t.Errorf("got %q at rev %d, %v", rec.ID, rec.Rev, err)
	}
}

func TestDecodeRefusesWhatIsNoRecord(t *testing.T) {
	for _, b := range [][]byte{nil, {}, []byte("record"), {0xa1}, {0xff}} {
		if rec, err := Decode(b); err == nil {
			t.Errorf("%q decoded as %+v", b, rec)
		}
	}
}

func BenchmarkCodec(b *testing.B) {
	rec := plain()
	encoded, err := Encode(&rec)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("encode", func(b *testing.B) {
		for b.Loop() {
			_, _ = Encode(&rec)
		}
	})
	b.Run("decode", func(b *testing.B) {
		for b.Loop() {
			_, _ = Decode(encoded)
		}
	})
	b.Run("clone", func(b *testing.B) {
		for b.Loop() {
			_ = Clone(rec)
		}
	})
}
