#!/bin/bash
# Installs the AWS of a laptop into .emulators/ at the root of the repository,
# without Docker: MiniStack and the SAM CLI, each in a Python environment of its
# own, and, where there are Java and Maven, DynamoDB Local and ElasticMQ.
# Says nothing and does nothing where all of it is there in these versions.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
to=$root/.emulators
mkdir -p "$to"

# stale PART VERSION: whether .emulators/PART is not there in that version.
# It is removed then, and the caller makes it anew and calls fresh.
stale() {
	[ "$(cat "$to/$1/.version" 2>/dev/null)" != "$2" ] || return 1
	echo "installing $2 in .emulators/$1"
	rm -rf "${to:?}/$1"
}
fresh() { echo "$2" >"$to/$1/.version"; }

# A Python that is 3.10 or later, by the name of its file: what is found as
# python3 may be a wrapper that costs a tenth of a second.
python() {
	local name real
	for name in python3 /usr/bin/python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
		real=$("$name" -c 'import os, ssl, sys; assert sys.version_info >= (3, 10); print(os.path.realpath(sys.executable))' \
			2>/dev/null) && "$real" -c 'import ensurepip' 2>/dev/null && echo "$real" && return
	done
	# A Python whose ensurepip is packaged apart can do with its own pip.
	real=$(python3 -c 'import os, pip, sys; print(os.path.realpath(sys.executable))' 2>/dev/null) && echo "$real" && return
	echo "error: no Python 3.10 or later that can make an environment (on Debian: apt-get install python3-venv)" >&2
	return 1
}

# environment PART PACKAGES…
environment() {
	local part=$1 with
	shift
	stale "$part" "$*" || return 0
	with=$(python)
	if "$with" -c 'import ensurepip' 2>/dev/null; then
		"$with" -m venv "$to/$part"
	else
		"$with" -m venv --without-pip "$to/$part"
	fi
	if [ -x "$to/$part/bin/pip" ]; then
		"$to/$part/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
	else
		"$with" -m pip --python "$to/$part/bin/python" install --quiet --disable-pip-version-check "$@"
	fi
	fresh "$part" "$*"
}

# jars PART GROUP:ARTIFACT:VERSION: it and all that it needs.
jars() {
	local part=$1 group artifact version
	stale "$part" "$2" || return 0
	IFS=: read -r group artifact version <<<"$2"
	mkdir -p "$to/$part"
	cat >"$to/$part/pom.xml" <<-END
		<project xmlns="http://maven.apache.org/POM/4.0.0">
		  <modelVersion>4.0.0</modelVersion>
		  <groupId>modulate</groupId><artifactId>$part</artifactId><version>1</version>
		  <dependencies><dependency>
		    <groupId>$group</groupId><artifactId>$artifact</artifactId><version>$version</version>
		  </dependency></dependencies>
		</project>
	END
	mvn -q -B -Dstyle.color=never -f "$to/$part/pom.xml" dependency:copy-dependencies \
		-DoutputDirectory="$to/$part" -DincludeScope=runtime
	fresh "$part" "$2"
}

environment ministack ministack==1.5.33 aws-sam-translator==1.110.0
environment sam aws-sam-cli==1.170.0
environment uv uv==0.13.9 # not AWS's: what installs the dependencies of scripts, for the tests
if command -v java >/dev/null && command -v mvn >/dev/null; then
	jars dynamodb com.amazonaws:DynamoDBLocal:2.6.1
	jars elasticmq org.elasticmq:elasticmq-server_2.13:1.7.1
fi
