// Package keeper keeps one script alive without its worker. A keeper is a
// small process, PID 1 of a pid namespace of its own: it starts the script,
// takes in what the script writes, enforces timeout and lease, and has the
// script's true end. When it dies, the kernel kills all that is in its
// namespace; when its worker dies, it goes on, and whoever adopts the worker's
// spool finds the keeper in its folder:
//
//	FOLDER/socket          where it answers an adopter
//	FOLDER/manifest        whose job it is: see [Folder.WriteManifest]
//	FOLDER/stdout, stderr  what the script wrote: its head, then a ring with its tail
//	FOLDER/exit            how it ended
//	FOLDER/children        numbers given to children; the worker's
//	FOLDER/api/            seen by a script in a sandbox: the worker's socket
//	FOLDER/root/           where the keeper alone has the root of its sandboxes mounted
//
// A worker talks to its keeper over one stream socket, by frames of a length
// (4 bytes, little-endian), a kind (1 byte) and a body:
//
//	worker: box, hold, start, stdin, until, took, stop, done   keeper: hello, ready, wrote, fed, exit
//
// A keeper does one job after the other:
//
//	idle ──start──▶ running ──end of script, timeout, lease, stop──▶ over ──done──▶ idle
//
// With a [Box] each job has a sandbox of its own. One is always made ahead,
// with an interpreter that waits for its script in it; for a job of another
// kind the worker has it replaced (hold). The descriptors of its directories go
// to the worker, which lays files and collects through them: whatever the
// script does to its mounts, and after their end.
//
// Without one a worker may give its keepers a [Nursery]: an interpreter that is
// up and forks for each script of its kind, so that nothing is started. It is
// the worker's child, beside the keeper in the worker's pid namespace, and enters
// that of the keeper for what it forks. The keeper hands it the script's streams
// over a socket, after a script those for the next one, and is the script's parent, as of any: whose end it learns, and
// whom it kills, is no matter of the nursery's. That ends when the keeper has
// ended, whose end of the socket is the only one. Where it does not fork, the
// keeper executes the script's command; the worker replaces a keeper whose
// nursery has died, has forked often, or is of an interpreter that was replaced.
//
// Without a worker it ends: at once when it is idle or its job is mortal, a
// while after its lease when its job is over and nobody came for it.
package keeper

// Name is the name of a keeper's program, and of its process.
const Name = "modulate-keeper"
