package dynamostore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go"

	"modulate/internal/store"
)

// write makes a request that writes under a guard, again and again while it
// meets other transactions, and says what came of it.
func (s *Store) write(ctx context.Context, doing string, request func(option func(*dynamodb.Options)) error) error {
	for try := 1; ; try++ {
		var w witness
		err := request(w.watch)
		if err == nil {
			return nil
		}
		if stored, refused := refusal(err); refused {
			if stored == nil {
				return &store.Refused{}
			}
			rec, err := decode(stored)
			if err != nil {
				return err
			}
			return &store.Refused{Stored: rec}
		}
		switch {
		case !turnedAway(err):
			return s.ours(ctx, doing, err)
		case w.unknown:
			return fmt.Errorf("%s in table %s: turned away, but an earlier try may have been done: %w", doing, s.Table, err)
		case !ofTransactions(err) || !again(ctx, try):
			return s.ours(ctx, doing, err)
		}
	}
}

// A witness sees each attempt that the SDK makes at one request: when the last
// of them is turned away, one before may have written all the same.
type witness struct {
	aws.Retryer
	unknown bool
}

// watch is an option of a request.
func (w *witness) watch(o *dynamodb.Options) {
	w.Retryer = o.Retryer
	o.Retryer = w
}

// IsErrorRetryable is asked after each attempt that did not go well.
func (w *witness) IsErrorRetryable(err error) bool {
	w.unknown = w.unknown || !turnedAway(err)
	return w.Retryer.IsErrorRetryable(err)
}

// refusal returns the item that refused a write, nil where there is none, and
// whether that is what the error says.
func refusal(err error) (stored item, refused bool) {
	var one *types.ConditionalCheckFailedException
	if errors.As(err, &one) {
		return one.Item, true
	}
	var several *types.TransactionCanceledException
	if errors.As(err, &several) {
		for _, reason := range several.CancellationReasons {
			if aws.ToString(reason.Code) == "ConditionalCheckFailed" {
				return reason.Item, true
			}
		}
	}
	return nil, false
}

// turnedAway reports whether DynamoDB had no capacity for a request, or met
// another transaction, and so did nothing. TransactionInProgressException is
// not of these: it says that an earlier try is being done.
func turnedAway(err error) bool {
	var several *types.TransactionCanceledException
	if errors.As(err, &several) {
		return len(several.CancellationReasons) > 0 &&
			!slices.ContainsFunc(several.CancellationReasons, func(reason types.CancellationReason) bool {
				switch aws.ToString(reason.Code) {
				case "None", "TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded":
					return false
				}
				return true
			})
	}
	var api smithy.APIError
	if !errors.As(err, &api) {
		return false
	}
	switch api.ErrorCode() {
	case "ThrottlingException", "ProvisionedThroughputExceededException", "RequestLimitExceeded", "TransactionConflictException":
		return true
	}
	return false
}

// ofTransactions reports whether err is one that the SDK does not try again.
func ofTransactions(err error) bool {
	var one *types.TransactionConflictException
	var several *types.TransactionCanceledException
	return errors.As(err, &one) || errors.As(err, &several)
}

// tries is how often a request is made that meets others.
const tries = 8

// again waits before the next try, 640 ms at most, and reports whether there
// is to be one.
func again(ctx context.Context, try int) bool {
	if try >= tries {
		return false
	}
	timer := time.NewTimer(rand.N(5 * time.Millisecond << try))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// ours turns the SDK's errors into the store's.
func (s *Store) ours(ctx context.Context, doing string, err error) error {
	var missing *types.ResourceNotFoundException
	var api smithy.APIError
	switch {
	case turnedAway(err):
		return fmt.Errorf("%s in table %s: %w: %w", doing, s.Table, store.ErrThrottled, err)
	case ctx.Err() != nil:
		return fmt.Errorf("%s in table %s: %w: %w", doing, s.Table, context.Cause(ctx), err)
	case errors.As(err, &missing):
		return fmt.Errorf("%s: %w: there is no table %s in this account and region: deploy the stage (template.yaml), or name another: %w",
			doing, store.ErrDeployment, s.Table, err)
	case errors.As(err, &api) && api.ErrorCode() == "AccessDeniedException":
		return fmt.Errorf("%s: %w: access to the table %s is denied: the role of this program must allow it there: %w",
			doing, store.ErrDeployment, s.Table, err)
	default:
		return fmt.Errorf("%s in table %s: %w", doing, s.Table, err)
	}
}
