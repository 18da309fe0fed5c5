package emulator_test

import (
	"net/http"
	"testing"

	"go.uber.org/goleak"

	"modulate/internal/emulator"
)

func TestMain(m *testing.M) { emulator.Main(m) }

func TestEachAnswersAndIsStartedOnce(t *testing.T) {
	for name, start := range map[string]func(testing.TB) string{
		"MiniStack": emulator.AWS, "DynamoDB Local": emulator.DynamoDB, "ElasticMQ": emulator.SQS,
	} {
		t.Run(name, func(t *testing.T) {
			defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
			endpoint := start(t)
			if again := start(t); again != endpoint {
				t.Errorf("at %s, then at %s", endpoint, again)
			}
			cfg := emulator.Config(t, endpoint)
			if *cfg.BaseEndpoint != endpoint {
				t.Errorf("the configuration leads to %s", *cfg.BaseEndpoint)
			}
			res, err := http.DefaultClient.Get(endpoint)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			http.DefaultClient.CloseIdleConnections()
		})
	}
}
