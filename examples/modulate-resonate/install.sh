#!/bin/bash
# Installs the Resonate SDKs that the tests here run, into .sdks/ of the
# repository: from PyPI for a Python of 3.12 or later, from npm with a Node of
# its own. What is there already stays. Where one of the two is missing its tests
# are skipped; with CI=1 that is an error here. No registry has the SDK of Go:
# RESONATE_SDK_GO names the folder of its source, and without it there is no test.
set -euo pipefail
cd "$(dirname "$0")/../.."

# lacks WHAT
lacks() {
	[ "${CI:-}" = 1 ] && echo "error: the Resonate SDKs need $1" && exit 1
	echo "note: the Resonate SDKs need $1: their tests are skipped"
	exit 0
}

# The newest of pyenv's, which is where its shims are, else of the PATH. The file
# itself: a shim costs a tenth of a second and chooses by the folder.
find_python() {
	local shims home p
	home=$(getent passwd "$(id -u)" | cut -d: -f6)
	shims=$(tr : '\n' <<<"$PATH" | grep -m1 '/shims/*$' || true)
	for p in $(ls -d {"${PYENV_ROOT:-${shims%/shims*}}","$home/.pyenv"}/versions/3.1[2-9]*/bin/python3 2>/dev/null | sort -rV) \
		/usr/bin/python3.1[2-9] python3.14 python3.13 python3.12 python3; do
		if "$p" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>/dev/null; then
			echo "$p"
			return
		fi
	done
}

if [ -n "${RESONATE_SDK_GO:-}" ]; then
	mkdir -p .sdks/go
	cp examples/modulate-resonate/go/go.mod .sdks/go/
	go mod edit -replace "github.com/resonatehq/resonate-sdk-go=$(realpath "$RESONATE_SDK_GO")" .sdks/go/go.mod
fi

python=$(find_python)
[ -n "$python" ] || lacks "Python 3.12 or later, with venv"
for version in 0.7.4 0.8.1; do
	dir=.sdks/python-$version
	[ -x "$dir/done" ] && continue
	rm -rf "$dir"
	"$python" -m venv "$dir"
	"$dir/bin/pip" install --quiet --disable-pip-version-check "resonate-sdk==$version"
	install /dev/null "$dir/done"
done

command -v npm >/dev/null || lacks npm
if [ ! -x .sdks/typescript/done ]; then
	rm -rf .sdks/typescript
	mkdir -p .sdks/typescript
	(cd .sdks/typescript && npm install --silent --no-audit --no-fund node@22.23.3 @resonatehq/sdk@0.11.5)
	install /dev/null .sdks/typescript/done
fi
