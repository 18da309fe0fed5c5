package resonate_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"modulate/internal/emulator"
	"modulate/internal/lambdatest"
)

// stage is one on emulated AWS, with the real router behind a gateway of AWS's
// and no sweeper: what comes late comes by a message. Programs reach it by the
// daemon's gateway, which can be killed.
type stage struct {
	*world
	name, bucket string
	api          string                  // the URL of its API, which takes only what is signed
	at           atomic.Pointer[url.URL] // where the daemon is
	daemon       *process
}

func newStage(t *testing.T, version string) *stage {
	t.Helper()
	s := &stage{world: newWorld(t, version)}
	endpoint := emulator.AWS(t)
	s.name, s.bucket = emulator.Stage(t, emulator.Config(t, endpoint), "gpu", "router", "features", "features-ts", "features-go")
	s.env = []string{
		"AWS_ENDPOINT_URL=" + endpoint, "AWS_REGION=us-east-1", "AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test", "AWS_PROFILE=",
		"AWS_EC2_METADATA_DISABLED=true", "AWS_CONFIG_FILE=" + os.DevNull, "AWS_SHARED_CREDENTIALS_FILE=" + os.DevNull,
	}
	log := &lambdatest.Log{}
	router := lambdatest.New(lambdatest.Config{
		Bootstrap: s.built("router", "bootstrap"), Environments: 4, Log: log,
		Env: append([]string{"MODULATE_STAGE=" + s.name, "MODULATE_BUCKET=" + s.bucket}, s.env...),
	})
	t.Cleanup(func() {
		router.Close()
		if t.Failed() {
			t.Logf("the router wrote:\n%s", log)
		}
	})
	api := httptest.NewServer(&lambdatest.Gateway{Write: router, Who: func(r *http.Request) string {
		if !strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 ") {
			return ""
		}
		return "arn:aws:sts::000000000000:assumed-role/worker/i-1"
	}})
	t.Cleanup(api.Close)
	s.api = api.URL
	front := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite:      func(r *httputil.ProxyRequest) { r.SetURL(s.at.Load()) },
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }, // nobody is there
		ErrorLog:     slog.NewLogLogger(slog.DiscardHandler, slog.LevelWarn),
	})
	t.Cleanup(front.Close)
	s.url = front.URL
	s.serve()
	return s
}

// serve starts the daemon, at a port of its own.
func (s *stage) serve() {
	s.t.Helper()
	s.daemon = s.start(s.built("workerd"), "--stage", s.name, "--bucket", s.bucket, "--url", s.api,
		"--machine", "gpu", "--gateway", "127.0.0.1:0", "--spool", filepath.Join(s.dir, "spool"))
	_, at, _ := strings.Cut(s.daemon.wait("gateway to stage "), " at ")
	u, err := url.Parse(at)
	if err != nil {
		s.t.Fatal(err)
	}
	s.at.Store(u)
}

// TestOnAWS: programs do on a stage what they do on dev, by the gateway's
// messages alone. A sleep ends by the delayed one, a killed worker's task comes
// back by the one that followed its lease.
func TestOnAWS(t *testing.T) {
	if testing.Short() {
		t.Skip("starts programs of the SDKs, and an emulator")
	}
	t.Parallel()
	for name, test := range map[string]func(s *stage){
		"instance killed": (*stage).instanceKilled,
		"gateway killed":  (*stage).gatewayKilled,
		"modes":           func(s *stage) { s.modes() },
		"kills":           func(s *stage) { s.kills() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(newStage(t, pythons[1]))
		})
	}
	for _, wf := range workflows(t) {
		t.Run(wf.name, func(t *testing.T) {
			t.Parallel()
			newStage(t, wf.python).features(wf)
		})
	}
}

// gatewayKilled: the gateway dies under a script, which goes on, and is not
// started again.
func (s *stage) gatewayKilled() {
	worker, end := s.begun("60")
	s.daemon.kill()
	s.serve()
	end()
	s.check(s.program("modulate.py", "--get", "waits").end(), "waited\n")
	if n := worker.count("started"); n != 1 {
		s.t.Errorf("the script was started %d times, though only the gateway died", n)
	}
}

// instanceKilled: the gateway and the worker die, and the next ones have the
// task once its lease is over, or 30 s later: its message may have been given to
// the dead one's last receive.
func (s *stage) instanceKilled() {
	worker, end := s.begun("3")
	s.daemon.kill()
	end() // of what the worker leaves behind
	worker.kill()
	s.serve()
	s.ready("worker.py", "--group", "gpu").wait("started")
	s.check(s.program("modulate.py", "--get", "waits").end(), "waited\n")
}

// begun returns a worker with so many seconds of a lease that has begun a
// script, and what lets the script end.
func (s *stage) begun(ttl string) (worker *process, end func()) {
	s.t.Helper()
	file := filepath.Join(s.dir, "end")
	waits := s.script(fmt.Sprintf("import os, time\nwhile not os.path.exists(%q): time.sleep(0.05)\nprint('waited')", file))
	worker = s.ready("worker.py", "--group", "gpu", "--ttl", ttl)
	s.program("modulate.py", "--script", waits, "--direct", "--id", "waits")
	worker.wait("started")
	return worker, func() {
		s.t.Helper()
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
}
