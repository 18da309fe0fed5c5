// Command router is the Lambda function that writes: it takes submissions,
// cancels, and hands out places for uploads (package dispatch).
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
	lambda.StartWithOptions(lambdahttp.New(dispatch.New(dispatch.Config{
		Engine: c.Engine, Roster: c.Store, Owner: owner, Lease: cloud.Lease, MinLease: cloud.MinLease, Log: log,
	}), log), lambda.WithContext(ctx))
	return nil
}
