package main

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"modulate/internal/api"
)

func TestParseDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"90":      90 * time.Second,
		"-3":      -3 * time.Second,
		"1h30m":   90 * time.Minute,
		"1.5s":    1500 * time.Millisecond,
		"2d":      48 * time.Hour,
		"1d12h":   36 * time.Hour,
		"0d":      0,
		"-1d":     -24 * time.Hour,
		"106751d": 106751 * 24 * time.Hour,
	} {
		if got, err := parseDuration(text); err != nil || got != want {
			t.Errorf("%q is %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "soon", "d", "1.5d", "1d-1h", "1d+1h", "1d1d", "1h1d", " 1s", "106752d", "9223372036854775807", "106751d100h", "99999999h",
	} {
		if got, err := parseDuration(text); err == nil {
			t.Errorf("%q is %v, want an error", text, got)
		}
	}
}

func TestParseRetry(t *testing.T) {
	got, err := parseRetry("exponential,max_attempts=5,delay=200ms,max_delay=1m")
	want := api.Retry{Policy: "exponential", MaxAttempts: 5, DelayMS: 200, MaxDelayMS: 60_000}
	if err != nil || *got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	if got, err := parseRetry(""); got != nil || err != nil {
		t.Errorf("no policy is %v, %v; want none", got, err)
	}
	for _, text := range []string{
		"sometimes", "constant,", "constant,x", "constant,delay=-1s", "constant,delay=0",
		"constant,max_attempts=0", "constant,max_attempts=-1", "constant,max_attempts=", "Constant",
	} {
		if got, err := parseRetry(text); err == nil || asFailure(err).code != exitInput {
			t.Errorf("%q is %+v, %v; want bad input", text, got, err)
		}
	}
}

func TestParseEnv(t *testing.T) {
	file := filepath.Join(t.TempDir(), "vars")
	text := "# said\nA=1\n\n  B= two words \r\nC\nD==x=\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	own := func(name string) (string, bool) { return "ours", name == "C" || name == "E" }
	got, err := parseEnv(file, []string{"A=over", "E", "F="}, own)
	want := map[string]string{"A": "over", "B": " two words ", "C": "ours", "D": "=x=", "E": "ours", "F": ""}
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	_, err = parseEnv("", []string{"=secret"}, own)
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("the error %v shows the value, which may be a secret", err)
	}
}

func TestParseSince(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"":                     {},
		"2h":                   now.Add(-2 * time.Hour),
		"7d":                   now.Add(-7 * 24 * time.Hour),
		"2026-01-31T12:00:00Z": time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC),
		"2026-01-31":           time.Date(2026, 1, 31, 0, 0, 0, 0, time.Local),
	} {
		if got, err := parseSince(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q is %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"yesterday", "-2h", "2026-13-01"} {
		if got, err := parseSince(text, now); err == nil {
			t.Errorf("%q is %v, want an error", text, got)
		}
	}
}

func TestInterpreter(t *testing.T) {
	for text, want := range map[string]string{
		"#!/bin/sh\n":                             "sh",
		"#!/usr/bin/env python3\n":                "python",
		"#!/usr/bin/python3.11 -u":                "python",
		"#! /usr/bin/env -S VAR=1 node --trace\n": "node",
		"#!\n":       "",
		"print(1)\n": "",
		"":           "",
	} {
		if got := (script{text: []byte(text)}).interpreter(); got != want {
			t.Errorf("%q names %q, want %q", text, got, want)
		}
	}
}

func TestParseMachines(t *testing.T) {
	got, err := parseMachines("gpu, gpu-a100:8")
	if err != nil || len(got) != 2 || got[0].Slots != 0 || got[1].Name != "gpu-a100" || got[1].Slots != 8 {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, list := range []string{"", "cpu,", "cpu:", "cpu:-1", "cpu:x", "cpu:1001", "cpu:1:2", "cpu,cpu:2", "Cpu", "-x"} {
		if got, err := parseMachines(list); err == nil || asFailure(err).code != exitInput {
			t.Errorf("%q is %+v, %v; want bad input", list, got, err)
		}
	}
}

func TestCheckLoopback(t *testing.T) {
	for _, address := range []string{"127.0.0.1:8700", "127.1.2.3:0", "localhost:0", "[::1]:8700"} {
		if err := checkLoopback(address); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
	for _, address := range []string{"", ":8700", "0.0.0.0:8700", "[::]:8700", "10.0.0.1:8700", "example.org:80", "127.0.0.1", "8700"} {
		if err := checkLoopback(address); err == nil {
			t.Errorf("%q is let through", address)
		}
	}
}
