package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"modulate/internal/account"
	"modulate/internal/cloud"
	"modulate/internal/promise"
	"modulate/internal/spool"
	"modulate/internal/store"
)

// checkTime is how long a worker may take to find out whether all is there.
const checkTime = time.Minute

// openStage opens a stage of the AWS account, if all of it is there that a
// worker needs, and this machine's clock is right. *account.Trouble.
func (d daemon) openStage(ctx context.Context) (*site, error) {
	dir, err := d.spoolDir(os.Geteuid(), d.getenv)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errInput, err)
	}
	a, c, err := d.openAccount(ctx)
	if err != nil {
		return nil, err
	}
	s := &site{
		name: "stage " + d.Stage + " in " + a.Config.Region, engine: c.Engine, roster: c.Store, heard: c.Store, lease: cloud.Lease, logGap: cloud.LogGap, announceGap: store.PresenceEvery,
		spool: func(worker, machine string) (*spool.Spool, error) {
			return spool.Open(filepath.Join(dir, c.Bucket), worker, machine) // no two stages have one bucket
		},
		host:  func() hostReport { return clockReport(a) },
		close: func() error { return nil },
	}
	if d.URL == "" {
		d.log.Warn("scripts cannot submit others: there is no --url (MODULATE_URL) of the stage's API")
		return s, nil
	}
	base, err := url.Parse(d.URL)
	if err != nil {
		return nil, fmt.Errorf("%w: --url: %w", errInput, err)
	}
	s.api = newRouter(base, a.Sign(http.DefaultTransport, account.Gateway(base.Host)), d.log)
	return s, nil
}

// openAccount opens the account and its stage, if all of it is there.
func (d daemon) openAccount(ctx context.Context) (*account.Account, *cloud.Cloud, error) {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	a, err := account.Open(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := a.Check(ctx); err != nil {
		return nil, nil, err
	}
	c, err := cloud.Open(ctx, cloud.Config{Stage: d.Stage, Bucket: d.Bucket, AWS: a.Config, Log: d.log})
	if err == nil {
		err = c.Check(ctx, d.Machine)
	}
	if skewed := a.SkewTrouble(promise.Skew); skewed != nil { // AWS may have refused for that
		return nil, nil, skewed
	}
	switch {
	case cloud.Throttled(err): // it is there, and the worker bears with it
		d.log.Warn("AWS has no capacity left for now; starting all the same", "error", err)
	case err != nil:
		return nil, nil, a.Explain(err)
	}
	return a, c, nil
}

// clockReport is red while the clock is wrong: leases are kept by it.
func clockReport(a *account.Account) (r hostReport) {
	r.skew, _ = a.Clock.Skew()
	if err := a.SkewTrouble(promise.Skew); err != nil {
		r.troubles = []string{err.Error()}
	}
	return r
}
