package account

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials/processcreds"
	"github.com/aws/aws-sdk-go-v2/credentials/ssocreds"
	"github.com/aws/smithy-go"
)

// The kinds of [Trouble].
var (
	// ErrCredentials: there are none, they have expired, or AWS does not know
	// them.
	ErrCredentials = errors.New("no usable AWS credentials")
	// ErrDenied: AWS knows the caller, who may not do this.
	ErrDenied = errors.New("AWS denies access")
	// ErrMissing: a stack, table, queue or bucket is not there.
	ErrMissing = errors.New("not deployed")
	// ErrRegion: no region is set, or another one has it.
	ErrRegion = errors.New("no or another AWS region")
	// errClock: this machine's clock is wrong.
	errClock = errors.New("the clock is wrong")
	// ErrUnreachable: AWS does not answer.
	ErrUnreachable = errors.New("AWS does not answer")
)

// Trouble is an error of AWS, or on the way there, in a sentence. No try again
// helps before somebody has done what Hint says.
type Trouble struct {
	Kind error // one of this package's sentinels
	Text string
	Hint string
	Err  error // what the SDK said; may be nil
}

// Error says what is wrong.
func (t *Trouble) Error() string { return t.Text }

// Unwrap returns the kind and what the SDK said.
func (t *Trouble) Unwrap() []error { return []error{t.Kind, t.Err} }

// refusals are the codes by which AWS refuses a caller, whatever the service.
// Services have names of their own for one thing.
var refusals = map[string]error{
	"ExpiredToken": ErrCredentials, "ExpiredTokenException": ErrCredentials, "RequestExpired": ErrCredentials,
	"InvalidClientTokenId": ErrCredentials, "UnrecognizedClientException": ErrCredentials,
	"InvalidAccessKeyId": ErrCredentials, "SignatureDoesNotMatch": ErrCredentials,
	"InvalidSignatureException": ErrCredentials, "InvalidToken": ErrCredentials, "AuthFailure": ErrCredentials,
	"AccessDenied": ErrDenied, "AccessDeniedException": ErrDenied, "UnauthorizedOperation": ErrDenied,
	"RequestTimeTooSkewed": errClock,
	"PermanentRedirect":    ErrRegion, "AuthorizationHeaderMalformed": ErrRegion, "IllegalLocationConstraintException": ErrRegion,
}

// Explain returns err as a Trouble where it is one, the first of several, else
// err itself: AWS may have no capacity, or fail.
func (a *Account) Explain(err error) error {
	var known *Trouble
	if errors.As(err, &known) {
		return known
	}
	var answer smithy.APIError
	if !errors.As(err, &answer) {
		return a.unanswered(err)
	}
	kind, said := refusals[answer.ErrorCode()], answer.ErrorMessage()
	if kind == ErrCredentials && (strings.Contains(said, "Signature expired") || strings.Contains(said, "not yet current")) {
		kind = errClock
	}
	switch kind {
	case ErrCredentials:
		return a.refused(said, err)
	case ErrDenied:
		return &Trouble{
			Kind: ErrDenied, Text: "AWS denies access: " + said, Err: err,
			Hint: "see who you are with `aws sts get-caller-identity`; the outputs SubmitterPolicy and OperatorPolicy of the stack are policies to attach",
		}
	case errClock:
		return a.clockTrouble(err)
	case ErrRegion:
		return &Trouble{
			Kind: ErrRegion, Text: fmt.Sprintf("it is not in the region %s: %s", a.Config.Region, said),
			Hint: "set AWS_REGION to the region that the stack is in", Err: err,
		}
	}
	return err
}

// SkewTrouble says by how much this machine's clock is wrong, where that is
// more than margin; nil else.
func (a *Account) SkewTrouble(margin time.Duration) error {
	if ahead, _ := a.Clock.Skew(); ahead.Abs() > margin {
		return a.clockTrouble(nil)
	}
	return nil
}

func (a *Account) clockTrouble(err error) *Trouble {
	ahead, _ := a.Clock.Skew()
	return clockTrouble(ahead, err)
}

func clockTrouble(ahead time.Duration, err error) *Trouble {
	how := "is not that of AWS"
	switch {
	case ahead > 0:
		how = fmt.Sprintf("is %s behind that of AWS", ahead.Round(time.Second))
	case ahead < 0:
		how = fmt.Sprintf("is %s ahead of that of AWS", -ahead.Round(time.Second))
	}
	return &Trouble{
		Kind: errClock, Text: "the clock of this machine " + how, Err: err,
		Hint: "set it right, and let chrony or systemd-timesyncd keep it so",
	}
}

// refused says that AWS does not take the credentials.
func (a *Account) refused(said string, err error) *Trouble {
	return &Trouble{
		Kind: ErrCredentials, Text: "AWS does not take the credentials" + a.ofProfile() + ": " + said, Err: err,
		Hint: "log in anew (" + a.login("aws sso login") + "), or set AWS_PROFILE to another profile",
	}
}

// noCredentials says why the SDK has found none.
func (a *Account) noCredentials(err error) *Trouble {
	t := &Trouble{Kind: ErrCredentials, Err: err}
	var sso *ssocreds.InvalidTokenError
	var process *processcreds.ProviderError
	switch text := err.Error(); {
	case errors.As(err, &sso), strings.Contains(text, "SSO token"):
		t.Text, t.Hint = "the AWS login"+a.ofProfile()+" has expired", a.login("aws sso login")
	case strings.Contains(text, "login token"):
		t.Text, t.Hint = "the AWS login"+a.ofProfile()+" has expired", a.login("aws login")
	case errors.As(err, &process):
		t.Text, t.Hint = fmt.Sprintf("the credential_process%s has failed: %v", a.ofProfile(), process.Err), "run it by hand to see why"
	case strings.Contains(text, "IMDS"): // the last in the chain: all before it had nothing
		t.Text = "there are no AWS credentials"
		t.Hint = "set AWS_PROFILE, or log in with `aws sso login` or `aws configure`"
	default:
		t.Text, t.Hint = fmt.Sprintf("there are no AWS credentials%s: %v", a.ofProfile(), err), "see `aws sts get-caller-identity`"
	}
	return t
}

// unanswered says that AWS cannot be reached, where err tells so.
func (a *Account) unanswered(err error) error {
	var dns *net.DNSError
	var op net.Error
	if !errors.As(err, &dns) && !errors.As(err, &op) || errors.Is(err, context.Canceled) {
		return err
	}
	where := a.Config.Region
	var at *url.Error
	if errors.As(err, &at) {
		if u, bad := url.Parse(at.URL); bad == nil {
			where = u.Scheme + "://" + u.Host
		}
		err = at.Err
	}
	return &Trouble{
		Kind: ErrUnreachable, Text: fmt.Sprintf("AWS does not answer at %s: %v", where, err), Err: err,
		Hint: fmt.Sprintf("see that the network is up and that the region %s is right (AWS_REGION, AWS_ENDPOINT_URL)", a.Config.Region),
	}
}

func (a *Account) ofProfile() string {
	if a.profile == "" {
		return ""
	}
	return " of profile " + a.profile
}

func (a *Account) login(command string) string {
	if a.profile != "" && a.profile != "default" {
		command += " --profile " + a.profile
	}
	return "`" + command + "`"
}

// code is the code of an answer of AWS; "" where err is none.
func code(err error) string {
	var answer smithy.APIError
	if errors.As(err, &answer) {
		return answer.ErrorCode()
	}
	return ""
}
