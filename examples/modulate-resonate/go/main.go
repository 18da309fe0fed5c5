// Command features is what features.py is, with the Go SDK:
//
//	RESONATE_URL=http://127.0.0.1:8700 features ID [--hold]
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	resonate "github.com/resonatehq/resonate-sdk-go"
	"github.com/resonatehq/resonate-sdk-go/httpnet"
)

func main() {
	if err := run(os.Args[1], len(os.Args) > 2); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run starts the workflow, or goes on with it, and prints what came of it.
func run(id string, hold bool) error {
	r, err := resonate.New(resonate.Config{
		Network: httpnet.NewHTTP(os.Getenv("RESONATE_URL"), httpnet.HTTPOptions{Group: "features-go"}),
		TTL:     3 * time.Second,
	})
	if err != nil {
		return err
	}
	defer r.Stop()

	noted := make(chan struct{})
	note := sync.OnceFunc(func() { close(noted) })
	if _, err := resonate.Register(r, "double", double); err != nil {
		return err
	}
	if _, err := resonate.Register(r, "note", func(*resonate.Context, struct{}) (string, error) {
		note()
		return "noted", nil
	}); err != nil {
		return err
	}
	if _, err := resonate.Register(r, "workflow", func(c *resonate.Context, n int) ([]any, error) {
		return workflow(c, n, hold)
	}); err != nil {
		return err
	}

	handle, err := r.RPC(context.Background(), id, "workflow", 10)
	if err != nil {
		return err
	}
	result, err := resonate.ResultOf[[]any](context.Background(), handle)
	if err != nil {
		return err
	}
	<-noted
	text, err := json.Marshal(result)
	if err != nil {
		return err
	}
	fmt.Println("result", string(text))
	return nil
}

func double(_ *resonate.Context, n int) (int, error) { return 2 * n, nil }

// held never ends: its process is to be killed.
func held(int) (int, error) {
	fmt.Println("held")
	select {}
}

func workflow(c *resonate.Context, n int, hold bool) ([]any, error) {
	step := any(double)
	if hold {
		step = held
	}
	if err := await(c.Run(step, n))(&n); err != nil {
		return nil, err
	}
	if err := await(c.RPC("double", n))(&n); err != nil {
		return nil, err
	}
	if err := await(c.Sleep(1200 * time.Millisecond))(nil); err != nil {
		return nil, err
	}
	if _, err := c.Detached("note", struct{}{}); err != nil {
		return nil, err
	}
	answer, err := c.Promise()
	if err != nil {
		return nil, err
	}
	fmt.Println("promise", answer.ID())
	var text string
	err = answer.Await(&text)
	return []any{n, text}, err
}

// await waits for the end of what has begun.
func await(f *resonate.Future, err error) func(into any) error {
	return func(into any) error {
		if err != nil {
			return err
		}
		return f.Await(into)
	}
}
