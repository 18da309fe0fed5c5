package local

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"modulate/internal/api"
	"modulate/internal/promise"
)

// TestListBesideOtherPrograms: what other programs keep here does not stand in
// the API's list, and does not keep it from answering: their deadlines may lie
// further away than RFC 3339 can say.
func TestListBesideOtherPrograms(t *testing.T) {
	l, err := Open(t.Context(), Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	script := promise.Record{
		ID: "script", Owner: "local", Machine: "cpu", DeadlineAt: l.Engine.Time().Add(time.Hour), Call: promise.Call{Name: "x.py", Lease: time.Minute},
	}
	if _, err := l.Engine.Create(t.Context(), script, nil); err != nil {
		t.Fatal(err)
	}
	for kind, data := range map[string]string{
		"promise.create":  `{"id":"far","timeoutAt":9007199254740991,"tags":{}}`,
		"schedule.create": `{"id":"s","cron":"0 0 1 1 *","promiseId":"p.{{.timestamp}}","promiseTimeout":1,"promiseTags":{"resonate:target":"poll://any@g"}}`,
	} {
		r := httptest.NewRequest("POST", "/", strings.NewReader(`{"kind":"`+kind+`","head":{"corrId":"c","version":"2026-04-01"},"data":`+data+`}`))
		w := httptest.NewRecorder()
		if l.Handler().ServeHTTP(w, r); w.Code != 200 {
			t.Fatalf("%s: %d %s", kind, w.Code, w.Body)
		}
	}
	var listed []string
	for cursor := "&"; cursor != ""; {
		w := httptest.NewRecorder()
		l.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/v1/promises?limit=1"+cursor, nil))
		var list api.List
		if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil || w.Code != 200 {
			t.Fatalf("%d %s, %v", w.Code, w.Body, err)
		}
		for _, p := range list.Items {
			listed = append(listed, p.ID)
		}
		if cursor = list.Cursor; cursor != "" {
			cursor = "&cursor=" + cursor
		}
	}
	if len(listed) != 1 || listed[0] != "script" {
		t.Errorf("listed are %q", listed)
	}
	w := httptest.NewRecorder()
	if l.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/v1/promises/far", nil)); w.Code != 404 {
		t.Errorf("one of them alone: %d %s", w.Code, w.Body)
	}
}
