package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"

	"modulate/internal/account"
	"modulate/internal/api"
)

// whichStage returns the stage that is named; "": none is. A flag comes before
// a variable, also where they say different places.
func (a *app) whichStage() (string, error) {
	stage := a.stage
	if stage == "" && a.url == "" && a.dir == "" {
		if base, _ := a.getenv("MODULATE_URL"); base == "" {
			stage, _ = a.getenv("MODULATE_STAGE")
		}
	}
	switch {
	case stage == "":
		return "", nil
	case a.url != "" || a.dir != "":
		return "", badInput("--stage excludes --url and --dir: a stage is found by the outputs of its stack")
	case !account.ValidStage(stage):
		return "", badInput("--stage %q: want a lower-case letter, then at most 15 of a-z and 0-9, and neither dlq nor sdk", stage)
	}
	return stage, nil
}

// onStage returns the service of a stage of the AWS account.
func (a *app) onStage(ctx context.Context, stage string) (*service, error) {
	acc, err := account.Open(ctx)
	if err != nil {
		return nil, err
	}
	base, err := stageURL(ctx, acc, stage)
	if err != nil {
		return nil, err
	}
	return a.signed(acc, base)
}

// stageURL returns where the API of a stage is.
func stageURL(ctx context.Context, acc *account.Account, stage string) (string, error) {
	outputs, err := acc.Outputs(ctx, stage)
	if err != nil {
		return "", err
	}
	base := outputs["Url"]
	if base == "" {
		return "", badInput("the stack of stage %s has no output Url", stage).hint("see whether it is deployed to its end: sam deploy --config-env %s", stage)
	}
	return base, nil
}

// onAWS returns the service at a URL of AWS.
func (a *app) onAWS(ctx context.Context, base string) (*service, error) {
	acc, err := account.Open(ctx)
	if err == nil {
		err = acc.Check(ctx)
	}
	if err != nil {
		return nil, err
	}
	return a.signed(acc, base)
}

// signed returns the service at base, whose requests are signed.
func (a *app) signed(acc *account.Account, base string) (*service, error) {
	u, err := url.Parse(base)
	if err != nil {
		return nil, badInput("the address %q is not a URL: %w", base, err)
	}
	svc := a.over(&link{next: acc.Sign(newTransport(), account.Gateway(u.Host)), address: base}, base)
	svc.aws = true
	return svc, nil
}

// barred marks what AWS refuses, so that nobody tries it again.
func barred(err error) error {
	var trouble *account.Trouble
	if errors.As(err, &trouble) {
		return fmt.Errorf("%w: %w", api.ErrBarred, trouble)
	}
	return err
}

// awsFailure says what AWS has against it.
func awsFailure(t *account.Trouble) *failure {
	f := &failure{code: exitFailed, err: t}
	switch t.Kind {
	case account.ErrUnreachable:
		f.code = exitUnreachable
	case account.ErrMissing, account.ErrRegion:
		f.code = exitInput
	}
	return f.hint("%s", t.Hint)
}

// A stageExamination is what doctor looks at where a stage is named. Each look
// needs what the one before has found.
type stageExamination struct {
	*examination
	stage   string
	account *account.Account // nil: not to be had
	url     string           // "": not known
}

// seeCredentials looks for credentials, without asking AWS for its opinion.
func (d *stageExamination) seeCredentials(ctx context.Context) finding {
	acc, err := account.Open(ctx)
	if err == nil {
		err = acc.Check(ctx)
	}
	if err != nil {
		return finding{"login", true, withHint(err)}
	}
	d.account = acc
	return finding{"login", false, "there are credentials; the region is " + acc.Config.Region}
}

// seeStack asks for the outputs of the stage's stack.
func (d *stageExamination) seeStack(ctx context.Context) finding {
	if d.account == nil {
		return finding{"stack", true, "not looked at without credentials"}
	}
	base, err := stageURL(ctx, d.account, d.stage)
	if err != nil {
		return finding{"stack", true, withHint(err)}
	}
	d.url = base
	return finding{"stack", false, "stage " + d.stage + " is at " + base}
}

// seeClock compares the clocks. AWS refuses signatures that are too old.
func (d *stageExamination) seeClock(context.Context) finding {
	if d.account == nil {
		return finding{"clock", true, "not compared without credentials"}
	}
	ahead, heard := d.account.Clock.Skew()
	if !heard {
		return finding{"clock", true, "not compared: AWS has not answered"}
	}
	if err := d.account.SkewTrouble(account.SignatureAge); err != nil {
		return finding{"clock", true, withHint(err)}
	}
	return finding{"clock", false, fmt.Sprintf("%s off that of AWS; up to %s do no harm", span(ahead.Abs()), account.SignatureAge)}
}

// seeRouter asks the stage's API for its machines.
func (d *stageExamination) seeRouter(ctx context.Context) finding {
	if d.url == "" {
		return finding{"server", true, "not looked at without its address"}
	}
	svc, err := d.signed(d.account, d.url)
	if err != nil {
		return finding{"server", true, err.Error()}
	}
	defer svc.close()
	return svc.examine(ctx)
}

// withHint is what err says and what to do about it, in one line.
func withHint(err error) string {
	f := asFailure(err)
	text := f.Error()
	for _, h := range f.hints {
		text += "; " + h
	}
	return text
}
