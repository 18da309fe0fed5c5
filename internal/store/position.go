package store

import (
	"encoding/base64"
	"strconv"
	"strings"

	"modulate/internal/promise"
)

// A Position is a place in a list: that of the record with these values. The
// stores of this repository whose cursors need nothing else make them of it.
type Position struct {
	CreatedAt promise.Time
	ID        string
}

// PositionOf returns where rec stands.
func PositionOf(rec promise.Record) Position { return Position{rec.CreatedAt, rec.ID} }

// Compare is negative when p comes before q in a list, that is when it is
// newer: CreatedAt, then ID, both descending.
func (p Position) Compare(q Position) int {
	if p.CreatedAt != q.CreatedAt {
		if p.CreatedAt > q.CreatedAt {
			return -1
		}
		return 1
	}
	return strings.Compare(q.ID, p.ID)
}

// Cursor returns p as the cursor of a page that ends at p.
func (p Position) Cursor() string {
	return base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatInt(int64(p.CreatedAt), 10) + " " + p.ID))
}

// ParseCursor reads what [Position.Cursor] wrote, or fails with [ErrCursor].
// The empty cursor is the place before the newest record.
func ParseCursor(cursor string) (Position, error) {
	if cursor == "" {
		return Position{CreatedAt: 1<<63 - 1}, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil {
		return Position{}, ErrCursor
	}
	at, id, ok := strings.Cut(string(b), " ")
	created, err := strconv.ParseInt(at, 10, 64)
	if !ok || err != nil || !promise.ValidStoredID(id) {
		return Position{}, ErrCursor
	}
	return Position{promise.Time(created), id}, nil
}
