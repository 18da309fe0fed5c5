package promise

import (
	"maps"
	"math"
	"strconv"
	"strings"
)

// A Schedule creates a promise at each time that a [Cron] names. It is stored
// as a record of its own that is pending until it is deleted.
type Schedule struct {
	Cron      string            `cbor:"1,keyasint"`
	PromiseID string            `cbor:"2,keyasint"` // a template, see [Schedule.Promise]
	Timeout   int64             `cbor:"3,keyasint"` // of each promise, milliseconds
	Param     Value             `cbor:"4,keyasint,omitzero"`
	Tags      map[string]string `cbor:"5,keyasint,omitempty"`
	NextAt    Time              `cbor:"6,keyasint"`
	LastAt    Time              `cbor:"7,keyasint,omitempty"`
	ID        string            `cbor:"8,keyasint"` // as its maker wrote it
}

// schedule returns what the record schedules, nil if it is a promise.
func (r Record) schedule() *Schedule {
	if r.Protocol == nil {
		return nil
	}
	return r.Protocol.Schedule
}

// Fired reports that the promise of the run at At exists.
type Fired struct{ At Time }

// Reschedule makes a schedule anew where one was deleted. ErrExists.
type Reschedule struct{ Schedule Schedule }

// Run returns the promise of the run of rec, a schedule's record, at at.
func (r Record) Run(at Time) Record {
	c := r.schedule()
	id, tags, deadline := c.Run(at)
	return NewRemote(r.Owner, id, deadline, Protocol{Param: c.Param, Tags: tags, Exact: r.Protocol.Exact})
}

// Run returns the id, the tags and the deadline of the promise of the run at
// at. The id is the template with {{.id}} and {{.timestamp}} filled in.
func (c Schedule) Run(at Time) (id string, tags map[string]string, deadline Time) {
	id = strings.NewReplacer("{{.id}}", c.ID, "{{.timestamp}}", strconv.FormatInt(int64(at), 10)).Replace(c.PromiseID)
	tags = maps.Clone(c.Tags)
	if tags == nil {
		tags = make(map[string]string)
	}
	tags["resonate:schedule"] = c.ID
	for _, name := range []string{TagOrigin, TagBranch, "resonate:parent", "resonate:prefix"} {
		tags[name] = id
	}
	return id, tags, at + min(Time(c.Timeout), math.MaxInt64-at)
}

// fired moves the schedule on to its next run.
func (s *step) fired(ev Fired) error {
	p := s.rec.Protocol
	if p == nil || p.Schedule == nil {
		return ErrState
	}
	if s.rec.State.Terminal() || p.Schedule.NextAt != ev.At {
		return nil // it was moved on, or deleted, by another
	}
	next := *p.Schedule
	next.LastAt = ev.At
	next.NextAt = next.following(ev.At)
	s.protocol().Schedule = &next
	return nil
}

// reschedule makes a schedule anew over one that was deleted.
func (s *step) reschedule(ev Reschedule) error {
	if !s.rec.State.Terminal() || s.rec.Protocol == nil || s.rec.Protocol.Schedule == nil {
		return ErrExists
	}
	s.protocol().Schedule = ev.Schedule.at(s.now)
	s.rec.State, s.rec.SettledAt, s.rec.CreatedAt = Pending, 0, s.now
	return nil
}

// at returns the schedule as it begins.
func (c Schedule) at(now Time) *Schedule {
	c.Param.Headers, c.Tags = maps.Clone(c.Param.Headers), maps.Clone(c.Tags)
	c.LastAt, c.NextAt = 0, c.following(now)
	return &c
}

// following returns the run after at; 0: there is none any more.
func (c Schedule) following(at Time) Time {
	cron, err := ParseCron(c.Cron)
	if err != nil { // the door has parsed it
		return 0
	}
	return cron.Next(at)
}
