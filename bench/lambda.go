package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"

	"modulate/internal/api"
	"modulate/internal/lambdatest"
)

// functions are the Lambda functions as they are deployed.
var functions = []string{"functions/router", "functions/status", "functions/sweeper"}

// lambda measures the router's real program under a Runtime API of our own,
// against an AWS that answers at once: what a warm one takes for a submission,
// what the first one of a cold one takes from the start of its process on, and
// how large each function is to be sent to Lambda.
func lambda(ctx context.Context, w io.Writer) error {
	dir, err := os.MkdirTemp("", "modulate-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	aws, err := startStub()
	if err != nil {
		return err
	}
	defer aws.close()
	program, err := lambdatest.Build(ctx, dir, functions[0], "")
	if err != nil {
		return err
	}
	router := func() *lambdatest.Function {
		return lambdatest.New(lambdatest.Config{Bootstrap: program, Env: aws.env()})
	}
	if err := warm(w, aws, router()); err != nil {
		return fmt.Errorf("warm: %w", err)
	}
	if err := cold(w, router); err != nil {
		return fmt.Errorf("cold: %w", err)
	}
	for _, f := range functions {
		program, err := lambdatest.Build(ctx, dir, f, "arm64")
		if err != nil {
			return err
		}
		size, err := lambdatest.ZipSize(program)
		if err != nil {
			return err
		}
		figure{name: "zip of " + filepath.Base(f) + ", arm64", unit: "MB", value: float64(size) / 1e6, floor: "-", reach: 8}.print(w)
	}
	return nil
}

// warm measures submissions to a router that has had some, and what its calls
// of AWS cost by themselves.
func warm(w io.Writer, aws *stub, router *lambdatest.Function) error {
	defer router.Close()
	const calls = 500
	n := 0
	submit := func() error { n++; return submitEvent(router, n) }
	if _, err := oneByOne(calls, submit); err != nil {
		return err
	}
	v, err := each(func() ([]float64, error) {
		before := aws.asked.Load()
		took, err := oneByOne(calls, submit)
		if err != nil {
			return nil, err
		}
		asked := int(aws.asked.Load()-before) / calls
		floor, err := oneByOne(calls, func() error { return aws.call(asked) })
		if err != nil {
			return nil, err
		}
		return []float64{median(took), median(floor), float64(asked)}, nil
	})
	if err != nil {
		return err
	}
	figure{
		name: "router, warm submission, p50", unit: "ms", value: median(v[0]),
		floor: fmt.Sprintf("its %.0f calls of the stub %s", median(v[2]), number(median(v[1]))), reach: 2,
	}.print(w)
	return nil
}

// cold measures the first submission to a router that is not started yet.
func cold(w io.Writer, router func() *lambdatest.Function) error {
	took, err := oneByOne(20, func() error {
		f := router()
		defer f.Close()
		return submitEvent(f, 0)
	})
	if err != nil {
		return err
	}
	figure{name: "router, cold start and first submission, p50", unit: "ms", value: median(took), floor: "-", reach: 100}.print(w)
	return nil
}

// submitEvent submits once, as a gateway would.
func submitEvent(f *lambdatest.Function, n int) error {
	source := noopSource
	body, err := json.Marshal(api.Submit{ID: "b" + strconv.Itoa(n), Machine: "cpu", Script: api.Script{Name: "bench.py", Source: &source}})
	if err != nil {
		return err
	}
	event, err := json.Marshal(map[string]any{
		"version": "2.0", "rawPath": "/v1/promises", "headers": map[string]string{"content-type": "application/json", "host": "bench"},
		"requestContext": map[string]any{
			"stage": "$default", "http": map[string]string{"method": http.MethodPost},
			"authorizer": map[string]any{"iam": map[string]string{"userArn": "arn:aws:sts::000000000000:assumed-role/bench/session"}},
		},
		"body": string(body),
	})
	if err != nil {
		return err
	}
	answer, err := f.Invoke(event)
	if err == nil && !bytes.HasPrefix(answer, []byte(`{"statusCode":201`)) {
		err = fmt.Errorf("the router answered %s", answer)
	}
	return err
}
