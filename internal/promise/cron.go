package promise

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// A Cron is a set of instants, in UTC: those whose second, minute, hour, day,
// month and year are all in it. Day of month and day of week are as in cron(8):
// where both are restricted, one of them is enough.
type Cron struct {
	second, minute, hour, day, month, weekday uint64 // bit n: n is in it
	years                                     map[int]bool
	anyDay, anyWeekday                        bool
}

// cronField says what one field of an expression may hold.
type cronField struct {
	name        string
	least, most int
	names       string // of its values from least on, three letters each
}

var cronFields = [...]cronField{
	{"second", 0, 59, ""}, {"minute", 0, 59, ""}, {"hour", 0, 23, ""}, {"day", 1, 31, ""},
	{"month", 1, 12, "janfebmaraprmayjunjulaugsepoctnovdec"}, {"weekday", 0, 7, "sunmontuewedthufrisat"},
	{"year", 1970, 2199, ""},
}

// ParseCron reads five fields (minute, hour, day, month, weekday), six (a second
// before them) or seven (a year behind). A field is *, a value, a range a-b,
// each with /step, or a list of those. Sunday is 0 and 7.
func ParseCron(text string) (c Cron, err error) {
	fields := strings.Fields(text)
	if len(fields) == 5 {
		fields = append([]string{"0"}, fields...)
	}
	if len(fields) != 6 && len(fields) != 7 {
		return Cron{}, fmt.Errorf("cron %q: %d fields, want 5, 6 or 7", text, len(fields))
	}
	into := [...]*uint64{&c.second, &c.minute, &c.hour, &c.day, &c.month, &c.weekday}
	for n, field := range fields {
		values, err := cronFields[n].parse(field)
		if err != nil {
			return Cron{}, fmt.Errorf("cron %q: %w", text, err)
		}
		if n == len(into) {
			c.years = values
			continue
		}
		for v := range values {
			*into[n] |= 1 << v
		}
	}
	if c.weekday&(1<<7) != 0 {
		c.weekday |= 1
	}
	c.anyDay, c.anyWeekday = free(fields[3]), free(fields[5])
	return c, nil
}

// free reports whether a field restricts nothing.
func free(field string) bool { return field == "*" || field == "?" }

// parse returns the values that a field names.
func (f cronField) parse(text string) (map[int]bool, error) {
	values := map[int]bool{}
	for part := range strings.SplitSeq(text, ",") {
		span, stepText, stepped := strings.Cut(part, "/")
		step := 1
		if stepped {
			var err error
			if step, err = strconv.Atoi(stepText); err != nil || step < 1 {
				return nil, fmt.Errorf("%s %q: %q is no step", f.name, text, stepText)
			}
		}
		low, high := f.least, f.most
		if !free(span) {
			first, last, ranged := strings.Cut(span, "-")
			var ok, ok2 bool
			low, ok = f.value(first)
			high, ok2 = low, true
			if ranged {
				high, ok2 = f.value(last)
			} else if stepped {
				high = f.most
			}
			if !ok || !ok2 || high < low {
				return nil, fmt.Errorf("%s %q: %q is not within %d and %d", f.name, text, span, f.least, f.most)
			}
		}
		for v := low; v <= high; v += step {
			values[v] = true
		}
	}
	return values, nil
}

// value returns a number, or what a name stands for.
func (f cronField) value(text string) (int, bool) {
	if i := strings.Index(f.names, strings.ToLower(text)); len(text) == 3 && i >= 0 && i%3 == 0 {
		return f.least + i/3, true
	}
	v, err := strconv.Atoi(text)
	return v, err == nil && v >= f.least && v <= f.most
}

// Next returns the first instant of c after t; 0: there is none within 8 years
// of days, which is longer than any leap day is away, or in the years named.
func (c Cron) Next(t Time) Time {
	at := t.Std().Truncate(time.Second).Add(time.Second)
	end := at.AddDate(9, 0, 0)
	for y := range c.years {
		if last := time.Date(y+1, 1, 1, 0, 0, 0, 0, time.UTC); last.After(end) {
			end = last
		}
	}
	for at.Before(end) {
		switch {
		case c.years != nil && !c.years[at.Year()]:
			at = time.Date(at.Year()+1, 1, 1, 0, 0, 0, 0, time.UTC)
		case c.month&(1<<at.Month()) == 0:
			at = time.Date(at.Year(), at.Month()+1, 1, 0, 0, 0, 0, time.UTC)
		case !c.onDay(at):
			at = time.Date(at.Year(), at.Month(), at.Day()+1, 0, 0, 0, 0, time.UTC)
		case c.hour&(1<<at.Hour()) == 0:
			at = at.Truncate(time.Hour).Add(time.Hour)
		case c.minute&(1<<at.Minute()) == 0:
			at = at.Truncate(time.Minute).Add(time.Minute)
		case c.second&(1<<at.Second()) == 0:
			at = at.Add(time.Second)
		default:
			return TimeOf(at)
		}
	}
	return 0
}

// onDay reports whether the day of at is in c.
func (c Cron) onDay(at time.Time) bool {
	day, weekday := c.day&(1<<at.Day()) != 0, c.weekday&(1<<at.Weekday()) != 0
	if c.anyDay || c.anyWeekday {
		return day && weekday
	}
	return day || weekday
}
