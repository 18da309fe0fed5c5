package account

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestValidStage(t *testing.T) {
	for name, want := range map[string]bool{
		"dev": true, "p": true, "a234567890123456": true,
		"": false, "dlq": false, "sdk": false, "Prod": false, "1a": false, "a-b": false, "a2345678901234567": false,
	} {
		if ValidStage(name) != want {
			t.Errorf("stage %q: valid %v, want %v", name, !want, want)
		}
	}
}

// What keeps people from AWS before it is asked anything.
func TestOpenAndCheckSayWhatIsMissing(t *testing.T) {
	for name, c := range map[string]struct {
		config     string
		env        []string
		kind       error
		text, hint string
	}{
		"no region":        {env: append(static, "AWS_REGION="), kind: ErrRegion, text: "no AWS region is set", hint: "AWS_REGION=us-east-1"},
		"unknown profile":  {env: []string{"AWS_PROFILE=prod"}, kind: ErrCredentials, text: `there is no AWS profile "prod"`, hint: "list-profiles"},
		"broken file":      {config: "[profile a]\nrole_arn = x\nmfa_serial = y\nsource_profile = a\naws_access_key_id = k\naws_secret_access_key = s\n", env: []string{"AWS_PROFILE=a"}, kind: ErrCredentials, text: "cannot be used"},
		"no credentials":   {kind: ErrCredentials, text: "there are no AWS credentials", hint: "aws sso login"},
		"expired login":    {config: sso, env: []string{"AWS_PROFILE=work"}, kind: ErrCredentials, text: "the AWS login of profile work has expired", hint: "`aws sso login --profile work`"},
		"expired old kind": {config: oldSSO, env: []string{"AWS_PROFILE=work"}, kind: ErrCredentials, text: "the AWS login of profile work has expired", hint: "`aws sso login --profile work`"},
		"process":          {config: "[default]\ncredential_process = false\n", kind: ErrCredentials, text: "the credential_process of profile default has failed", hint: "by hand"},
	} {
		t.Run(name, func(t *testing.T) {
			configured(t, c.config, c.env...)
			a, err := Open(t.Context())
			if err == nil {
				err = a.Check(t.Context())
			}
			wantTrouble(t, err, c.kind, c.text, c.hint)
		})
	}
}

const sso = `[sso-session s]
sso_region = eu-west-1
sso_start_url = https://127.0.0.1/start
sso_registration_scopes = sso:account:access
[profile work]
sso_session = s
sso_account_id = 123456789012
sso_role_name = dev
`

const oldSSO = `[profile work]
sso_region = eu-west-1
sso_start_url = https://127.0.0.1/start
sso_account_id = 123456789012
sso_role_name = dev
`

func wantTrouble(t *testing.T, err, kind error, text, hint string) {
	t.Helper()
	var trouble *Trouble
	switch {
	case !errors.As(err, &trouble):
		t.Errorf("got %v, want a Trouble", err)
	case !errors.Is(err, kind) || !strings.Contains(trouble.Text, text) || !strings.Contains(trouble.Hint, hint):
		t.Errorf("got %v: %q, %q\nwant %v: %q, %q", trouble.Kind, trouble.Text, trouble.Hint, kind, text, hint)
	}
}

