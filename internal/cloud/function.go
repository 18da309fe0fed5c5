package cloud

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/aws/smithy-go/logging"

	"modulate/internal/account"
)

// OpenFunction opens the stage that a Lambda function belongs to, as its
// environment says: MODULATE_STAGE, MODULATE_TABLE, MODULATE_BUCKET. Region and
// credentials are where the SDK looks for them.
func OpenFunction(ctx context.Context, getenv func(string) string, log *slog.Logger) (*Cloud, error) {
	cfg := Config{Stage: getenv("MODULATE_STAGE"), Table: getenv("MODULATE_TABLE"), Bucket: getenv("MODULATE_BUCKET"), Log: log}
	if cfg.Stage == "" {
		return nil, errors.New("MODULATE_STAGE is not set: name the stage that this function belongs to")
	}
	a, err := account.Open(ctx)
	if err != nil {
		return nil, err
	}
	cfg.AWS = a.Config
	cfg.AWS.Logger = logging.LoggerFunc(func(_ logging.Classification, format string, args ...any) {
		log.Warn("the SDK says", "text", fmt.Sprintf(format, args...))
	})
	return Open(ctx, cfg)
}
