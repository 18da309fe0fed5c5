package notice

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"modulate/internal/promise"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// An instance is the metadata of one. It gives nothing without a token.
type instance struct {
	mu     sync.Mutex
	values map[string]string // by path
	tokens int
	asked  chan struct{} // one for each look at the state
}

func newInstance() *instance {
	return &instance{values: map[string]string{}, asked: make(chan struct{}, 100)}
}

func (i *instance) set(path, value string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.values[path] = value
}

// forget makes the tokens void that were given.
func (i *instance) forget() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.tokens += 100
}

func (i *instance) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case r.Method == http.MethodPut && r.URL.Path == tokenPath && r.Header.Get("X-Aws-Ec2-Metadata-Token-Ttl-Seconds") == "21600":
		i.tokens++
		fmt.Fprintf(w, "token-%d\n", i.tokens)
	case r.Method != http.MethodGet || r.Header.Get("X-Forwarded-For") != "":
		w.WriteHeader(http.StatusForbidden)
	case r.Header.Get("X-Aws-Ec2-Metadata-Token") != fmt.Sprintf("token-%d", i.tokens):
		w.WriteHeader(http.StatusUnauthorized)
	default:
		if value, ok := i.values[r.URL.Path]; ok {
			fmt.Fprintln(w, value)
		} else {
			w.WriteHeader(http.StatusNotFound)
		}
		if r.URL.Path == statePath {
			i.asked <- struct{}{}
		}
	}
}

// watch runs a Watcher over the instance, and returns what it hears.
func watch(t *testing.T, w *Watcher) <-chan Notice {
	t.Helper()
	heard := make(chan Notice, 10)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.Run(ctx, func(n Notice) { heard <- n })
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return heard
}

const action = `{"action": "terminate", "time": "2026-11-28T08:22:00Z"}`

func TestNotices(t *testing.T) {
	t.Parallel()
	i := newInstance()
	srv := httptest.NewServer(i)
	defer srv.Close()
	i.set(statePath, "InService")
	heard := watch(t, &Watcher{Endpoint: srv.URL, Every: 10 * time.Millisecond})
	<-i.asked
	if len(heard) > 0 {
		t.Fatalf("in service it hears %v", <-heard)
	}
	i.forget() // its token is of no use any more
	i.set(spotPath, action)
	n := <-heard
	if n.Cause != promise.CauseSpot || !n.By.Equal(time.Date(2026, 11, 28, 8, 22, 0, 0, time.UTC)) || !strings.Contains(n.What, "terminate") {
		t.Errorf("heard %+v", n)
	}
	i.set(statePath, "Terminated")
	if n := <-heard; n.Cause != promise.CauseDrained || !n.By.IsZero() {
		t.Errorf("heard %+v", n)
	}
	for len(i.asked) > 0 {
		<-i.asked
	}
	<-i.asked // once more
	if len(heard) > 0 {
		t.Errorf("it hears of %v again", <-heard)
	}
}

func TestAsk(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		values map[string]string
		want   string // the causes, or what the error says
	}{
		"nothing":        {nil, "[]"},
		"no group":       {map[string]string{spotPath: action}, "[spot]"},
		"ending":         {map[string]string{statePath: "Terminated"}, "[drained]"},
		"warm":           {map[string]string{statePath: "Warmed:Stopped"}, "[]"},
		"both":           {map[string]string{spotPath: action, statePath: "Terminated"}, "[spot drained]"},
		"what is not it": {map[string]string{spotPath: "<html>"}, "reading /latest/meta-data/spot/instance-action"},
	} {
		i := newInstance()
		for path, value := range c.values {
			i.set(path, value)
		}
		srv := httptest.NewServer(i)
		found, err := (&Watcher{Endpoint: srv.URL}).Ask(t.Context())
		causes := []promise.Cause{}
		for _, n := range found {
			causes = append(causes, n.Cause)
		}
		if got := fmt.Sprint(causes); err == nil && got != c.want || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %s, %v; want %s", name, got, err, c.want)
		}
		srv.Close()
	}
}

func TestNoMetadata(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.NotFoundHandler())
	defer srv.Close()
	w := &Watcher{Endpoint: srv.URL}
	if found, err := w.Ask(t.Context()); err == nil || len(found) > 0 {
		t.Errorf("without IMDSv2: %v, %v", found, err)
	}
	srv.Close()
	if _, err := w.Ask(t.Context()); err == nil {
		t.Error("without an answer there is no error")
	}
}

// TestTheAddress asks at the real address, in a network namespace of its own
// that has nothing but this test's server at it.
func TestTheAddress(t *testing.T) {
	if os.Getenv("MODULATE_TEST_NAMESPACE") == "1" {
		askAtTheAddress(t)
		return
	}
	for _, name := range []string{"unshare", "ip"} {
		if _, err := exec.LookPath(name); err != nil {
			if os.Getenv("CI") == "1" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	flags := "-n"
	if os.Geteuid() != 0 {
		flags = "-rn"
	}
	cmd := exec.CommandContext(t.Context(), "unshare", flags, "sh", "-ec",
		`ip link set lo up; ip addr add 169.254.169.254/32 dev lo; exec "$0" -test.run '^TestTheAddress$' -test.v`, self)
	cmd.Env = append(os.Environ(), "MODULATE_TEST_NAMESPACE=1", "HTTP_PROXY=http://127.0.0.1:1", "http_proxy=http://127.0.0.1:1")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestTheAddress") {
		t.Errorf("in its own namespace: %v\n%s", err, out)
	}
}

func askAtTheAddress(t *testing.T) {
	l, err := net.Listen("tcp", strings.TrimPrefix(Endpoint, "http://")+":80")
	if err != nil {
		t.Fatal(err)
	}
	i := newInstance()
	srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: i}}
	srv.Start()
	defer srv.Close()
	i.set(spotPath, action)
	if n := <-watch(t, &Watcher{}); n.Cause != promise.CauseSpot {
		t.Errorf("heard %+v", n)
	}
}
