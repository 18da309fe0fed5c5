package resonate_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"modulate/internal/emulator"
	"modulate/internal/lambdatest"
)

// newStage is a world whose server is the daemon's gateway to a stage on
// emulated AWS, with the real router behind a gateway of AWS's and no sweeper:
// what comes late comes by a message.
func newStage(t *testing.T, version string) *world {
	t.Helper()
	w := newWorld(t, version)
	endpoint := emulator.AWS(t)
	name, bucket := emulator.Stage(t, emulator.Config(t, endpoint), "gpu", "router", "features", "features-ts", "features-go")
	w.env = []string{
		"AWS_ENDPOINT_URL=" + endpoint, "AWS_REGION=us-east-1", "AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test", "AWS_PROFILE=",
		"AWS_EC2_METADATA_DISABLED=true", "AWS_CONFIG_FILE=" + os.DevNull, "AWS_SHARED_CREDENTIALS_FILE=" + os.DevNull,
	}
	log := &lambdatest.Log{}
	router := lambdatest.New(lambdatest.Config{
		Bootstrap: w.built("router", "bootstrap"), Environments: 4, Log: log,
		Env: append([]string{"MODULATE_STAGE=" + name, "MODULATE_BUCKET=" + bucket}, w.env...),
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
	w.serve = func() {
		w.listen("gateway to stage ", "workerd", "--stage", name, "--bucket", bucket, "--url", api.URL,
			"--machine", "gpu", "--gateway", "127.0.0.1:0", "--spool", filepath.Join(w.dir, "spool"))
	}
	w.serve()
	return w
}

// TestOnAWS: programs do on a stage what they do on dev, by the gateway's
// messages alone. A sleep ends by the delayed one, a killed worker's task comes
// back by the one that followed its lease.
func TestOnAWS(t *testing.T) {
	if testing.Short() {
		t.Skip("starts programs of the SDKs, and an emulator")
	}
	t.Parallel()
	for name, test := range map[string]func(w *world){
		"instance killed": (*world).instanceKilled,
		"gateway killed":  (*world).serverKilled,
		"modes":           (*world).modes,
		"kills":           (*world).kills,
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

// instanceKilled: the gateway and the worker die, and the next ones have the
// task once its lease is over, or 10 s later: its message may have been given to
// the dead one's last receive.
func (w *world) instanceKilled() {
	worker, end := w.begun("3")
	w.server.kill()
	end() // of what the worker leaves behind
	worker.kill()
	w.serve()
	w.ready("worker.py", "--group", "gpu").wait("started")
	w.check(w.program("modulate.py", "--get", "waits").end(), "waited\n")
}
