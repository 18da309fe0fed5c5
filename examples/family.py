"""Submit children and put together what they find.

    modulate run examples/family.py --timeout 5m -- 3

A script submits through MODULATE_SOCKET, with the CLI or, as here, with plain
HTTP over a unix socket. The worker knows whose child each of them is.

  * rfi children are parts of this work: cancelled when it is cancelled.
  * a detached child has a life of its own.

If this script is run again after a crash, it meets the children it had, because
they are counted in the order in which they are submitted.
"""

import http.client
import json
import os
import pathlib
import socket
import sys
import uuid

PART = """
import json, os, pathlib, sys
low, high = map(int, sys.argv[1:])
primes = [n for n in range(max(low, 2), high) if all(n % d for d in range(2, int(n**0.5) + 1))]
print(len(primes), "primes from", low, "to", high)
pathlib.Path(os.environ["MODULATE_OUTPUT"], "result.json").write_text(json.dumps(len(primes)))
"""

AFTERWARDS = """
print("the books are kept, whatever becomes of my parent")
"""


class Connection(http.client.HTTPConnection):
    """HTTP to the worker that runs this script."""

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(os.environ["MODULATE_SOCKET"])


def call(method, path, body=None, **headers):
    connection = Connection("localhost")
    connection.request(method, path, body and json.dumps(body), {"Content-Type": "application/json", **headers})
    response = connection.getresponse()
    answer = json.load(response)
    connection.close()
    if response.status >= 300:
        sys.exit(f"{method} {path}: {answer['detail']}")
    return answer


def submit(name, source, mode, *args):
    """Submit a script and return its id. The key lets the worker tell a request that is repeated."""
    body = {
        "machine": os.environ["MODULATE_MACHINE"],
        "mode": mode,
        "script": {"name": name, "source": source},
        "args": [str(a) for a in args],
    }
    return call("POST", "/v1/promises", body, **{"Modulate-Key": uuid.uuid4().hex})["id"]


def result(id):
    """Wait for a promise, up to 25 seconds a request, and return its result."""
    while True:
        promise = call("GET", f"/v1/promises/{id}", Prefer="wait=25")
        if promise["state"] == "resolved":
            return promise["outcome"]["result"]
        if promise["state"] != "pending":
            sys.exit(f"{id} is {promise['state']}")


parts = int(sys.argv[1]) if len(sys.argv) > 1 else 3
limit = 3000
edges = [limit * n // parts for n in range(parts + 1)]
children = [submit("part.py", PART, "rfi", low, high) for low, high in zip(edges, edges[1:])]
bookkeeper = submit("afterwards.py", AFTERWARDS, "detached")

found = sum(result(child) for child in children)
print(f"{found} primes below {limit}, counted by {len(children)} children")
print(f"{bookkeeper} goes on by itself")
pathlib.Path(os.environ["MODULATE_OUTPUT"], "result.json").write_text(json.dumps({"primes": found}))
