package lambdahttp

import (
	"context"
	"io"
	"log/slog"

	"github.com/aws/aws-lambda-go/lambdacontext"
)

// NewLog returns a log of JSON lines. What is logged under an invocation's
// context has its request_id, as Lambda's own lines have.
func NewLog(w io.Writer) *slog.Logger {
	return slog.New(requestLog{slog.NewJSONHandler(w, nil)})
}

type requestLog struct{ slog.Handler }

// Handle adds the request id.
func (h requestLog) Handle(ctx context.Context, line slog.Record) error {
	if invocation, ok := lambdacontext.FromContext(ctx); ok {
		line.AddAttrs(slog.String("request_id", invocation.AwsRequestID))
	}
	return h.Handler.Handle(ctx, line)
}

// WithAttrs keeps the request id.
func (h requestLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return requestLog{h.Handler.WithAttrs(attrs)}
}

// WithGroup keeps the request id.
func (h requestLog) WithGroup(name string) slog.Handler { return requestLog{h.Handler.WithGroup(name)} }
