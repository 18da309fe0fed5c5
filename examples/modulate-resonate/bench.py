"""How fast calls go through this SDK: one after the other, and a thousand at once on one worker.

    RESONATE_URL=http://127.0.0.1:8700 python bench.py
"""

import asyncio
import os
import resource
import statistics
import time

from resonate.resonate import Resonate


async def echo(ctx, x):
    return x


def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def main():
    worker = Resonate(url=os.environ["RESONATE_URL"], group="bench")
    worker.register(echo)
    client = Resonate(url=os.environ["RESONATE_URL"], group="bench-client").options(target="bench")
    times = []
    for n in range(200):
        began = time.perf_counter()
        await client.rpc(f"one-{time.time_ns()}", "echo", n).result()
        times.append(1000 * (time.perf_counter() - began))
    print(f"rpc: p50 {statistics.median(times):.1f} ms, p99 {sorted(times)[-2]:.1f} ms")
    began, used = time.perf_counter(), cpu()
    handles = [client.rpc(f"many-{time.time_ns()}-{n}", "echo", n) for n in range(1000)]
    await asyncio.gather(*[handle.result() for handle in handles])
    took = time.perf_counter() - began
    print(f"1,000 at once: {1000 / took:.0f}/s; this process was busy for {cpu() - used:.2f} of {took:.2f} s")
    await client.stop()
    await worker.stop()


if __name__ == "__main__":
    asyncio.run(main())
