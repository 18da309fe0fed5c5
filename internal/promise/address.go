package promise

import (
	"encoding/hex"
	"net/url"
	"strings"
)

// SDKQueue is what the name of a queue of the protocol's tasks begins with; the
// group follows. No machine's name does.
const SDKQueue = "sdk:"

// An Address says who is to hear of something: poll://any@GROUP is anyone of a
// group, poll://any@GROUP/ID whoever has that id if there is one, else anyone,
// and poll://uni@GROUP/ID nobody else.
type Address struct {
	Group string
	ID    string
	Only  bool // poll://uni
}

// maxAddress is the longest address, in bytes.
const maxAddress = 1024

// ParseAddress reads an address.
func ParseAddress(s string) (Address, bool) {
	rest, ok := strings.CutPrefix(s, "poll://")
	if !ok || len(s) > maxAddress {
		return Address{}, false
	}
	cast, rest, _ := strings.Cut(rest, "@")
	group, id, _ := strings.Cut(rest, "/")
	group, err := url.PathUnescape(group)
	a := Address{Group: group, ID: id, Only: cast == "uni"}
	ok = err == nil && group != "" && !strings.Contains(id, "/") &&
		(cast == "any" || cast == "uni" && id != "")
	return a, ok
}

// plain reports whether c stands for itself in a stored id.
func plain(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		c == '_' || c == '-' || c == '.' || c == ':'
}

// EncodeID returns the id under which a promise of the protocol is stored: that
// id, with each byte but letters, digits and _-.: as % and two hexadecimal
// digits, and so the first one if it is a separator. Two ids never meet.
func EncodeID(id string) string {
	var b strings.Builder
	for i := range len(id) {
		c := id[i]
		if plain(c) && !(i == 0 && (c == '.' || c == ':')) {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('%')
		b.WriteString(strings.ToUpper(hex.EncodeToString([]byte{c})))
	}
	return b.String()
}

// DecodeID reads what [EncodeID] wrote.
func DecodeID(stored string) string {
	if !strings.Contains(stored, "%") {
		return stored
	}
	id, err := url.PathUnescape(stored)
	if err != nil {
		return stored
	}
	return id
}

// ValidStoredID reports whether id may name a record: what [EncodeID] returns,
// up to [MaxChildID] bytes, and what only we use.
func ValidStoredID(id string) bool {
	if id == "" || len(id) > MaxChildID || id[0] == '.' || id[0] == ':' {
		return false
	}
	for i := range len(id) {
		if !plain(id[i]) && id[i] != '%' {
			return false
		}
	}
	return true
}

// OriginOf returns the part of an id that names its call graph: what stands
// before its first ":", if it has one, else before its first ".".
func OriginOf(id string) string {
	if origin, _, ok := strings.Cut(id, ":"); ok {
		return origin
	}
	origin, _, _ := strings.Cut(id, ".")
	return origin
}

// Origin returns the call graph that the promise says it belongs to, or else
// that of its id.
func (r Record) Origin() string {
	if o := r.Tag(TagOrigin); o != "" {
		return o
	}
	return OriginOf(DecodeID(r.ID))
}

// NewRemote returns what a promise of the protocol is created with.
func NewRemote(owner, id string, deadline Time, p Protocol) Record {
	rec := Record{ID: EncodeID(id), Owner: owner, Machine: SDKQueue, DeadlineAt: deadline, Protocol: &p}
	if a, ok := ParseAddress(p.Tags[TagTarget]); ok {
		rec.Machine = SDKQueue + a.Group
	}
	return rec
}

// Schedules is the id whose descendants are the schedules. [EncodeID] returns
// nothing like it.
const Schedules = "%schedule"

// ScheduleID returns the id under which a schedule is stored.
func ScheduleID(id string) string { return Schedules + ":" + EncodeID(id) }

// NewSchedule returns what a schedule is created with.
func NewSchedule(owner string, c Schedule) Record {
	return Record{
		ID: ScheduleID(c.ID), Owner: owner, Machine: SDKQueue, DeadlineAt: 1<<63 - 1, Protocol: &Protocol{Schedule: &c},
	}
}
