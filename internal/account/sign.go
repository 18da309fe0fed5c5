package account

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// A Target is an API of AWS that wants signed requests.
type Target struct {
	Host    string
	Service string // for which they are signed
	Region  string // "": that of the account
}

// An address of API Gateway or of a function, on any partition of AWS.
var targetPattern = regexp.MustCompile(`(?i)^[a-z0-9-]+\.(execute-api|lambda-url)\.([a-z0-9-]+)\.(amazonaws\.com|amazonaws\.com\.cn|on\.aws)(:\d+)?$`)

// TargetOf returns what a URL's host says of itself, and whether it is an
// address of AWS at all.
func TargetOf(host string) (t Target, ok bool) {
	m := targetPattern.FindStringSubmatch(host)
	if m == nil {
		return Target{}, false
	}
	t = Target{Host: host, Service: "execute-api", Region: strings.ToLower(m[2])}
	if strings.EqualFold(m[1], "lambda-url") {
		t.Service = "lambda"
	}
	return t, true
}

// Gateway is the target of a stage's API at that host. An API may have a domain
// of its own, which says nothing: it is in the account's region then.
func Gateway(host string) Target {
	if t, ok := TargetOf(host); ok {
		return t
	}
	return Target{Host: host, Service: "execute-api"}
}

// SignatureAge is how far a clock may be off before AWS refuses signatures:
// "Signature Version 4", AWS General Reference.
const SignatureAge = 5 * time.Minute

// A Transport signs requests to its target, by Signature Version 4, and
// carries all others as they are: a presigned URL is its own proof. What AWS
// refuses is an error, a [*Trouble], and not an answer; credentials that have
// expired meanwhile are had anew first.
type Transport struct {
	account *Account
	next    http.RoundTripper
	target  Target
	signer  *v4.Signer

	mu          sync.Mutex
	credentials aws.CredentialsProvider
}

// Sign returns a Transport over next.
func (a *Account) Sign(next http.RoundTripper, target Target) *Transport {
	if target.Region == "" {
		target.Region = a.Config.Region
	}
	return &Transport{account: a, next: next, target: target, signer: v4.NewSigner(), credentials: a.Config.Credentials}
}

// RoundTrip carries one request.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Host != t.target.Host {
		return t.next.RoundTrip(req)
	}
	body, err := readBody(req)
	if err != nil {
		return nil, fmt.Errorf("reading a request to sign it: %w", err)
	}
	t.mu.Lock()
	provider := t.credentials
	t.mu.Unlock()
	used, err := t.retrieve(req.Context(), provider)
	if err != nil {
		return nil, err
	}
	resp, no, err := t.send(req, body, used)
	if no == nil || err != nil {
		return resp, err
	}
	if no.renewable() {
		anew, err := t.renew(req.Context())
		if err != nil {
			return nil, err
		}
		if anew.AccessKeyID != used.AccessKeyID || anew.SessionToken != used.SessionToken {
			if resp, no, err = t.send(req, body, anew); no == nil || err != nil {
				return resp, err
			}
		}
	}
	return nil, no.trouble(t.account)
}

// renew reads the configuration anew: a profile may have been written to since,
// or logged in.
func (t *Transport) renew(ctx context.Context) (aws.Credentials, error) {
	fresh, err := Open(ctx)
	if err != nil {
		return aws.Credentials{}, err
	}
	got, err := t.retrieve(ctx, fresh.Config.Credentials)
	if err != nil {
		return got, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.credentials = fresh.Config.Credentials
	return got, nil
}

// retrieve returns credentials. That whoever gives them is out of reach is no
// Trouble: it passes, as it does with AWS itself.
func (t *Transport) retrieve(ctx context.Context, provider aws.CredentialsProvider) (aws.Credentials, error) {
	got, err := provider.Retrieve(ctx)
	var network net.Error
	switch {
	case err == nil:
		return got, nil
	case errors.As(err, &network), ctx.Err() != nil:
		return got, fmt.Errorf("getting credentials: %w", err)
	}
	return got, t.account.noCredentials(err)
}

// send signs and sends the request. A refusal is the gateway's; ours have a
// form of their own, and are answers.
func (t *Transport) send(req *http.Request, body []byte, who aws.Credentials) (*http.Response, *refusal, error) {
	signed := req.Clone(req.Context())
	signed.Body, signed.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	if len(body) == 0 {
		signed.Body = http.NoBody
	}
	sum := sha256.Sum256(body)
	sent := time.Now()
	err := t.signer.SignHTTP(req.Context(), who, signed, hex.EncodeToString(sum[:]), t.target.Service, t.target.Region, sent)
	if err != nil {
		return nil, nil, fmt.Errorf("signing a request: %w", err)
	}
	resp, err := t.next.RoundTrip(signed)
	if err != nil || resp.StatusCode != http.StatusForbidden || strings.HasPrefix(resp.Header.Get("Content-Type"), "application/problem+json") {
		return resp, nil, err
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // what can be read of it
	no := &refusal{said: strings.TrimSpace(string(text))}
	var message struct{ Message string }
	if json.Unmarshal(text, &message) == nil && message.Message != "" {
		no.said = message.Message
	}
	no.ahead, _ = dateSkew(resp.Header, sent, time.Now())
	return nil, no, nil
}

// readBody reads and closes a request's body.
func readBody(req *http.Request) ([]byte, error) {
	if req.Body == nil {
		return nil, nil
	}
	body, err := io.ReadAll(req.Body)
	return body, errors.Join(err, req.Body.Close())
}

// A refusal is what the gateway says to a caller whom it does not let in. An
// HTTP API says "Forbidden", whatever the reason; a REST API says more.
type refusal struct {
	said  string
	ahead time.Duration // AWS's clock, of ours
}

// bare is all that an HTTP API says.
const bare = "Forbidden"

func (r *refusal) expired() bool { return strings.Contains(r.said, "expired") }

// renewable reports whether fresher credentials may help.
func (r *refusal) renewable() bool {
	return r.ahead.Abs() < SignatureAge && (r.expired() || r.said == bare)
}

func (r *refusal) trouble(a *Account) *Trouble {
	switch {
	case r.ahead.Abs() >= SignatureAge:
		return clockTrouble(r.ahead, nil)
	case r.expired():
		return a.refused(r.said, nil)
	}
	return &Trouble{
		Kind: ErrDenied, Text: "AWS denies access to the API: " + r.said,
		Hint: "the caller needs execute-api:Invoke on it: attach the policy in the stack's output SubmitterPolicy; see who you are with `aws sts get-caller-identity`",
	}
}
