package api

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Prefer is what a request says of how long its answer may take (RFC 7240).
type Prefer struct {
	Wait  time.Duration // at most MaxWait seconds, though more was asked for
	Asked bool          // Wait was given, 0 perhaps
	Async bool          // 202 rather than waiting longer than Wait
}

// parsePrefer reads the Prefer headers. Of a preference given twice the first
// counts; unknown ones are passed over. ErrInvalid: a wait that is not a
// number of seconds.
func parsePrefer(h http.Header) (p Prefer, err error) {
	for _, line := range h["Prefer"] {
		for item := range strings.SplitSeq(line, ",") {
			item, _, _ = strings.Cut(item, ";") // parameters: none of ours has any
			name, value, _ := strings.Cut(item, "=")
			switch strings.ToLower(strings.TrimSpace(name)) {
			case "respond-async":
				p.Async = true
			case "wait":
				if p.Asked {
					continue
				}
				if p.Wait, err = parseWait(value); err != nil {
					return Prefer{}, err
				}
				p.Asked = true
			}
		}
	}
	return p, nil
}

func parseWait(value string) (time.Duration, error) {
	value = strings.Trim(strings.TrimSpace(value), `"`)
	digits := strings.TrimLeft(value, "0123456789") == "" && value != ""
	if !digits {
		return 0, Invalid("Prefer", "wait=%s: want whole seconds, as in wait=10", value)
	}
	n, err := strconv.Atoi(value)
	if err != nil || n > MaxWait { // too many digits are too many seconds
		n = MaxWait
	}
	return time.Duration(n) * time.Second, nil
}

// Applied is the value of Preference-Applied: what was heeded of p.
func (p Prefer) Applied() string {
	var applied []string
	if p.Async {
		applied = append(applied, "respond-async")
	}
	if p.Asked {
		applied = append(applied, "wait="+strconv.Itoa(int(p.Wait/time.Second)))
	}
	return strings.Join(applied, ", ")
}

// margin is kept between the end of a wait and the request's own deadline, for
// the answer to get out.
const margin = time.Second

// Within is how long to wait: until a second before ctx must end.
func (p Prefer) Within(ctx context.Context) time.Duration {
	if end, ok := ctx.Deadline(); ok {
		return min(p.Wait, time.Until(end)-margin)
	}
	return p.Wait
}
