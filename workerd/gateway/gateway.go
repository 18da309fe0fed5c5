// Package gateway is a stage on AWS as a program with a Resonate SDK reaches it:
// a server on the loopback address beside it. SDKs cannot sign, so requests go
// on to the stage signed with this machine's credentials; Lambda cannot push, so
// tasks and ends come from here (package delivery), out of the machine's queue
// for other programs.
package gateway

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"math"
	"net/http"
	"strings"
	"time"

	"modulate/functions/router/protocol"
	"modulate/internal/delivery"
	"modulate/internal/promise"
)

// maxBody is the most that a request or an answer may have, in bytes.
const maxBody = 8 << 20

// Config is what the handler needs. All of it is required.
type Config struct {
	URL    string            // of the stage's API; requests go to its [protocol.WorkPath]
	Signed http.RoundTripper // carries what goes there
	Hub    *delivery.Hub
	Rest   http.Handler // answers what is no request of the protocol
	Log    *slog.Logger
}

// gateway is the handler.
type gateway struct {
	Config
	client http.Client
}

// New returns the handler.
func New(c Config) http.Handler {
	g := &gateway{Config: c, client: http.Client{Transport: c.Signed, Timeout: 35 * time.Second}} // a Lambda function has 30 s
	mux := http.NewServeMux()
	mux.HandleFunc("POST /{$}", g.forward)
	mux.HandleFunc("POST "+protocol.WorkPath, g.forward)
	mux.Handle("GET /poll/{group}/{pid}", c.Hub)
	mux.Handle("/", c.Rest)
	return mux
}

// envelope is a request or an answer, as far as it matters here.
type envelope struct {
	Kind string          `json:"kind"`
	Head json.RawMessage `json:"head"`
	Data json.RawMessage `json:"data"`
}

// about is what a request or an answer may be about.
type about struct {
	ID      string     `json:"id"`
	Version uint64     `json:"version"`
	PID     string     `json:"pid"`
	Awaited string     `json:"awaited"`
	Address string     `json:"address"`
	Tasks   []struct{} `json:"tasks"`
	Task    struct {
		ID      string
		State   string
		Version uint64
		PID     string
		TTL     int64
	} `json:"task"`
}

// forward sends a request on, and notes what came of it.
func (g *gateway) forward(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		http.Error(w, "the request cannot be read", http.StatusBadRequest)
		return
	}
	var env envelope
	var of about
	if json.Unmarshal(body, &env) == nil { // else the stage says what is wrong
		json.Unmarshal(env.Data, &of)
	}
	body = g.before(env, of, body)
	req, err := http.NewRequestWithContext(r.Context(), http.MethodPost, strings.TrimSuffix(g.URL, "/")+protocol.WorkPath, bytes.NewReader(body))
	if err != nil {
		http.Error(w, "the stage's URL is none", http.StatusInternalServerError)
		return
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := g.client.Do(req)
	if err != nil {
		g.Log.WarnContext(r.Context(), "the stage does not answer", "error", err)
		http.Error(w, "the stage does not answer", http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		http.Error(w, "the stage's answer broke off", http.StatusBadGateway)
		return
	}
	if resp.StatusCode == http.StatusOK {
		g.after(env.Kind, of, answer)
	}
	w.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
	w.WriteHeader(resp.StatusCode)
	w.Write(answer) // who went away asks again
}

// before notes who is to hear of an end, before it can come, and names the tasks
// of a heartbeat that names none.
func (g *gateway) before(env envelope, of about, body []byte) []byte {
	switch env.Kind {
	case "promise.register_listener":
		if a, ok := promise.ParseAddress(of.Address); ok && of.Awaited != "" {
			g.Hub.Listening(promise.EncodeID(of.Awaited), a)
		}
	case "task.heartbeat":
		if len(of.Tasks) > 0 {
			return body
		}
		tasks := []map[string]any{}
		for _, held := range g.Hub.Held(of.PID) {
			tasks = append(tasks, map[string]any{"id": promise.DecodeID(held.ID), "version": held.Version})
		}
		named, err := json.Marshal(map[string]any{"kind": env.Kind, "head": env.Head, "data": map[string]any{"pid": of.PID, "tasks": tasks}})
		if err == nil {
			return named
		}
	}
	return body
}

// after notes whose task is whose by now.
func (g *gateway) after(kind string, of about, answer []byte) {
	switch kind {
	case "task.acquire", "task.create":
		var env envelope
		var got about
		if json.Unmarshal(answer, &env) != nil || json.Unmarshal(env.Data, &got) != nil || got.Task.State != promise.TaskAcquired.String() {
			return
		}
		g.Hub.Acquired(promise.EncodeID(got.Task.ID), got.Task.Version, got.Task.PID, time.Duration(got.Task.TTL)*time.Millisecond)
	case "task.suspend", "task.release":
		g.Hub.Left(promise.EncodeID(of.ID), of.Version)
	case "task.fulfill", "promise.settle":
		g.Hub.Left(promise.EncodeID(of.ID), math.MaxUint64)
	}
}
