"""One workflow that does what workflows do, and says what came of it: a local step, a call to
another group, a sleep, a promise that somebody else settles, a detached child, a schedule.

    RESONATE_URL=http://127.0.0.1:8700 python features.py ID
"""

import asyncio
import os
import sys
import time
from datetime import timedelta

from resonate.resonate import Resonate

detached = asyncio.Event()


async def double(ctx, n):
    return 2 * n


async def note(ctx):
    detached.set()
    return "noted"


async def workflow(ctx, n):
    n = await ctx.run(double, n)
    n = await ctx.options(target="features").rpc("double", n)
    began = time.time()
    await ctx.sleep(timedelta(seconds=1.2))
    late = time.time() - began - 1.2
    await ctx.detached("note").id()
    answer = ctx.promise()
    print("promise", await answer.id(), flush=True)
    return [n, late < 1, await answer]


async def main():
    resonate = Resonate(url=os.environ["RESONATE_URL"], group="features", ttl=timedelta(seconds=5))
    for function in (double, note, workflow):
        resonate.register(function)
    result = await resonate.options(target="features").rpc(sys.argv[1], "workflow", 10).result()
    await detached.wait()
    print("result", result, flush=True)
    await resonate.stop()


if __name__ == "__main__":
    asyncio.run(main())
