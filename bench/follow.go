package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"modulate/internal/api"
)

// The load of the figure: so many scripts at once, each of which prints so many
// lines a second, of so many bytes with their end, for so long; which is more
// than the head of a stream.
const (
	printers  = 4
	lineRate  = 1000
	lineBytes = 1000
	printTime = 12 * time.Second
)

// linesSource prints lines that begin with the time, in microseconds.
const linesSource = `import sys, time
rate, size, last = map(int, sys.argv[1:])
begin = time.monotonic()
for n in range(rate * last):
    time.sleep(max(0, begin + n / rate - time.monotonic()))
    sys.stdout.write(("%016d" % (time.time() * 1e6)).ljust(size - 1, "x") + "\n")
    sys.stdout.flush()
`

// followed measures how long after it was printed a line reaches a reader who
// follows, while every slot prints.
func followed(ctx context.Context, w io.Writer) error {
	dir, err := os.MkdirTemp("", "modulate-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	srv, err := startServer(ctx, "exec", dir, printers)
	if err != nil {
		return err
	}
	defer srv.stop()
	client := api.NewClient(srv.url, http.DefaultTransport)
	var mu sync.Mutex
	var late []float64
	var errs [printers]error
	var readers sync.WaitGroup
	for n := range printers {
		readers.Go(func() {
			var took []float64
			took, errs[n] = follow(ctx, client, fmt.Sprint("follow-", n))
			mu.Lock()
			defer mu.Unlock()
			late = append(late, took...)
		})
	}
	readers.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		return fmt.Errorf("log line to a reader: %w", err)
	}
	slices.Sort(late)
	seconds := int(printTime / time.Second)
	if want := printers * lineRate * seconds; len(late) != want {
		return fmt.Errorf("log line to a reader: %d lines came of %d", len(late), want)
	}
	figure{
		name: "log line to a reader, 4 x 1 MB/s, p99", unit: "ms", value: late[len(late)*99/100], reach: 1000,
		floor: fmt.Sprintf("p50 %s", number(median(late))),
	}.print(w)
	return nil
}

// follow submits a script that prints and reads its lines as the CLI does. It
// returns how many milliseconds each took.
func follow(ctx context.Context, client *api.Client, id string) (took []float64, err error) {
	source := linesSource
	seconds := int(printTime / time.Second)
	_, _, err = client.Submit(ctx, api.Submit{
		ID: id, Machine: "cpu", Script: api.Script{Name: "lines.py", Source: &source},
		Args: []string{strconv.Itoa(lineRate), strconv.Itoa(lineBytes), strconv.Itoa(seconds)},
	}, api.SubmitOptions{})
	if err != nil {
		return nil, err
	}
	var rest []byte
	for q := (api.LogQuery{Stream: "stdout", Attempt: 1, Wait: 10 * time.Second}); ; {
		page, err := client.Log(ctx, id, q)
		if err != nil {
			return nil, err
		}
		now := time.Now().UnixMicro()
		if page.Offset != q.Offset {
			return nil, fmt.Errorf("%s: %d bytes are missing at %d", id, page.Offset-q.Offset, q.Offset)
		}
		q.Offset = page.Next
		if page.End && len(page.Body) == 0 && len(rest) > 0 {
			return nil, fmt.Errorf("%s ends with %d bytes of a line", id, len(rest))
		}
		for rest = append(rest, page.Body...); len(rest) >= lineBytes; rest = rest[lineBytes:] {
			at, err := strconv.ParseInt(string(bytes.TrimLeft(rest[:16], "0")), 10, 64)
			if err != nil || rest[lineBytes-1] != '\n' {
				return nil, fmt.Errorf("%s: a line %q", id, rest[:lineBytes])
			}
			took = append(took, float64(now-at)/1000)
		}
		if page.End {
			return took, nil
		}
	}
}
