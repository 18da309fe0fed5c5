package emulator

import (
	"os"
	"testing"
)

// Main runs the tests and stops what they started. It is all that a TestMain
// does, or its last statement.
func Main(m *testing.M) {
	m.Run() // whose code the process exits with when TestMain returns
	for _, e := range []*emulator{ministack, dynamoDB, elasticMQ} {
		e.stop()
	}
}

// missing skips a test that what is installed does not allow. With CI=1 all of
// it must be there.
func missing(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "1" {
		t.Fatal(why)
	}
	t.Skip(why)
}
