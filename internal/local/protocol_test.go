package local

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"

	"modulate/internal/api"
)

// TestListBesideOtherPrograms: what other programs keep here does not keep the
// API from answering, and is none of it: a schedule is no promise, a promise
// without a call no script's, and a deadline may lie further away than RFC 3339
// can say.
func TestListBesideOtherPrograms(t *testing.T) {
	l, err := Open(t.Context(), Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
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
	for _, path := range []string{"/v1/promises", "/v1/promises?state=pending", "/v1/promises?prefix=far"} {
		w := httptest.NewRecorder()
		l.Handler().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		var list api.List
		if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil || w.Code != 200 || len(list.Items) != 0 {
			t.Errorf("%s: %d %s, %v", path, w.Code, w.Body, err)
		}
	}
	w := httptest.NewRecorder()
	if l.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/v1/promises/far", nil)); w.Code != 404 {
		t.Errorf("the promise alone: %d %s", w.Code, w.Body)
	}
}
