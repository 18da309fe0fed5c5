#!/bin/bash
# Starts the AWS of a laptop: emulated AWS on loopback, the stack of
# template.yaml, those of the machines, a workerd for each of these. Returns
# when all of it works; its output is one line, the URL of the API. What it
# started is ended by down.sh. README.md has the variables.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/process.sh"

PORT=${PORT:-4566}
MACHINES=${MACHINES-cpu gpu}
WITH=${WITH:-ministack}
sam=$root/.emulators/sam/bin
log=$STATE/up.log

# The credentials that emulators take, and nothing of the caller's own.
unset AWS_PROFILE AWS_SESSION_TOKEN
export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_REGION=us-east-1 AWS_DEFAULT_REGION=us-east-1
export AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null AWS_EC2_METADATA_DISABLED=true
export SAM_CLI_TELEMETRY=0 SAM_CLI_POLL_DELAY=1

main() {
	if [ -e "$STATE/url" ]; then
		if works; then
			say "already up; down.sh ends it"
			cat "$STATE/url"
			return
		fi
		say "what was up has died in part: starting anew"
		"$here/down.sh"
	fi
	[ -x "$sam/sam" ] || fail "the SAM CLI is missing: make emulators installs it"
	! listening || fail "port $PORT is taken: choose another, as in PORT=4567 $0"
	mkdir -p "$STATE"
	: >"$log"
	trap undo EXIT
	trap 'exit 130' INT TERM
	say "starting emulated AWS on $PORT ($WITH)"
	emulator_"$WITH" >>"$log" 2>&1
	export AWS_ENDPOINT_URL=$endpoint
	say "building the functions and deploying template.yaml"
	stage >>"$log" 2>&1
	say "deploying infra/machine.yaml for $MACHINES, starting their workers"
	machines >>"$log" 2>&1
	trap - EXIT INT TERM
	mv "$STATE/url.new" "$STATE/url"
	cat "$STATE/url"
}

undo() {
	tail -n 20 "$log" >&2
	say "error: not up; the logs are in $STATE"
	"$here/down.sh"
}

fail() {
	say "error: $*"
	exit 1
}

listening() { (exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null; }

# works: whether everything that was started is there.
works() {
	local file
	for file in "$STATE"/*.process; do
		alive "$(basename "$file" .process)" || return 1
	done
	listening
}

emulator_ministack() {
	endpoint=http://127.0.0.1:$PORT
	gateway=${GATEWAY:-http}
	[ -x "$root/.emulators/ministack/bin/ministack" ] || fail "MiniStack is missing: make emulators installs it"
	mkdir -p "$STATE/tmp"
	# A clean environment, because functions inherit it.
	start ministack env -i HOME="$STATE/tmp" PATH="$PATH" TMPDIR="$STATE/tmp" BIND_HOST=127.0.0.1 GATEWAY_PORT="$PORT" \
		AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_EC2_METADATA_DISABLED=true \
		"$root/.emulators/ministack/bin/ministack"
	ready 60 ministack curl -sf -o /dev/null "$endpoint/_ministack/health"
}

emulator_docker() {
	endpoint=http://localhost.localstack.cloud:$PORT # is the emulator in its containers too
	gateway=${GATEWAY:-rest} # the free LocalStack has no API Gateway v2
	touch "$STATE/docker"
	PORT=$PORT docker compose -f "$here/compose.yaml" up --detach --wait
}

# stage builds and deploys template.yaml.
stage() {
	local architecture=x86_64
	case $(uname -m) in arm64 | aarch64) architecture=arm64 ;; esac
	cd "$root"
	ARCHITECTURE=$architecture "$sam/sam" build --config-env local --build-dir "$STATE/build" \
		--parameter-overrides Architecture=$architecture
	curl -sf -o /dev/null -X PUT "$endpoint/modulate-local-builds"
	"$sam/sam" deploy --config-file "$root/samconfig.toml" --config-env local --template-file "$STATE/build/template.yaml" \
		--parameter-overrides Stage=local Local=true Gateway=$gateway Architecture=$architecture AwsEndpointUrl="$endpoint"
	"$sam/python" - >"$STATE/url.new" <<-'END'
		import boto3
		stack = boto3.client('cloudformation').describe_stacks(StackName='modulate-local')['Stacks'][0]
		print({o['OutputKey']: o['OutputValue'] for o in stack['Outputs']}['Url'])
	END
}

# machines deploys infra/machine.yaml for each machine, and starts its worker.
machines() {
	local machine pids=() pid
	for machine in $MACHINES; do
		PATH=$sam:$PATH make --no-print-directory deploy-machine STAGE=local MACHINE="$machine" PARAMETERS=Local=true &
		pids+=($!)
	done
	go build -o "$STATE/workerd" ./workerd
	for pid in "${pids[@]}"; do
		wait "$pid"
	done
	for machine in $MACHINES; do
		start "workerd-$machine" "$STATE/workerd" --stage local --machine "$machine" --slots 2 --drain 5s \
			--name "local-$machine" --spool "$STATE/spool" --url "$(cat "$STATE/url.new")"
	done
	for machine in $MACHINES; do
		ready 90 "workerd-$machine" grep -q '^working for ' "$STATE/workerd-$machine.log"
	done
}

main
