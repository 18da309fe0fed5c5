package local

import (
	"context"
	"fmt"

	"modulate/internal/sqlite"
)

// Check reads the whole store and returns what is wrong with it, in SQLite's
// words; none: it is sound. It takes seconds where there are millions of
// promises, and writes nothing.
func (l *Local) Check(ctx context.Context) (faults []string, err error) {
	err = l.db.Read(ctx, func(c *sqlite.Conn) error {
		return c.Query("PRAGMA integrity_check", func(row []any) error {
			if said := fmt.Sprint(row[0]); said != "ok" {
				faults = append(faults, said)
			}
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("checking the store: %w", err)
	}
	return faults, nil
}
