package main

import (
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"modulate/internal/promise"
	"modulate/workerd/worker"
)

// The page names nothing that is not there, and every metric.
func TestDocs(t *testing.T) {
	page, err := os.ReadFile("../docs/workerd.md")
	if err != nil {
		t.Fatal(err)
	}
	var cfg Config
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	cfg.flags(flags)
	for _, m := range regexp.MustCompile("--([a-z][a-z-]*)").FindAllStringSubmatch(string(page), -1) {
		if flags.Lookup(m[1]) == nil && m[1] != "help" {
			t.Errorf("the page names --%s, which is no flag", m[1])
		}
	}
	answer := httptest.NewRecorder()
	health{
		worker: func() worker.Report {
			return worker.Report{LastReceive: time.Now(), Attempts: map[promise.Cause]uint64{promise.CauseOK: 1}}
		},
		host: func() hostReport { return hostReport{} },
	}.metrics(answer, nil)
	served := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (modulate_[a-z_]+) `).FindAllStringSubmatch(answer.Body.String(), -1) {
		served[m[1]] = true
		if !strings.Contains(string(page), "`"+m[1]) {
			t.Errorf("the page does not have %s", m[1])
		}
	}
	for _, m := range regexp.MustCompile("`(modulate_[a-z_]+)").FindAllStringSubmatch(string(page), -1) {
		if !served[m[1]] {
			t.Errorf("the page has %s, which is not served", m[1])
		}
	}
}
