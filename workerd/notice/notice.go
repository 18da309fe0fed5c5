// Package notice hears from AWS that this instance is to go away: because the
// spot market takes it back, two minutes ahead, or because its Auto Scaling
// group ends it. Both stand in the instance's metadata, which is asked every
// five seconds (AWS's advice: EC2 User Guide, "Spot Instance interruption
// notices"; EC2 Auto Scaling User Guide, "Retrieve the target lifecycle state
// through instance metadata"). It calls no API of AWS, and needs no permission.
package notice

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"modulate/internal/promise"
)

// A Notice says that this instance is to go away.
type Notice struct {
	Cause promise.Cause // spot or drained
	By    time.Time     // zero: it is not told
	What  string        // for people
}

// Endpoint is where an instance's metadata is.
const Endpoint = "http://169.254.169.254"

// The paths of the metadata (IMDSv2).
const (
	tokenPath = "/latest/api/token"
	spotPath  = "/latest/meta-data/spot/instance-action"
	statePath = "/latest/meta-data/autoscaling/target-lifecycle-state"
)

const (
	every     = 5 * time.Second
	tokenLife = 6 * time.Hour // the most that is given
	callTime  = 2 * time.Second
	bodyMost  = 4 << 10
)

// A Watcher asks for notices. One goroutine uses it at a time.
type Watcher struct {
	Endpoint string        // "": Endpoint
	Every    time.Duration // between two looks; 0: 5 s
	Log      *slog.Logger  // nil: discarded

	token string
	until time.Time // the token is good
}

// Run tells heard of each notice, once, until ctx ends.
func (w *Watcher) Run(ctx context.Context, heard func(Notice)) {
	log := cmp.Or(w.Log, slog.New(slog.DiscardHandler))
	told := map[Notice]bool{}
	tick := time.NewTicker(cmp.Or(w.Every, every))
	defer tick.Stop()
	for failed := false; ; {
		notices, err := w.Ask(ctx)
		if err != nil && !failed && ctx.Err() == nil {
			log.Warn("the instance's metadata does not answer: if this instance is to go away, nobody hears of it", "error", err)
		}
		if failed && err == nil {
			log.Info("the instance's metadata answers again")
		}
		failed = err != nil
		for _, n := range notices {
			if !told[n] {
				told[n] = true
				heard(n)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Ask returns the notices that stand at this moment.
func (w *Watcher) Ask(ctx context.Context) (found []Notice, err error) {
	// No proxy may stand between: it would be asked about another machine.
	client := &http.Client{Transport: &http.Transport{}, Timeout: callTime}
	defer client.CloseIdleConnections()
	m := metadata{Watcher: w, http: client, base: strings.TrimSuffix(cmp.Or(w.Endpoint, Endpoint), "/")}
	spot, err := m.get(ctx, spotPath)
	if err != nil {
		return nil, err
	}
	if spot != "" {
		n, err := interruption(spot)
		if err != nil {
			return nil, err
		}
		found = append(found, n)
	}
	state, err := m.get(ctx, statePath)
	if err == nil && state == "Terminated" {
		found = append(found, Notice{Cause: promise.CauseDrained, What: "its Auto Scaling group ends this instance"})
	}
	return found, err
}

// metadata is an instance's, during one look.
type metadata struct {
	*Watcher
	base string
	http *http.Client
}

// interruption reads spot/instance-action.
func interruption(body string) (Notice, error) {
	var action struct {
		Action string    `json:"action"` // terminate, stop or hibernate
		Time   time.Time `json:"time"`
	}
	if err := json.Unmarshal([]byte(body), &action); err != nil {
		return Notice{}, fmt.Errorf("reading %s: %w", spotPath, err)
	}
	return Notice{
		Cause: promise.CauseSpot, By: action.Time,
		What: fmt.Sprintf("the spot market takes this instance back: %s", action.Action),
	}, nil
}

// get returns a value; "": there is none.
func (m *metadata) get(ctx context.Context, path string) (string, error) {
	if time.Until(m.until) <= 0 {
		if err := m.renew(ctx); err != nil {
			return "", err
		}
	}
	body, status, err := m.call(ctx, http.MethodGet, path, "X-aws-ec2-metadata-token", m.token)
	switch {
	case err != nil:
		return "", err
	case status == http.StatusNotFound:
		return "", nil
	case status == http.StatusUnauthorized:
		m.until = time.Time{} // the next call asks for another token
		fallthrough
	case status != http.StatusOK:
		return "", fmt.Errorf("asking the instance's metadata for %s: status %d", path, status)
	}
	return strings.TrimSpace(body), nil
}

// renew asks for a token.
func (m *metadata) renew(ctx context.Context) error {
	life := fmt.Sprint(int(tokenLife.Seconds()))
	token, status, err := m.call(ctx, http.MethodPut, tokenPath, "X-aws-ec2-metadata-token-ttl-seconds", life)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("asking the instance's metadata for a token: status %d", status)
	}
	if err != nil {
		return err
	}
	m.token, m.until = strings.TrimSpace(token), time.Now().Add(tokenLife-time.Minute)
	return nil
}

func (m *metadata) call(ctx context.Context, method, path, header, value string) (body string, status int, err error) {
	req, err := http.NewRequestWithContext(ctx, method, m.base+path, nil)
	if err != nil {
		return "", 0, err
	}
	req.Header.Set(header, value)
	resp, err := m.http.Do(req)
	if err != nil {
		return "", 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, bodyMost))
	return string(text), resp.StatusCode, err
}
