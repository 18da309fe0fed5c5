package api

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

func TestPrefer(t *testing.T) {
	sec := func(n int) Prefer { return Prefer{Wait: time.Duration(n) * time.Second, Asked: true} }
	tests := []struct {
		headers []string
		want    Prefer
		applied string
	}{
		{nil, Prefer{}, ""},
		{[]string{"wait=10"}, sec(10), "wait=10"},
		{[]string{"wait=0"}, sec(0), "wait=0"},
		{[]string{"Wait = 3"}, sec(3), "wait=3"},
		{[]string{`wait="3"`}, sec(3), "wait=3"},
		{[]string{"wait=25"}, sec(MaxWait), "wait=25"},
		{[]string{"wait=26"}, sec(MaxWait), "wait=25"},
		{[]string{"wait=99999999999999999999"}, sec(MaxWait), "wait=25"},
		{[]string{"respond-async"}, Prefer{Async: true}, "respond-async"},
		{[]string{"respond-async, wait=5"}, Prefer{Async: true, Wait: 5 * time.Second, Asked: true}, "respond-async, wait=5"},
		{[]string{"wait=5", "Respond-Async; x=y"}, Prefer{Async: true, Wait: 5 * time.Second, Asked: true}, "respond-async, wait=5"},
		{[]string{"wait=5, wait=9"}, sec(5), "wait=5"},
		{[]string{"return=minimal, , handling=lenient"}, Prefer{}, ""},
	}
	for _, tt := range tests {
		got, err := parsePrefer(http.Header{"Prefer": tt.headers})
		if err != nil || got != tt.want || got.Applied() != tt.applied {
			t.Errorf("%q: got %+v, %q, %v", tt.headers, got, got.Applied(), err)
		}
	}
	for _, bad := range []string{"wait", "wait=", "wait=soon", "wait=-1", "wait=1.5", "wait=1s", "wait=0x1"} {
		var e *Error
		if _, err := parsePrefer(http.Header{"Prefer": {bad}}); !errors.Is(err, ErrInvalid) || !errors.As(err, &e) || e.Where != "Prefer" {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// A wait ends a second before the request itself must.
func TestPreferWithin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct{ request, wait, want time.Duration }{
			{0, 10, 10}, {30, 10, 10}, {11, 10, 10}, {8, 10, 7}, {1, 10, 0},
		} {
			parent, end := context.WithCancel(t.Context())
			if tt.request > 0 {
				parent, end = context.WithTimeout(t.Context(), tt.request*time.Second)
			}
			if got := (Prefer{Wait: tt.wait * time.Second}).Within(parent); got != tt.want*time.Second {
				t.Errorf("%+v: waits %s", tt, got)
			}
			end()
		}
	})
}
