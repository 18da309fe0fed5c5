// Command router is the Lambda function that writes: it takes submissions,
// cancels, hands out places for uploads (package dispatch), and serves programs
// with a Resonate SDK (package protocol).
//
// Environment: MODULATE_STAGE; MODULATE_BUCKET and MODULATE_TABLE where they do
// not have the stage's names; MODULATE_OWNER=local where nobody is told apart.
package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/aws/aws-lambda-go/lambda"

	"modulate/functions/router/dispatch"
	"modulate/functions/router/protocol"
	"modulate/internal/cloud"
	"modulate/internal/lambdahttp"
)

func main() {
	if err := run(context.Background(), os.Getenv, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// run serves events until the process is ended.
func run(ctx context.Context, getenv func(string) string, stdout io.Writer) error {
	log := lambdahttp.NewLog(stdout)
	c, err := cloud.OpenFunction(ctx, getenv, log)
	if err != nil {
		return err
	}
	owner, err := lambdahttp.OwnerOf(getenv("MODULATE_OWNER"))
	if err != nil {
		return err
	}
	submissions := dispatch.New(dispatch.Config{
		Engine: c.Engine, Roster: c.Store, Owner: owner, Lease: cloud.Lease, MinLease: cloud.MinLease, Log: log,
	})
	door := protocol.New(protocol.Config{Engine: c.Engine, Search: c.Store, Owner: owner, Log: log})
	lambda.StartWithOptions(lambdahttp.New(protocol.Join(door, submissions), log), lambda.WithContext(ctx))
	return nil
}
