package sqlitestore

import (
	"context"

	"modulate/internal/promise"
	"modulate/internal/sqlite"
	"modulate/internal/store"
)

// Announce is that of [store.Roster].
func (s *Store) Announce(ctx context.Context, p store.Presence) error {
	return ours(s.db.Write(ctx, func(tx *sqlite.Tx) error {
		if _, err := tx.Exec("INSERT INTO machine (name) VALUES (?) ON CONFLICT DO NOTHING", p.Machine); err != nil {
			return err
		}
		_, err := tx.Exec(`INSERT INTO worker (name, machine, slots, running, started_at, seen_at)
			VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET machine = excluded.machine,
			slots = excluded.slots, running = excluded.running,
			started_at = excluded.started_at, seen_at = excluded.seen_at`,
			p.Worker, p.Machine, int64(p.Slots), int64(p.Running), int64(p.Started), int64(p.Seen))
		return err
	}))
}

// Retire is that of [store.Roster].
func (s *Store) Retire(ctx context.Context, worker string) error {
	return ours(s.db.Write(ctx, func(tx *sqlite.Tx) error {
		_, err := tx.Exec("DELETE FROM worker WHERE name = ?", worker)
		return err
	}))
}

// Present is that of [store.Roster].
func (s *Store) Present(ctx context.Context, since promise.Time) ([]store.Presence, error) {
	var present []store.Presence
	err := s.db.Read(ctx, func(c *sqlite.Conn) error {
		return c.Query(`SELECT name, machine, slots, running, started_at, seen_at FROM worker
			WHERE seen_at >= ? ORDER BY machine, name`, func(row []any) error {
			present = append(present, store.Presence{
				Worker: row[0].(string), Machine: row[1].(string),
				Slots: int(row[2].(int64)), Running: int(row[3].(int64)),
				Started: promise.Time(row[4].(int64)), Seen: promise.Time(row[5].(int64)),
			})
			return nil
		}, int64(since))
	})
	return present, ours(err)
}

// Machines is that of [store.Roster].
func (s *Store) Machines(ctx context.Context) ([]string, error) {
	var names []string
	err := s.db.Read(ctx, func(c *sqlite.Conn) error {
		return c.Query("SELECT name FROM machine ORDER BY name", func(row []any) error {
			names = append(names, row[0].(string))
			return nil
		})
	})
	return names, ours(err)
}
