package blobtest

import (
	"context"
	"crypto/sha256"
	"errors"
	"testing"

	"modulate/internal/blob"
	"modulate/internal/promise"
)

// Beside is what a Rider and the store beside it look like to the suite.
type Beside struct {
	Blobs blob.Rider
	// Write creates the record with that id in the store, under ctx. Its error is
	// nil, or the store's: an id that is taken is refused.
	Write func(ctx context.Context, id string) error
	// Written reports whether there is a record with that id.
	Written func(id string) bool
	// Fill leaves no room for another blob, but for a record.
	Fill func(t *testing.T)
	// Crash returns what another process finds on the disk after this one was
	// killed at this moment.
	Crash func(t *testing.T) Beside
}

// RunRiding checks that what open returns, empty at each call, keeps the
// contract of [blob.Rider].
func RunRiding(t *testing.T, open func(t *testing.T) Beside) {
	for name, test := range map[string]func(*testing.T, Beside){
		"AWriteKeepsWhatRides":        aWriteKeepsWhatRides,
		"WithoutAWriteNothingIsKept":  withoutAWriteNothingIsKept,
		"ARefusedWriteKeepsNothing":   aRefusedWriteKeepsNothing,
		"AWriteElsewhereKeepsNothing": aWriteElsewhereKeepsNothing,
		"WhatCannotBeKeptFailsIt":     whatCannotBeKeptFailsIt,
		"WhatIsKnownMayRide":          whatIsKnownMayRide,
		"AnotherContentDoesNotRide":   mismatchDoesNotRide,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

// ride has bodies ride, and returns their keys.
func (b Beside) ride(t *testing.T, bodies ...string) (ctx context.Context, keys []string) {
	t.Helper()
	ctx = t.Context()
	for _, body := range bodies {
		sum := promise.Hash(sha256.Sum256([]byte(body)))
		var err error
		var rides bool
		if ctx, rides, err = b.Blobs.Ride(ctx, blob.ContentKey(sum), []byte(body), sum); err != nil || !rides {
			t.Fatalf("it rides: %t, %v", rides, err)
		}
		keys = append(keys, blob.ContentKey(sum))
	}
	return ctx, keys
}

// unknown fails unless nothing is known of keys.
func (b Beside) unknown(t *testing.T, keys []string) {
	t.Helper()
	for _, key := range keys {
		if _, err := b.Blobs.Stat(t.Context(), key); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("Stat(%q) = %v, want ErrNotFound", key, err)
		}
	}
}

func aWriteKeepsWhatRides(t *testing.T, b Beside) {
	bodies := []string{"one", "two"}
	ctx, keys := b.ride(t, bodies...)
	if err := b.Write(ctx, "p"); err != nil {
		t.Fatal(err)
	}
	for _, b := range []Beside{b, b.Crash(t)} {
		for i, key := range keys {
			if got := get(t, b.Blobs, key, 0); got != bodies[i] {
				t.Errorf("%q came back as %q", bodies[i], got)
			}
			if info, err := b.Blobs.Stat(t.Context(), key); err != nil || info.Size != int64(len(bodies[i])) {
				t.Errorf("Stat(%q) = %+v, %v", key, info, err)
			}
		}
		if !b.Written("p") {
			t.Error("the record is not there")
		}
	}
}

func withoutAWriteNothingIsKept(t *testing.T, b Beside) {
	_, keys := b.ride(t, "one")
	b.unknown(t, keys)
	if err := b.Write(t.Context(), "p"); err != nil { // not under the context that carries it
		t.Fatal(err)
	}
	b.unknown(t, keys)
	after := b.Crash(t)
	after.unknown(t, keys)
	for _, key := range keys {
		absent(t, after.Blobs, key)
	}
}

func aRefusedWriteKeepsNothing(t *testing.T, b Beside) {
	if err := b.Write(t.Context(), "p"); err != nil {
		t.Fatal(err)
	}
	ctx, keys := b.ride(t, "one", "two")
	if err := b.Write(ctx, "p"); err == nil {
		t.Fatal("a record was created twice")
	}
	b.unknown(t, keys)
	b.Crash(t).unknown(t, keys)
}

// aWriteElsewhereKeepsNothing: a store over another file does not take it.
func aWriteElsewhereKeepsNothing(t *testing.T, b Beside) {
	ctx, keys := b.ride(t, "one")
	other := b.Crash(t)
	if err := other.Write(ctx, "p"); err != nil {
		t.Fatal(err)
	}
	other.unknown(t, keys)
}

func whatCannotBeKeptFailsIt(t *testing.T, b Beside) {
	b.Fill(t)
	if err := b.Write(t.Context(), "alone"); err != nil {
		t.Fatalf("there is no room for a record: %v", err)
	}
	ctx, keys := b.ride(t, string(make([]byte, blob.MaxSmall)))
	if err := b.Write(ctx, "p"); err == nil {
		t.Error("a write was acknowledged without what it was to keep")
	}
	for _, b := range []Beside{b, b.Crash(t)} {
		b.unknown(t, keys)
		if b.Written("p") || !b.Written("alone") {
			t.Error("the record is there without its blob, or another is not")
		}
	}
}

func whatIsKnownMayRide(t *testing.T, b Beside) {
	put(t, b.Blobs, blob.ContentKey(sha256.Sum256([]byte("one"))), "one")
	ctx, keys := b.ride(t, "one", "one")
	for _, id := range []string{"p", "q"} { // it may be carried twice
		if err := b.Write(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	if got := get(t, b.Blobs, keys[0], 0); got != "one" {
		t.Errorf("it came back as %q", got)
	}
}

func mismatchDoesNotRide(t *testing.T, b Beside) {
	sum := promise.Hash(sha256.Sum256([]byte("one")))
	ctx, _, err := b.Blobs.Ride(t.Context(), blob.ContentKey(sum), []byte("two"), sum)
	if !errors.Is(err, blob.ErrMismatch) {
		t.Errorf("Ride = %v, want ErrMismatch", err)
	}
	if err := b.Write(ctx, "p"); err != nil {
		t.Fatal(err)
	}
	b.unknown(t, []string{blob.ContentKey(sum)})
}
