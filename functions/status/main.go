// Command status is the Lambda function that reads: promises, at once or when
// they have ended, lists, outputs and machines (package read).
//
// Environment: as of command router.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/aws/aws-lambda-go/lambda"

	"modulate/functions/status/read"
	"modulate/internal/cloud"
	"modulate/internal/lambdahttp"
)

// pollEvery is how often a client is to ask whose wait is over. A second of
// waiting costs more than a poll a second would, and a poll every 5 s a sixth.
// logPoll is how often the blobs are looked at for the output that somebody
// follows: a look asks the table and S3 for one chunk.
const (
	pollEvery = 5 * time.Second
	logPoll   = time.Second
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
	lambda.StartWithOptions(lambdahttp.New(read.New(read.Config{
		Engine: c.Engine, Roster: c.Store, Audience: c.Store, Owner: owner, RetryAfter: pollEvery, LogPoll: logPoll, Log: log,
	}), log), lambda.WithContext(ctx))
	return nil
}
