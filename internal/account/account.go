// Package account is an AWS account as our commands meet it: the configuration
// that people have anyway (profile, region, credentials), a clock to compare
// ours with, the outputs of a stage's stack, requests signed for its API, and
// the errors of all this as sentences that say what to do.
package account

import (
	"context"
	"errors"
	"fmt"
	"regexp"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
)

// An Account is one that Open has found the configuration of. Its methods may
// be called from any goroutine.
type Account struct {
	Config aws.Config // its HTTP client feeds Clock
	Clock  *Clock

	profile string // "": none is named
}

// Open reads the configuration where the SDK does: the environment (AWS_PROFILE,
// AWS_REGION and the rest) and the files in ~/.aws. It asks AWS nothing. Errors
// are [*Trouble].
func Open(ctx context.Context) (*Account, error) {
	cfg, err := config.LoadDefaultConfig(ctx)
	var unknown config.SharedConfigProfileNotExistError
	switch {
	case errors.As(err, &unknown):
		return nil, &Trouble{
			Kind: ErrCredentials, Text: fmt.Sprintf("there is no AWS profile %q", unknown.Profile),
			Hint: "set AWS_PROFILE to one of those that `aws configure list-profiles` lists", Err: err,
		}
	case err != nil:
		return nil, &Trouble{
			Kind: ErrCredentials, Text: fmt.Sprintf("the AWS configuration cannot be used: %v", err),
			Hint: "see ~/.aws/config, ~/.aws/credentials and the variables that start with AWS_", Err: err,
		}
	case cfg.Region == "":
		return nil, &Trouble{
			Kind: ErrRegion, Text: "no AWS region is set",
			Hint: "set AWS_REGION, such as AWS_REGION=us-east-1, or region in the profile",
		}
	}
	a := &Account{Config: cfg, Clock: &Clock{next: cfg.HTTPClient}}
	if cfg.HTTPClient == nil {
		a.Clock.next = awshttp.NewBuildableClient() // the SDK's own
	}
	a.Config.HTTPClient = a.Clock
	for _, source := range cfg.ConfigSources {
		if shared, ok := source.(config.SharedConfig); ok {
			a.profile = shared.Profile
		}
	}
	return a, nil
}

// Check returns why there are no credentials, nil where there are. Whether AWS
// takes them only AWS can tell.
func (a *Account) Check(ctx context.Context) error {
	if _, err := a.Config.Credentials.Retrieve(ctx); err != nil {
		return a.noCredentials(err)
	}
	return nil
}

// stagePattern is a stage's name: design.md, "DynamoDB, SQS, S3".
var stagePattern = regexp.MustCompile(`^[a-z][a-z0-9]{0,15}$`)

// ValidStage reports whether a stage can have that name. Queues of two stages
// could have one name otherwise.
func ValidStage(name string) bool {
	return stagePattern.MatchString(name) && name != "dlq" && name != "sdk"
}

// Outputs returns the outputs of a stage's stack. ErrMissing, and the others
// of [Trouble].
func (a *Account) Outputs(ctx context.Context, stage string) (map[string]string, error) {
	if err := a.Check(ctx); err != nil {
		return nil, err
	}
	name := "modulate-" + stage // as template.yaml is deployed
	out, err := cloudformation.NewFromConfig(a.Config).DescribeStacks(ctx, &cloudformation.DescribeStacksInput{StackName: &name})
	if code(err) == "ValidationError" { // what CloudFormation says of a name that it does not know
		return nil, &Trouble{
			Kind: ErrMissing, Text: fmt.Sprintf("there is no stack %s in %s%s", name, a.Config.Region, a.ofProfile()), Err: err,
			Hint: fmt.Sprintf("deploy it with `sam build && sam deploy --config-env %s`, or set AWS_REGION and AWS_PROFILE to where it is", stage),
		}
	}
	if err != nil {
		return nil, a.Explain(err)
	}
	outputs := make(map[string]string)
	for _, stack := range out.Stacks {
		for _, o := range stack.Outputs {
			outputs[aws.ToString(o.OutputKey)] = aws.ToString(o.OutputValue)
		}
	}
	return outputs, nil
}
