package main

import (
	"context"
	"errors"
	"io/fs"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"modulate/internal/account"
	"modulate/internal/api"
	"modulate/internal/local"
	"modulate/workerd/host"
)

// A service is where the promises of this command are.
type service struct {
	client *api.Client
	link   *link        // nil in this process
	socket bool         // a script's own: ids count there
	local  *local.Local // the store, where no server is; else nil
	here   *here        // what runs promises, once waiting has begun on local
	aws    bool         // each request to it is paid for, and nobody starts a worker there by hand
	app    *app
}

// connect finds the service: a server or a stage that is named, the worker of
// the script that this command is part of, a dev that runs on the folder, or the folder's
// store itself, which is made if it is not there.
func (a *app) connect(ctx context.Context) (*service, error) {
	svc, err := a.remote(ctx)
	if svc != nil || err != nil {
		return svc, err
	}
	l, err := local.Open(ctx, local.Config{Dir: a.storeDir()})
	if err != nil {
		return nil, err
	}
	return &service{app: a, local: l, client: api.NewClient("http://localhost", api.HandlerTransport(l.Handler()))}, nil
}

// errNoStore: there is neither a server nor a store to look into.
var errNoStore = errors.New("there is no store and no server")

// look is connect for a command that only looks: it makes no store. errNoStore.
func (a *app) look(ctx context.Context) (*service, error) {
	svc, err := a.remote(ctx)
	if svc != nil || err != nil {
		return svc, err
	}
	if _, err := os.Stat(filepath.Join(a.storeDir(), "store.db")); errors.Is(err, fs.ErrNotExist) {
		return nil, errNoStore
	}
	return a.connect(ctx)
}

// lookFor is look for a command that is given ids, which are unknown where
// there is nothing.
func (a *app) lookFor(ctx context.Context, id string) (*service, error) {
	svc, err := a.look(ctx)
	if errors.Is(err, errNoStore) {
		f := &failure{code: exitUnknown, err: errors.New("there is no promise " + id + ": nothing was ever submitted to " + a.storeDir())}
		return nil, f.hint("name its server with --url, or go to its folder")
	}
	return svc, err
}

// remote returns the service of another process, or nil where there is none.
func (a *app) remote(ctx context.Context) (*service, error) {
	stage, err := a.whichStage()
	if err != nil {
		return nil, err
	}
	if stage != "" {
		return a.onStage(ctx, stage)
	}
	base := a.url
	if base == "" {
		base, _ = a.getenv("MODULATE_URL")
	}
	if base != "" {
		u, err := url.Parse(base)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return nil, badInput("--url %q: want a URL such as http://127.0.0.1:8700", base)
		}
		if _, aws := account.TargetOf(u.Host); aws {
			return a.onAWS(ctx, base)
		}
		return a.over(&link{next: newTransport(), address: base}, base), nil
	}
	if path, _ := a.getenv("MODULATE_SOCKET"); path != "" {
		svc := a.over(&link{next: api.UnixTransport(path), address: path}, "http://localhost")
		svc.socket = true
		return svc, nil
	}
	host := a.findDev()
	if host == "" {
		return nil, nil
	}
	return a.over(&link{next: newTransport(), address: "http://" + host, find: a.findDev, host: host}, "http://"+host), nil
}

// findDev returns the host and port of the dev that serves the folder; "":
// none does. What its lock says of one that is gone is not believed.
func (a *app) findDev() string {
	base, found := local.FindServer(a.storeDir())
	if !found {
		return ""
	}
	u, err := url.Parse(base)
	if err != nil {
		return ""
	}
	conn, err := net.DialTimeout("tcp", u.Host, time.Second)
	if err != nil {
		return ""
	}
	conn.Close()
	return u.Host
}

func newTransport() http.RoundTripper {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConnsPerHost = 16
	return t
}

func (a *app) over(l *link, base string) *service {
	return &service{app: a, link: l, client: api.NewClient(base, l)}
}

// close ends the connection, or closes the store.
func (s *service) close() {
	s.client.Close()
	var err error
	if s.here != nil {
		err = s.here.close()
	}
	if s.local != nil {
		err = errors.Join(err, s.local.Close())
	}
	if err != nil {
		s.app.line("closing the store: " + err.Error())
	}
}

// wait prepares to wait: for a server however long it is away, or, where there
// is none, by running promises here. The context ends where no server is ever
// reached; done must be called.
func (s *service) wait(ctx context.Context) (waiting context.Context, done context.CancelFunc, err error) {
	waiting, lost := context.WithCancelCause(ctx)
	if s.local != nil {
		s.here, err = newHere(s.local, s.app)
	} else {
		s.client.Patience = math.MaxInt64
		s.link.watch(lost)
	}
	return waiting, func() { lost(nil) }, err
}

// trouble says why there is no answer; "" where there is one.
func (s *service) trouble() string {
	if s.link == nil {
		return ""
	}
	return s.link.trouble()
}

// worker is the name of the worker in this process; "": a server has its own.
func (s *service) worker() string {
	if s.here == nil {
		return ""
	}
	return s.here.name
}

// run, resume and finish are those of here; on a server they have nothing to
// do.
func (s *service) run(id string) {
	if s.here != nil {
		s.here.run(id)
	}
}

func (s *service) resume(ctx context.Context, id string) error {
	if s.here == nil {
		return nil
	}
	return s.here.resume(ctx, id)
}

// abandon lets what runs here be killed and given back, where nobody sees its
// output any more.
func (s *service) abandon() {
	if s.here != nil {
		s.here.stop()
	}
}

func (s *service) finish(ctx context.Context) (broken []string, err error) {
	if s.here == nil {
		return nil, nil
	}
	return s.here.finish(ctx)
}

// machine reads the description of this machine; without one it is zero.
func (a *app) machine() (host.Machine, error) {
	file := a.file
	if file == "" {
		file, _ = a.getenv("MODULATE_CONFIG")
	}
	m, err := host.Read(file)
	if err != nil {
		return m, badInput("%w", err)
	}
	return m, nil
}

// storeDir is the folder of the store.
func (a *app) storeDir() string {
	if a.dir != "" {
		return a.dir
	}
	if dir, _ := a.getenv("MODULATE_DIR"); dir != "" {
		return dir
	}
	return ".modulate"
}
