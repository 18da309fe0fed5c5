// Package dynamostore is the store of a stage on AWS: promises and roster in
// one DynamoDB table. The template declares the table; this is its schema.
//
// # Keys
//
// The partition key is p (string), the sort key i (string). The stream is off,
// the table is billed on demand, and x (number, seconds since 1970) is its
// time-to-live attribute: for collecting garbage only, what is past it and
// still there is as good as any.
//
//	p             i         what                    written by
//	the graph     the id    a promise               Create, Replace, ReplaceAll
//	#worker       its name  a worker at work        Announce; Retire deletes it
//	#announced    machine   it has had a worker     the first Announce of a process
//	#listed       machine   it has had a promise    the first create of a process
//	#followed     an id     its output is followed  Follow
//
// The graph of an id is what stands before its first ":", if it has one, else
// before its first ".": a call graph is one partition, and one Query reads it.
// Other packages keep items of theirs in partitions whose names hold a "/",
// which no id does; of the attributes here they have p, i and x only.
//
// # A promise
//
// A write is billed on all that an item holds, names too: they are one letter
// long, so that a plain call with 512 bytes of output stays below 1 KB.
//
//	r  binary  the record as [store.Encode] writes it, without its id
//	v  number  its rev, the guard: a write is accepted over rev-1 only
//	d  string  the due index: the shard, "0" to "7", by the id's hash
//	t  string  the due index: DueAt and the id; d and t are absent without DueAt
//	l  string  the list index: machine, "/", shard "0" to "3" by the id's hash
//	c  string  the list index: CreatedAt and the id
//	x  number  SettledAt and the retention; absent while pending
//
// Times in t and c are 13 decimal digits of milliseconds, the id follows.
//
// # Indexes
//
// Both hold keys only (p, i and their own two) and are hints: only a
// conditional write on the record decides.
//
//	due   d, t  sparse: written when DueAt is set or moves, removed when it ends
//	list  l, c  written once, at create
//
// A shard takes 1,000 writes a second (DynamoDB's limit for one key): 8 shards
// of due take 4,000 lives a second, each one entry made and removed; 4 of list
// take 4,000 promises a second for each machine.
//
// # The roster and the audience
//
//	#worker: machine (string), slots, running, started, seen (numbers; times in
//	milliseconds), x an hour after seen. #announced and #listed: the keys only.
//	#followed: until (number, in milliseconds), x then. It is read as it may be a
//	second ago, which costs half.
package dynamostore
