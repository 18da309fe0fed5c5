"""One workflow that does what workflows do, and says what came of it: a local step, a call to
another group, a sleep, a promise that somebody else settles, a detached child. With --hold the local
step never ends, so that its process can be killed in it.

    RESONATE_URL=http://127.0.0.1:8700 python features.py ID [--hold]
"""

import asyncio
import os
import sys
from datetime import timedelta

from resonate.resonate import Resonate

detached = asyncio.Event()


async def double(ctx, n):
    return 2 * n


async def held(ctx, n):
    print("held", flush=True)
    await asyncio.Event().wait()


async def note(ctx):
    detached.set()
    return "noted"


async def workflow(ctx, n):
    n = await ctx.run(held if "--hold" in sys.argv else double, n)
    n = await ctx.options(target="features").rpc("double", n)
    await ctx.sleep(timedelta(seconds=1.2))
    await ctx.detached("note").id()
    answer = ctx.promise()
    print("promise", await answer.id(), flush=True)
    return [n, await answer]


async def main():
    resonate = Resonate(url=os.environ["RESONATE_URL"], group="features", ttl=timedelta(seconds=3))
    for function in (double, note, workflow):
        resonate.register(function)
    result = await resonate.options(target="features").rpc(sys.argv[1], "workflow", 10).result()
    await detached.wait()
    print("result", result, flush=True)
    await resonate.stop()


if __name__ == "__main__":
    asyncio.run(main())
