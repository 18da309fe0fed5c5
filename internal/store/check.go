package store

import (
	"fmt"
	"strings"

	"modulate/internal/promise"
)

// Holds reports whether the guard of w holds over a stored record of that rev;
// 0: none is stored.
func (w Write) Holds(rev uint64) bool {
	if w.Check {
		return rev != 0 && rev == w.Record.Rev
	}
	return rev == w.Record.Rev-1
}

// CheckWrites refuses what no caller of ReplaceAll may ask: more than
// [MaxWrites], one id twice, a record without an id or a rev.
func CheckWrites(writes []Write) error {
	if len(writes) > MaxWrites {
		return fmt.Errorf("%d writes at once are more than %d", len(writes), MaxWrites)
	}
	for i := range writes {
		rec := &writes[i].Record
		if rec.ID == "" || rec.Rev == 0 {
			return fmt.Errorf("writing %q at rev %d: both must be set", rec.ID, rec.Rev)
		}
		for k := range i {
			if writes[k].Record.ID == rec.ID {
				return fmt.Errorf("writing %s twice at once", rec.ID)
			}
		}
	}
	return nil
}

// MaxPage is the most records in a page.
const MaxPage = 1000

// Check refuses a limit that no store takes, and returns the place from which
// q is to be answered. ErrCursor.
func (q Query) Check() (after Position, err error) {
	if q.Limit < 1 || q.Limit > MaxPage {
		return Position{}, fmt.Errorf("listing %d records in a page: not within 1 and %d", q.Limit, MaxPage)
	}
	return ParseCursor(q.Cursor)
}

// Matches reports whether rec is a script's, and passes q's filters. Limit and
// Cursor are not filters.
func (q Query) Matches(rec promise.Record) bool {
	return !rec.Remote() && rec.Owner == q.Owner && rec.CreatedAt >= q.Since &&
		(q.Machine == "" || rec.Machine == q.Machine) &&
		(q.State == nil || rec.State == *q.State) && strings.HasPrefix(rec.ID, q.Prefix)
}
