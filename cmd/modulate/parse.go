package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"modulate/internal/api"
	"modulate/internal/promise"
)

// A duration is a flag's value: as Go writes it (1h30m), with days (2d, 1d12h),
// or a number of seconds.
type duration struct {
	value time.Duration
	given bool
}

// Set reads text.
func (d *duration) Set(text string) (err error) {
	d.value, err = parseDuration(text)
	d.given = err == nil
	return err
}

// String returns the duration as Go writes it.
func (d *duration) String() string {
	if !d.given {
		return ""
	}
	return d.value.String()
}

// Type is what help shows for the value.
func (d *duration) Type() string { return "DURATION" }

// ms returns the duration in milliseconds, or nil where none was given.
func (d *duration) ms() *int64 {
	if !d.given {
		return nil
	}
	ms := d.value.Milliseconds()
	return &ms
}

var errDuration = errors.New("want a duration such as 90s, 10m, 1h30m or 2d")

func parseDuration(text string) (time.Duration, error) {
	if seconds, err := strconv.ParseInt(text, 10, 64); err == nil {
		return scale(seconds, time.Second)
	}
	number, rest, hasDays := strings.Cut(text, "d")
	if !hasDays {
		d, err := time.ParseDuration(text)
		if err != nil {
			return 0, errDuration
		}
		return d, nil
	}
	count, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		return 0, errDuration
	}
	days, err := scale(count, 24*time.Hour)
	if err != nil || rest == "" {
		return days, err
	}
	more, err := time.ParseDuration(rest)
	if err != nil || more < 0 || rest[0] == '+' {
		return 0, errDuration
	}
	if days+more < days {
		return 0, fmt.Errorf("%s is beyond all limits", text)
	}
	return days + more, nil
}

// scale multiplies, and refuses what does not fit.
func scale(n int64, unit time.Duration) (time.Duration, error) {
	d := time.Duration(n) * unit
	if d/unit != time.Duration(n) {
		return 0, fmt.Errorf("%d times %s is beyond all limits", n, unit)
	}
	return d, nil
}

// retryUsage is the form of --retry.
const retryUsage = "never|constant|linear|exponential[,max_attempts=N][,delay=DURATION][,max_delay=DURATION]"

// parseRetry reads a retry policy; nil where text is empty.
func parseRetry(text string) (*api.Retry, error) {
	if text == "" {
		return nil, nil
	}
	policy, settings, more := strings.Cut(text, ",")
	if _, ok := promise.ParsePolicy(policy); !ok {
		return nil, badInput("--retry: there is no policy %q; want %s", policy, retryUsage)
	}
	retry := &api.Retry{Policy: policy}
	if !more {
		return retry, nil
	}
	for setting := range strings.SplitSeq(settings, ",") {
		if err := setRetry(retry, setting); err != nil {
			return nil, badInput("--retry: %q: %w; want %s", setting, err, retryUsage)
		}
	}
	return retry, nil
}

func setRetry(retry *api.Retry, setting string) error {
	name, value, _ := strings.Cut(setting, "=")
	switch name {
	case "max_attempts":
		n, err := strconv.ParseUint(value, 10, 32)
		if err != nil || n == 0 {
			return errors.New("want a number of attempts, the first one counted")
		}
		retry.MaxAttempts = uint32(n)
		return nil
	case "delay", "max_delay":
		d, err := parseDuration(value)
		if err != nil {
			return err
		}
		if d < time.Millisecond {
			return errors.New("want a delay of at least 1ms")
		}
		if name == "delay" {
			retry.DelayMS = d.Milliseconds()
		} else {
			retry.MaxDelayMS = d.Milliseconds()
		}
		return nil
	default:
		return errors.New("there is no such setting")
	}
}

// lookup finds a variable of our own environment.
type lookup func(name string) (string, bool)

// parseEnv reads an --env-file, where one is named, and what -e says over it.
func parseEnv(file string, settings []string, own lookup) (map[string]string, error) {
	env := map[string]string{}
	if file != "" {
		if err := readEnvFile(file, env, own); err != nil {
			return nil, err
		}
	}
	for _, s := range settings {
		if err := setEnv(env, s, own); err != nil {
			return nil, badInput("-e %s: %w", quoteName(s), err)
		}
	}
	return env, nil
}

// setEnv sets NAME=VALUE, or NAME to what it is in our own environment.
func setEnv(env map[string]string, setting string, own lookup) error {
	name, value, given := strings.Cut(setting, "=")
	if name == "" {
		return errors.New("the name is missing; want NAME=VALUE or NAME")
	}
	if !given {
		var ok bool
		if value, ok = own(name); !ok {
			return fmt.Errorf("%s is not set here; want %s=VALUE", name, name)
		}
	}
	env[name] = value
	return nil
}

// quoteName shows the name of a setting but not its value, which may be a
// secret.
func quoteName(setting string) string {
	name, _, given := strings.Cut(setting, "=")
	if given {
		return strconv.Quote(name + "=…")
	}
	return strconv.Quote(name)
}

// readEnvFile reads lines of NAME=VALUE or NAME. Empty lines and those that
// start with # say nothing; a value goes to the end of its line as it is.
func readEnvFile(path string, env map[string]string, own lookup) error {
	f, err := os.Open(path)
	if err != nil {
		return badInput("--env-file: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		text := strings.TrimLeft(lines.Text(), " \t")
		if text == "" || text[0] == '#' {
			continue
		}
		if err := setEnv(env, text, own); err != nil {
			return badInput("--env-file %s, line %d: %w", path, n, err)
		}
	}
	if err := lines.Err(); err != nil {
		return badInput("--env-file %s: %w", path, err)
	}
	return nil
}

// parsePairs reads NAME=VALUE settings of a flag that may be repeated.
func parsePairs(flag string, settings []string) (map[string]string, error) {
	pairs := map[string]string{}
	for _, s := range settings {
		name, value, given := strings.Cut(s, "=")
		if !given || name == "" {
			return nil, badInput("%s %q: want NAME=VALUE", flag, s)
		}
		pairs[name] = value
	}
	return pairs, nil
}

// parseSince reads a time, or a duration before now.
func parseSince(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return t, nil
		}
	}
	d, err := parseDuration(text)
	if err != nil || d < 0 {
		return time.Time{}, badInput("--since %q: want a time such as 2026-01-31T12:00:00Z or 2026-01-31, or a duration such as 2h or 7d", text)
	}
	return now.Add(-d), nil
}
