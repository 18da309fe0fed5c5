package protocol

import (
	"math/bits"

	"modulate/internal/promise"
)

// The model of [TestLinearizable] is a call graph of three promises as one would
// keep it on paper: a workflow, a child with a task too, and a timer. It shares
// nothing with the core but its bounds.

// node is one of the promises; there, the zero node is none.
type node struct {
	there    bool
	state    string // of the promise
	task     string // of the task; "": it has none
	version  uint64
	pid      string
	leaseEnd int64
	failures int
	resumes  set
	awaiters set
	owed     set // whom its end has yet to resume
	created  int64
	ended    int64
	value    string
}

// set is a set of nodes, by number.
type set uint8

func one(n int) set { return 1 << n }

func (s set) has(n int) bool { return s&one(n) != 0 }

func (s set) count() int { return bits.OnesCount8(uint8(s)) }

// graph is the state of the model: the workflow, the child, the timer.
type graph [3]node

const timer = 2

// ask is what a client asks of a graph at a time.
type ask struct {
	kind    string
	graph   string
	n, m    int // the node; the other one of fences and callbacks
	awaits  set
	version uint64
	pid     string
	inner   string // of a fence
	state   string
	value   string
	now     int64
	begin   int64 // when the graph's first request was
}

// deadline is that of node n: the timer's and the child's pass.
func (a ask) deadline(n int) int64 { return a.begin + []int64{3_600_000, 11_000, 6_000}[n] }

// told is what it is answered, as far as it is answered that.
type told struct {
	status  int
	inner   int // of a fence
	promise shownPromise
	task    shownTask
}

type shownPromise struct {
	state          string
	created, ended int64
	value          string
}

func (s *shownPromise) of(p promiseView) {
	s.state, s.created = p.State, p.CreatedAt
	if p.SettledAt != nil {
		s.ended = *p.SettledAt
	}
	if p.Value.Data != nil {
		s.value = *p.Value.Data
	}
}

type shownTask struct {
	state   string
	version uint64
	resumes int
}

func (s *shownTask) of(t taskView) { s.state, s.version, s.resumes = t.State, t.Version, t.Resumes }

// ttl is that of every task, in milliseconds.
const ttl = 3_000

// follow returns the graph after a, and the answer to it. late says whose ends
// were stored without those whom they resume.
func (g graph) follow(a ask, late func(n int) bool) (graph, told) {
	s := sheet{graph: g, ask: a, late: late}
	s.look(a.n)
	s.do()
	return s.graph, s.told
}

// others are the nodes besides its own that a request may come to look at. A
// deadline that has passed is stored then, whatever it is answered in the end.
func (a ask) others() set {
	if a.kind == "task.fence" || a.kind == "promise.register_callback" {
		return one(a.m)
	}
	return a.awaits
}

// sheet is one request as it is worked out.
type sheet struct {
	graph
	ask
	told
	late func(n int) bool
}

func (s *sheet) show(n int) {
	p := s.graph[n]
	s.status, s.promise = 200, shownPromise{p.state, p.created, p.ended, p.value}
}

func (s *sheet) showTask(n int) {
	p := s.graph[n]
	s.status = 200
	s.task = shownTask{p.task, p.version, p.resumes.count()}
}

func (s *sheet) look(n int) {
	if p := s.graph[n]; p.there && p.state == "pending" && s.now >= s.deadline(n) {
		s.settle(n, expired(n), "", s.deadline(n))
	}
}

func expired(n int) string {
	if n == timer {
		return "resolved"
	}
	return "rejected_timedout"
}

func (s *sheet) settle(n int, state, value string, at int64) {
	p := &s.graph[n]
	p.state, p.value, p.ended = state, value, at
	if p.task != "" {
		p.task = "fulfilled"
	}
	p.pid, p.leaseEnd, p.resumes = "", 0, 0
	p.owed, p.awaiters = p.awaiters, 0
	if !s.late(n) {
		s.resume(n)
	}
}

// resume resumes who awaits n, which has ended.
func (s *sheet) resume(n int) {
	for m := range s.graph {
		if a := &s.graph[m]; s.graph[n].owed.has(m) && a.state == "pending" && s.now < s.deadline(m) {
			a.resumes |= one(n)
			if a.task == "suspended" {
				a.task = "pending"
			}
		}
	}
	s.graph[n].owed = 0
}

// create makes node n, its task taken by pid if that is given.
func (s *sheet) create(n int, pid string) {
	p := &s.graph[n]
	if p.there {
		return
	}
	*p = node{there: true, state: "pending", created: s.now}
	if n != timer {
		p.task = "pending"
	}
	switch {
	case s.now >= s.deadline(n):
		p.created = s.deadline(n)
		s.settle(n, expired(n), "", p.created)
	case pid != "":
		s.take(n)
	}
}

