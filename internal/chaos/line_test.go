//go:build linux

package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"modulate/internal/promise"
	"modulate/internal/store"
)

// A line is one party's way to AWS, with faults. What it carries to AWS it
// carries to its end, whether the party is still there or not.
type line struct {
	url    string
	ledger *ledger
	hangUp func() // breaks off all that is under way

	mu    sync.Mutex
	fault fault
}

// A fault answers a request, by itself or through what is behind the line;
// nil: it is passed on.
type fault func(c ask, aws http.Handler) http.Handler

// An ask is what a request is for.
type ask struct {
	operation string          // PutItem, SendMessage, …; "" of S3
	record    *promise.Record // that a PutItem stores; nil: something else
}

// newLine leads to endpoint. The records that are stored through it are
// entered in the ledger.
func newLine(t *testing.T, endpoint string, entered *ledger) *line {
	t.Helper()
	target, err := url.Parse(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	l := &line{ledger: entered}
	transport := &http.Transport{MaxIdleConnsPerHost: 32}
	aws := &httputil.ReverseProxy{
		Rewrite:      func(p *httputil.ProxyRequest) { p.SetURL(target); p.Out.Host = p.In.Host }, // it is signed
		Transport:    transport,
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler) // who asked is gone
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		asked := understand(t, r, body)
		if asked.operation != "ReceiveMessage" {
			r = r.WithContext(context.WithoutCancel(r.Context()))
		}
		l.handler(asked, l.enter(asked, aws)).ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		server.CloseClientConnections() // a receive that waits is heard to its end otherwise
		server.Close()
		transport.CloseIdleConnections()
	})
	l.url, l.hangUp = server.URL, server.CloseClientConnections
	return l
}

// understand reads what a request is for.
func understand(t *testing.T, r *http.Request, body []byte) (a ask) {
	_, a.operation, _ = strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	if a.operation != "PutItem" {
		return a
	}
	var put struct {
		Item map[string]struct {
			S string
			B []byte
		}
	}
	if err := json.Unmarshal(body, &put); err != nil {
		t.Errorf("%s: %v", body, err)
	}
	if form := put.Item["r"].B; form != nil { // the schema is dynamostore's
		rec, err := store.Decode(form)
		if err != nil {
			t.Error(err)
		}
		rec.ID = put.Item["i"].S
		a.record = &rec
	}
	return a
}

// enter enters what AWS accepts.
func (l *line) enter(a ask, aws http.Handler) http.Handler {
	if a.record == nil {
		return aws
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := httptest.NewRecorder()
		aws.ServeHTTP(answer, r)
		if answer.Code == http.StatusOK {
			l.ledger.add(*a.record)
		}
		maps.Copy(w.Header(), answer.Header())
		w.WriteHeader(answer.Code)
		w.Write(answer.Body.Bytes())
	})
}

func (l *line) handler(a ask, aws http.Handler) http.Handler {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fault != nil {
		if h := l.fault(a, aws); h != nil {
			return h
		}
	}
	return aws
}

// set makes f befall every request from now on; nil: none.
func (l *line) set(f fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fault = f
}

// away is AWS that cannot be reached.
func away(ask, http.Handler) http.Handler {
	return http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
}

// A ledger is the history of promises, as AWS accepted it.
type ledger struct {
	mu    sync.Mutex
	forms map[string][]promise.Record
}

func newLedger() *ledger { return &ledger{forms: map[string][]promise.Record{}} }

func (l *ledger) add(rec promise.Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forms[rec.ID] = append(l.forms[rec.ID], rec)
}

// all returns all that was ever stored under each id, oldest first: answers may
// have overtaken one another, but each revision is accepted once.
func (l *ledger) all() map[string][]promise.Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	past := map[string][]promise.Record{}
	for id, forms := range l.forms {
		past[id] = slices.SortedFunc(slices.Values(forms), func(a, b promise.Record) int { return int(a.Rev) - int(b.Rev) })
	}
	return past
}
