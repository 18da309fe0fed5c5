#!/bin/bash
# Ends exactly what up.sh started, and leaves the logs. Without anything to end
# it says nothing.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/process.sh"

shopt -s nullglob
for file in "$STATE"/workerd-*.process; do
	stop "$(basename "$file" .process)" 20
done
stop ministack 10
if [ -e "$STATE/docker" ]; then
	docker compose -f "$here/compose.yaml" down
	rm "$STATE/docker"
fi
rm -rf "$STATE/tmp" "$STATE/spool" "$STATE/build" "$STATE/build.toml" "$STATE/workerd" "$STATE/url" "$STATE/url.new"