// What AWS says when it is asked for a stack.
func TestOutputs(t *testing.T) {
	fault := func(code, message string) string {
		return "<ErrorResponse><Error><Code>" + code + "</Code><Message>" + message + "</Message></Error></ErrorResponse>"
	}
	for name, c := range map[string]struct {
		status     int
		body       string
		kind       error
		text, hint string
	}{
		"no stack":      {400, fault("ValidationError", "Stack with id modulate-prod does not exist"), ErrMissing, "there is no stack modulate-prod in eu-west-1", "sam deploy --config-env prod"},
		"unknown key":   {403, fault("InvalidClientTokenId", "The security token included in the request is invalid."), ErrCredentials, "AWS does not take the credentials", "`aws sso login`"},
		"expired":       {403, fault("ExpiredToken", "The security token included in the request is expired"), ErrCredentials, "is expired", "aws sso login"},
		"denied":        {403, fault("AccessDenied", "User: u is not authorized"), ErrDenied, "AWS denies access: User: u is not authorized", "SubmitterPolicy"},
		"wrong clock":   {403, fault("RequestTimeTooSkewed", "too far"), errClock, "the clock of this machine", "chrony"},
		"signature old": {403, fault("SignatureDoesNotMatch", "Signature expired: 2000 is now earlier than"), errClock, "the clock of this machine", "chrony"},
	} {
		t.Run(name, func(t *testing.T) {
			configured(t, "", append(static, "AWS_ENDPOINT_URL="+answers(t, c.status, "Content-Type: text/xml", c.body))...)
			_, err := opened(t).Outputs(t.Context(), "prod")
			wantTrouble(t, err, c.kind, c.text, c.hint)
		})
	}
	t.Run("outputs", func(t *testing.T) {
		body := `<DescribeStacksResponse><DescribeStacksResult><Stacks><member><StackName>modulate-prod</StackName>` +
			`<CreationTime>2026-01-01T00:00:00Z</CreationTime><StackStatus>CREATE_COMPLETE</StackStatus><Outputs>` +
			`<member><OutputKey>Url</OutputKey><OutputValue>https://x</OutputValue></member>` +
			`</Outputs></member></Stacks></DescribeStacksResult></DescribeStacksResponse>`
		configured(t, "", append(static, "AWS_ENDPOINT_URL="+answers(t, 200, "Content-Type: text/xml", body))...)
		out, err := opened(t).Outputs(t.Context(), "prod")
		if err != nil || len(out) != 1 || out["Url"] != "https://x" {
			t.Errorf("got %v, %v", out, err)
		}
	})
	t.Run("unreachable", func(t *testing.T) {
		configured(t, "", append(static, "AWS_ENDPOINT_URL=http://127.0.0.1:1")...)
		_, err := opened(t).Outputs(t.Context(), "prod")
		wantTrouble(t, err, ErrUnreachable, "AWS does not answer at http://127.0.0.1:1", "the region eu-west-1 is right")
	})
	t.Run("throttled", func(t *testing.T) {
		configured(t, "", append(static, "AWS_ENDPOINT_URL="+answers(t, 400, "Content-Type: text/xml", fault("Throttling", "Rate exceeded")))...)
		var trouble *Trouble
		if _, err := opened(t).Outputs(t.Context(), "prod"); err == nil || errors.As(err, &trouble) {
			t.Errorf("got %v, want an error that may pass", err)
		}
	})
}

// Failure 21: the clock is compared by the Date of any answer, an error too.
func TestClock(t *testing.T) {
	for name, c := range map[string]struct {
		ahead time.Duration
		text  string // "": it is right
	}{
		"right":  {0, ""},
		"behind": {10 * time.Minute, "behind that of AWS"},
		"ahead":  {-10 * time.Minute, "ahead of that of AWS"},
	} {
		t.Run(name, func(t *testing.T) {
			date := "Date: " + time.Now().Add(c.ahead).UTC().Format(http.TimeFormat)
			configured(t, "", append(static, "AWS_ENDPOINT_URL="+answers(t, 400, date+"\nContent-Type: text/xml", "<ErrorResponse/>"))...)
			a := opened(t)
			if _, ok := a.Clock.Skew(); ok {
				t.Error("a skew before there was an answer")
			}
			_, _ = a.Outputs(t.Context(), "prod") // the answer matters, not what it says
			err := a.SkewTrouble(time.Minute)
			if c.text == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantTrouble(t, err, errClock, c.text, "chrony")
		})
	}
}

func TestDateSkew(t *testing.T) {
	base := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at := func(s float64) time.Time { return base.Add(time.Duration(s * float64(time.Second))) }
	for _, c := range []struct {
		date           string
		sent, received time.Time
		want           time.Duration
		ok             bool
	}{
		{"Fri, 02 Jan 2026 03:04:05 GMT", at(0), at(0.1), 0, true},
		{"Fri, 02 Jan 2026 03:04:05 GMT", at(0.9), at(30), 0, true},
		{"Fri, 02 Jan 2026 03:04:05 GMT", at(-9), at(-7), 7 * time.Second, true},
		{"Fri, 02 Jan 2026 03:04:05 GMT", at(9), at(10), -8 * time.Second, true},
		{"", at(0), at(0), 0, false},
		{"now", at(0), at(0), 0, false},
	} {
		got, ok := dateSkew(http.Header{"Date": {c.date}}, c.sent, c.received)
		if got != c.want || ok != c.ok {
			t.Errorf("%q between %v and %v: %v, %v; want %v, %v", c.date, c.sent, c.received, got, ok, c.want, c.ok)
		}
	}
}
