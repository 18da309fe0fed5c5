package account

import (
	"net/http"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// A Clock compares this machine's clock with AWS's: it is the HTTP client of
// an Account, and reads the Date of every answer.
type Clock struct {
	next  aws.HTTPClient
	skew  atomic.Int64
	heard atomic.Bool
}

// Do carries one request.
func (c *Clock) Do(req *http.Request) (*http.Response, error) {
	sent := time.Now()
	resp, err := c.next.Do(req)
	if err == nil {
		if skew, ok := dateSkew(resp.Header, sent, time.Now()); ok {
			c.skew.Store(int64(skew))
			c.heard.Store(true)
		}
	}
	return resp, err
}

// Skew returns by how much, at least, AWS's clock is ahead of this machine's
// (negative: behind) as the latest answer told, and whether there was one.
func (c *Clock) Skew() (ahead time.Duration, ok bool) {
	return time.Duration(c.skew.Load()), c.heard.Load()
}

// dateSkew is how far, at least, the Date of an answer lies outside the time
// in which it was made. A Date is cut to whole seconds (RFC 9110, 5.6.7).
func dateSkew(h http.Header, sent, received time.Time) (ahead time.Duration, ok bool) {
	date, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		return 0, false
	}
	if early := date.Sub(received); early > 0 {
		return early, true
	}
	if late := date.Add(time.Second).Sub(sent); late < 0 {
		return late, true
	}
	return 0, true
}
