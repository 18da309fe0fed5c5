package dispatch

import (
	"log/slog"
	"net/http"
	"testing"

	"modulate/internal/lambdahttp"
	"modulate/internal/lambdatest"
)

// asEvents lets requests come as events of API Gateway.
var asEvents bool

func through(h http.Handler) http.Handler {
	if !asEvents {
		return h
	}
	f := lambdatest.InProcess{Handler: lambdahttp.New(h, slog.New(slog.DiscardHandler))}
	return &lambdatest.Gateway{Read: f, Write: f}
}

// What is refused is refused in the same words when it comes as an event, and
// what is answered comes out whole.
func TestAsEvents(t *testing.T) {
	asEvents = true
	defer func() { asEvents = false }()
	for name, test := range map[string]func(*testing.T){
		"SubmitRefuses":    TestSubmitRefuses,
		"SubmitWrongBody":  TestSubmitWrongBody,
		"SubmitEnvNames":   TestSubmitEnvNames,
		"SubmitAccepts":    TestSubmitAccepts,
		"SubmitConflict":   TestSubmitConflict,
		"SubmitFaults":     TestSubmitFaults,
		"Upload":           TestUpload,
		"CancelBody":       TestCancelBody,
		"CancelLost":       TestCancelLost,
		"SubmitFromScript": TestSubmitFromScript,
	} {
		t.Run(name, test)
	}
}