func (s *sheet) take(n int) {
	p := &s.graph[n]
	p.task, p.pid, p.leaseEnd, p.resumes = "acquired", s.pid, s.now+ttl, 0
	p.version++
}

// giveBack is what becomes of a task whose worker is gone.
func (s *sheet) giveBack(n int) {
	p := &s.graph[n]
	p.pid, p.leaseEnd, p.task = "", 0, "pending"
	if p.failures++; p.failures > promise.MaxFailures {
		s.settle(n, "rejected", "", s.now)
	}
}

// do works out the request.
func (s *sheet) do() {
	p := &s.graph[s.n]
	held := p.state == "pending" && p.task == "acquired" && p.version == s.version
	switch s.kind {
	case "promise.create":
		s.create(s.n, "")
		s.show(s.n)
	case "task.create":
		s.takeOrCreate()
	case "task.heartbeat":
		s.status = 200
		if held && p.pid == s.pid {
			p.leaseEnd = s.now + ttl
		}
	case "promise.get", "promise.settle", "promise.register_callback", "tick":
		if s.status = 404; p.there {
			s.ofPromise(p)
		}
	default:
		if s.status = 404; p.there && p.task != "" {
			s.status = 409
			s.ofTask(p, held)
		}
	}
}

func (s *sheet) takeOrCreate() {
	switch s.graph[s.n].task {
	case "":
		s.create(s.n, s.pid)
	case "pending":
		s.take(s.n)
	case "fulfilled":
	default:
		s.status = 409
		return
	}
	s.show(s.n)
	s.showTask(s.n)
}

func (s *sheet) ofPromise(p *node) {
	switch s.kind {
	case "promise.settle":
		if p.state == "pending" {
			s.settle(s.n, s.state, s.value, s.now)
		}
	case "promise.register_callback":
		s.look(s.m)
		awaiter := s.graph[s.m]
		if awaiter.task == "" {
			s.status = 422
			return
		}
		if awaiter.state == "pending" && p.state == "pending" {
			p.awaiters |= one(s.m)
		}
	case "tick":
		switch {
		case p.state != "pending":
			s.resume(s.n)
		case p.task == "acquired" && s.now >= p.leaseEnd:
			s.giveBack(s.n)
		}
		s.showTask(s.n)
	}
	s.show(s.n)
}

func (s *sheet) ofTask(p *node, held bool) {
	switch {
	case s.kind == "task.get":
		s.showTask(s.n)
	case s.kind == "task.acquire" && p.task == "pending" && p.version == s.version:
		s.take(s.n)
		s.show(s.n)
		s.showTask(s.n)
	case s.kind == "task.halt" && p.state == "pending":
		p.task, p.pid, p.leaseEnd = "halted", "", 0
		s.status = 200
	case s.kind == "task.continue" && p.task == "halted":
		p.task, p.failures = "pending", 0
		s.status = 200
	case s.kind == "task.release" && held:
		s.giveBack(s.n)
		s.status = 200
	case s.kind == "task.fulfill" && held:
		s.settle(s.n, s.state, s.value, s.now)
		s.show(s.n)
	case s.kind == "task.suspend" && held:
		s.suspend(p)
	case s.kind == "task.fence" && held:
		s.fence(p)
	}
}

func (s *sheet) suspend(p *node) {
	ready := false
	for n := range s.graph {
		if !s.awaits.has(n) {
			continue
		}
		if s.look(n); !s.graph[n].there {
			s.status = 422
			return
		}
		ready = ready || s.graph[n].state != "pending"
	}
	p.resumes = 0
	if s.status = 300; ready {
		return
	}
	s.status = 200
	p.task, p.pid, p.leaseEnd, p.failures = "suspended", "", 0, 0
	for n := range s.graph {
		if s.awaits.has(n) {
			s.graph[n].awaiters |= one(s.n)
		}
	}
}

// fence does something under a task. Only that shows that its worker gets on.
func (s *sheet) fence(p *node) {
	s.look(s.m)
	other := s.graph[s.m]
	switch {
	case s.ask.inner == "promise.create":
		s.create(s.m, "")
	case !other.there:
		s.status, s.told.inner = 200, 404
		return
	case other.state == "pending":
		s.settle(s.m, s.state, s.value, s.now)
	}
	if s.graph[s.m] != other {
		p.failures = 0
	}
	s.show(s.m)
	s.told.inner = 200
}
