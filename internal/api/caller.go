package api

import (
	"context"
	"crypto/subtle"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"modulate/internal/engine"
	"modulate/internal/promise"
)

// LocalOwner is whose promises are where nobody is told apart.
const LocalOwner = "local"

// Caller is on whose behalf a request is made.
type Caller struct {
	Owner string
	// Parent is the promise whose script makes the request, through its
	// worker's socket; nil for everybody else. Claim proves it.
	Parent *promise.Record
	Claim  engine.Parent
}

// caller finds out who makes a request. A script acts as its promise's owner.
// ErrForbidden, promise.ErrParent.
func (s *Service) caller(r *http.Request) (Caller, error) {
	if h := r.Header.Get(ParentHeader); h != "" {
		return s.script(r, h)
	}
	if s.Owner == nil {
		return Caller{Owner: LocalOwner}, nil
	}
	owner, err := s.Owner(r)
	return Caller{Owner: owner}, err
}

// Own returns the record of a script with that id if it is the caller's, as it
// is at this moment. promise.ErrNotFound: there is none, or it is another's.
func (s *Service) Own(ctx context.Context, c Caller, id string) (promise.Record, error) {
	if promise.ValidAnyID(id) {
		rec, err := s.Engine.Get(ctx, id)
		if !errors.Is(err, promise.ErrNotFound) && (err != nil || rec.Owner == c.Owner && !rec.Remote()) {
			return rec, err
		}
	}
	return promise.Record{}, Fail(promise.ErrNotFound, "id", "there is no promise %q", id)
}

// script checks the header of a worker against the record of the promise that
// it names. Its claim must be the latest; it may have ended, for a request may
// arrive after its script's end.
func (s *Service) script(r *http.Request, header string) (Caller, error) {
	claim, err := parseParent(header)
	if err != nil {
		return Caller{}, err
	}
	rec, err := s.Engine.Get(r.Context(), claim.ID)
	if errors.Is(err, promise.ErrNotFound) {
		return Caller{}, Fail(ErrForbidden, ParentHeader, "there is no promise %s to act for", claim.ID)
	}
	if err != nil {
		return Caller{}, err
	}
	same := subtle.ConstantTimeCompare(rec.Task.ClaimID[:], claim.Claim[:]) == 1
	if !same || rec.Task.Version != claim.Version || claim.Claim == (promise.Nonce{}) {
		return Caller{}, Fail(promise.ErrParent, ParentHeader, "%s is not held under version %d and that claim any more", claim.ID, claim.Version)
	}
	return Caller{Owner: rec.Owner, Parent: &rec, Claim: claim}, nil
}

func parseParent(header string) (engine.Parent, error) {
	fields := strings.Fields(header)
	if len(fields) != 3 || !promise.ValidAnyID(fields[0]) {
		return engine.Parent{}, Invalid(ParentHeader, "want \"ID VERSION CLAIM_ID\", not %q", header)
	}
	version, err := strconv.ParseUint(fields[1], 10, 64)
	if err != nil {
		return engine.Parent{}, Invalid(ParentHeader, "version %q: want a number", fields[1])
	}
	claim, err := promise.ParseNonce(fields[2])
	if err != nil {
		return engine.Parent{}, Invalid(ParentHeader, "%v", err)
	}
	return engine.Parent{ID: fields[0], Version: version, Claim: claim}, nil
}

// FormatParent writes the value of [ParentHeader].
func FormatParent(p engine.Parent) string {
	return p.ID + " " + strconv.FormatUint(p.Version, 10) + " " + p.Claim.String()
}
