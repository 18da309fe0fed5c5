# What up.sh and down.sh share: processes that outlive the script which starts
# them, known by their pid and the moment they started at, so that a pid which
# has come to mean another process is never touched. Each is a file
# $STATE/NAME.process with both, and its output $STATE/NAME.log.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
STATE=${STATE:-$root/.localstack}

say() { echo "$*" >&2; }

# started PID: the moment it started at, in words that only compare. One that
# has ended and that nobody has waited for is gone.
started() {
	local stat
	if [ -e /proc/self/stat ]; then
		stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
		stat=${stat##*) } # from the state on
		[ "${stat%% *}" != Z ] && cut -d' ' -f20 <<<"$stat"
	else
		ps -o lstart= -p "$1"
	fi
}

# start NAME COMMAND…: runs it in a process group of its own, with nothing of
# this script's input and output.
start() {
	local name=$1 pid
	shift
	set -m
	nohup "$@" </dev/null >"$STATE/$name.log" 2>&1 &
	pid=$!
	set +m
	echo "$pid $(started "$pid")" >"$STATE/$name.process"
}

# alive NAME: whether it still runs.
alive() {
	local pid moment
	read -r pid moment 2>/dev/null <"$STATE/$1.process" || return 1
	[ -n "$moment" ] && [ "$(started "$pid" 2>/dev/null)" = "$moment" ]
}

# stop NAME SECONDS: asks it to end, and after that time makes it and what it
# has started.
stop() {
	local pid
	if alive "$1"; then
		read -r pid _ <"$STATE/$1.process"
		kill "$pid" 2>/dev/null || true
		await "$2" gone "$1" || true
		kill -KILL -- "-$pid" 2>/dev/null || true
		await 5 gone "$1" || { say "error: $1 (process $pid) does not end"; return 1; }
	fi
	rm -f "$STATE/$1.process"
}
gone() { ! alive "$1"; }

# ready SECONDS NAME COMMAND…: waits until the command says that the process
# works, and shows its last words if it never does.
ready() {
	local name=$2 seconds=$1
	shift 2
	await "$seconds" settled "$name" "$@" && alive "$name" && return
	tail "$STATE/$name.log" >&2
	say "error: $name does not start"
	return 1
}
settled() { "${@:2}" || gone "$1"; }

# await SECONDS COMMAND…: until it succeeds.
await() {
	local end=$((SECONDS + $1))
	shift
	until "$@"; do
		[ "$SECONDS" -lt "$end" ] || return 1
		sleep 0.1
	done
}
