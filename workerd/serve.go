package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"modulate/functions/router/protocol"
	"modulate/internal/account"
	"modulate/internal/api"
	"modulate/internal/delivery"
	"modulate/workerd/gateway"
)

// serveGateway serves programs with a Resonate SDK on this machine until ctx
// ends or a signal comes, and runs no script.
func (d daemon) serveGateway(ctx context.Context) (err error) {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	a, c, err := d.openAccount(ctx)
	if err != nil {
		return err
	}
	base, err := url.Parse(d.URL)
	if err != nil {
		return fmt.Errorf("%w: --url: %w", errInput, err)
	}
	dir, err := d.spoolDir(os.Geteuid(), d.getenv)
	if err != nil {
		return fmt.Errorf("%w: %w", errInput, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the directory of what is held: %w", err)
	}
	listener, err := net.Listen("tcp", d.Gateway)
	if err != nil {
		return fmt.Errorf("--gateway: %w", err)
	}
	defer listener.Close()
	at := "http://" + listener.Addr().String()
	hub, err := delivery.New(delivery.Config{Engine: c.Engine, URL: at, Held: filepath.Join(dir, "held-"+d.Stage+"-"+d.Machine), Log: d.log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, hub.Close()) }()
	server := &http.Server{
		Handler: api.Loopback(gateway.New(gateway.Config{
			URL: base.String(), Signed: a.Sign(http.DefaultTransport, account.Gateway(base.Host)), Hub: hub,
			Rest: protocol.New(protocol.Config{Engine: c.Engine, Search: c.Store, Log: d.log}), Log: d.log,
		})),
		ReadHeaderTimeout: 10 * time.Second,
	}
	context.AfterFunc(ctx, func() { server.Close() })
	fmt.Fprintf(d.stdout, "gateway to stage %s in %s for %s at %s\n", d.Stage, a.Config.Region, d.Machine, at)
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("answering at %s: %w", at, err)
	}
	return nil
}
