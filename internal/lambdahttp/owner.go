package lambdahttp

import (
	"fmt"
	"net/http"
	"strings"

	"modulate/internal/api"
)

// identity is who signed a request, as IAM found.
type identity struct {
	UserARN string `json:"userArn"`
}

// claims are those of a token.
type claims struct {
	Subject string `json:"sub"`
}

// authorizer is what an authorizer found: IAM or JWT under payload 2.0, and
// JWT's claims under 1.0.
type authorizer struct {
	IAM identity `json:"iam"`
	JWT struct {
		Claims claims `json:"claims"`
	} `json:"jwt"`
	Claims claims `json:"claims"`
}

type callerKey struct{}

// caller is whose request this is, "" where nobody has found out: the ARN of
// an IAM user or role, or the subject of a token.
func (e *event) caller() string {
	c := &e.Context
	for _, arn := range []string{c.Authorizer.IAM.UserARN, c.Identity.UserARN} {
		if arn != "" {
			return withoutSession(arn)
		}
	}
	if c.Authorizer.JWT.Claims.Subject != "" {
		return c.Authorizer.JWT.Claims.Subject
	}
	return c.Authorizer.Claims.Subject
}

// withoutSession returns the ARN of the role of which arn is a session; any
// other as it is. The path of a role is not in its sessions' ARNs.
func withoutSession(arn string) string {
	parts := strings.SplitN(arn, ":", 6) // arn:partition:service:region:account:resource
	if len(parts) < 6 || parts[2] != "sts" {
		return arn
	}
	resource := strings.Split(parts[5], "/")
	if len(resource) != 3 || resource[0] != "assumed-role" {
		return arn
	}
	parts[2], parts[5] = "iam", "role/"+resource[1]
	return strings.Join(parts, ":")
}

// Owner returns whose request r is, of a request that came as an event.
// ErrForbidden: nobody has found out.
func Owner(r *http.Request) (string, error) {
	caller, _ := r.Context().Value(callerKey{}).(string)
	if caller == "" {
		return "", api.Fail(api.ErrForbidden, "", "the request does not say who calls: sign it (AWS SigV4), or send a token to a route with a JWT authorizer")
	}
	return caller, nil
}

// OwnerOf returns what finds out whose a request is: [Owner] where no name is
// given. With [api.LocalOwner] everything is that owner's, whoever calls: for
// emulated AWS, where nobody is told apart.
func OwnerOf(name string) (func(*http.Request) (string, error), error) {
	switch name {
	case "":
		return Owner, nil
	case api.LocalOwner:
		return func(*http.Request) (string, error) { return api.LocalOwner, nil }, nil
	}
	return nil, fmt.Errorf("owner %q: want none, and callers are told apart, or %q", name, api.LocalOwner)
}
