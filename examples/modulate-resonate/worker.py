"""A worker of a machine: it runs the scripts that are sent to its group.

    RESONATE_URL=http://127.0.0.1:8700 python worker.py --group gpu
"""

import argparse
import asyncio
import os
import sys
from datetime import timedelta

from resonate.resonate import Resonate


async def execute(ctx, source):
    """Run source in an interpreter of its own, and return what it printed and its exit code."""
    print("started", flush=True)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate(source.encode())
    return {"stdout": out.decode(), "exit_code": process.returncode}


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--group", required=True)
    parser.add_argument("--ttl", type=float, default=60, help="seconds of a lease")
    args = parser.parse_args()
    resonate = Resonate(url=os.environ["RESONATE_URL"], group=args.group, ttl=timedelta(seconds=args.ttl))
    resonate.register(execute)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
