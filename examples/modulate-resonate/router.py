"""The router: a durable function that hands a script to a worker of a machine.

    RESONATE_URL=http://127.0.0.1:8700 python router.py
"""

import argparse
import asyncio
import os
from datetime import timedelta

from resonate.resonate import Resonate


async def route(ctx, source, machine, wait):
    """Run source on a machine: wait for its outcome, or return the id of its promise."""
    if wait:
        return await ctx.options(target=machine).rpc("execute", source)
    return await ctx.options(target="router").detached("issue", source, machine).id()


async def issue(ctx, source, machine):
    """The child that a detached submission leaves behind: it issues the script and awaits it."""
    pending = ctx.options(target=machine).rpc("execute", source)
    print("issued", await pending.id(), flush=True)
    return await pending


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ttl", type=float, default=60, help="seconds of a lease")
    args = parser.parse_args()
    resonate = Resonate(url=os.environ["RESONATE_URL"], group="router", ttl=timedelta(seconds=args.ttl))
    resonate.register(route)
    resonate.register(issue)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
