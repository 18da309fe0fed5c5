package modulate_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// failures is the number of rows of docs/failures.md.
const failures = 72

// waits says what the rest of a row is left to. A row with no test must say so.
var waits = regexp.MustCompile(`Waits for (the keeper|the fleet|webhooks)`)

// TestFailuresHaveTheirTests wants every row of docs/failures.md to be there
// once, in order, and to name tests that exist, or what it waits for.
func TestFailuresHaveTheirTests(t *testing.T) {
	rows, err := failureRows(read(t, "docs/failures.md"))
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != failures {
		t.Errorf("%d rows, want %d", len(rows), failures)
	}
	for i, row := range rows {
		if row.number != i+1 {
			t.Errorf("row %d comes as the %d.", row.number, i+1)
		}
		if len(row.tests) == 0 && !row.waits {
			t.Errorf("row %d names no test, nor what it waits for", row.number)
		}
		for _, test := range row.tests {
			if err := test.find(); err != nil {
				t.Errorf("row %d: %v", row.number, err)
			}
		}
	}
}

// failureRow is a row of the table, namedTest a test that it names: a file or a
// package, and a function in it.
type (
	failureRow struct {
		number int
		tests  []namedTest
		waits  bool
	}
	namedTest struct{ path, name string }
)

// failureRows reads the table.
func failureRows(text string) (rows []failureRow, err error) {
	for line := range strings.Lines(text) {
		cells := strings.Split(strings.TrimSpace(line), " | ")
		number, err := strconv.Atoi(strings.TrimPrefix(cells[0], "| "))
		if err != nil {
			continue // no row
		}
		if len(cells) != 4 {
			return nil, fmt.Errorf("row %d has %d cells, want 4", number, len(cells))
		}
		row := failureRow{number: number, waits: waits.MatchString(cells[2])}
		for _, m := range quoted.FindAllStringSubmatch(cells[3], -1) {
			where, names, _ := strings.Cut(m[1], ": ")
			for name := range strings.FieldsSeq(names) {
				row.tests = append(row.tests, namedTest{where, name})
			}
			if names == "" {
				return nil, fmt.Errorf("row %d: %s names no test", number, m[1])
			}
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// find returns an error unless the test is where it is said to be.
func (n namedTest) find() error {
	files := []string{n.path}
	if !strings.HasSuffix(n.path, "_test.go") {
		var err error
		if files, err = filepath.Glob(filepath.Join(n.path, "*_test.go")); err != nil {
			return err
		}
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if strings.Contains(string(text), "\nfunc "+n.name+"(") {
			return nil
		}
	}
	return fmt.Errorf("%s has no %s", n.path, n.name)
}

// TestFailureRowsBroken breaks a row in each way that
// TestFailuresHaveTheirTests is there to notice.
func TestFailureRowsBroken(t *testing.T) {
	const row = "| 7 | what | then | `%s` |\n"
	for _, test := range []string{"docs_test.go: TestNamedPaths", ".: TestNamedPaths TestSizes"} {
		rows, err := failureRows(fmt.Sprintf(row, test))
		if err != nil || len(rows) != 1 || rows[0].number != 7 || len(rows[0].tests) == 0 || rows[0].tests[0].find() != nil {
			t.Errorf("%s: got %+v, %v", test, rows, err)
		}
	}
	for _, test := range []string{"docs_test.go: TestSizes", "docs_test.go: TestNamed", "gone_test.go: TestNamedPaths", "internal/gone: TestNamedPaths"} {
		if rows, err := failureRows(fmt.Sprintf(row, test)); err != nil || rows[0].tests[0].find() == nil {
			t.Errorf("%s is found: %v", test, err)
		}
	}
	for _, text := range []string{"| 7 | what | then |\n", fmt.Sprintf(row, "internal/gone")} {
		if rows, err := failureRows(text); err == nil {
			t.Errorf("%q reads as %+v", text, rows)
		}
	}
}

// TestAlarms wants an alarm, and somebody who hears it, for what nothing in the
// system can repair: rows 17, 28, 36 and 41.
func TestAlarms(t *testing.T) {
	for _, want := range []struct {
		file, alarm string
		metrics     []string
		threshold   int
		comparison  string
	}{
		{stageTemplate, "SweepAlarm", []string{"Invocations", "Errors"}, 1, "LessThanThreshold"},
		{stageTemplate, "ThrottleAlarm", []string{"WriteThrottleEvents", "ReadThrottleEvents"}, 0, "GreaterThanThreshold"},
		{machineTemplate, "InFlightAlarm", []string{"ApproximateNumberOfMessagesNotVisible"}, 100_000, "GreaterThanOrEqualToThreshold"},
		{machineTemplate, "DeadLettersAlarm", []string{"ApproximateNumberOfMessagesVisible"}, 0, "GreaterThanThreshold"},
	} {
		tmpl, err := parseTemplate(read(t, want.file))
		if err != nil {
			t.Fatal(err)
		}
		alarm := resources(tmpl, "AWS::CloudWatch::Alarm")[want.alarm]
		for _, metric := range want.metrics {
			if !slices.Contains(metricsOf(alarm), metric) {
				t.Errorf("%s does not look at %s", want.alarm, metric)
			}
		}
		if at(alarm, "Threshold") != want.threshold || at(alarm, "ComparisonOperator") != want.comparison {
			t.Errorf("%s rings at %v %v, want %s %v", want.alarm, at(alarm, "ComparisonOperator"), at(alarm, "Threshold"), want.comparison, want.threshold)
		}
		if at(alarm, "AlarmActions") == nil {
			t.Errorf("nobody hears %s", want.alarm)
		}
		if want.alarm == "SweepAlarm" && at(alarm, "TreatMissingData") != "breaching" {
			t.Error("no sweep at all is no alarm")
		}
	}
}

// metricsOf are the names of the metrics that an alarm looks at.
func metricsOf(alarm object) (names []string) {
	walkObjects(alarm, func(o object) {
		if name, ok := o["MetricName"].(string); ok {
			names = append(names, name)
		}
	})
	return names
}
