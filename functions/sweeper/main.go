// Command sweeper is the Lambda function that lets time pass: invoked once a
// minute, with a timeout of 75 s, it makes one pass (package sweep). Any number
// at once do no harm.
//
// Environment: as of command router, but for MODULATE_OWNER.
package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/aws/aws-lambda-go/lambda"

	"modulate/functions/sweeper/sweep"
	"modulate/internal/cloud"
	"modulate/internal/lambdahttp"
)

func main() {
	if err := run(context.Background(), os.Getenv, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// run makes a pass for each event until the process is ended. One that was not
// whole is an error, for the alarm to count; what it left stays due.
func run(ctx context.Context, getenv func(string) string, stdout io.Writer) error {
	log := lambdahttp.NewLog(stdout)
	c, err := cloud.OpenFunction(ctx, getenv, log)
	if err != nil {
		return err
	}
	lambda.StartWithOptions(sweep.New(sweep.Config{Engine: c.Engine, Log: log}).Pass, lambda.WithContext(ctx))
	return nil
}
