"""How fast calls go through this SDK to one worker, a process of its own: medians of five rounds.

    RESONATE_URL=http://127.0.0.1:8700 python bench.py

One line a figure: name, median, unit, and of how much of the time this process was busy itself.
"""

import asyncio
import os
import resource
import statistics
import sys
import time

from resonate.resonate import Resonate

ROUNDS, ONE, MANY = 5, 200, 1000


async def serve():
    """The worker. It says so whenever MANY fired calls have come."""
    worker = Resonate(url=os.environ["RESONATE_URL"], group="bench")
    called = 0

    async def echo(ctx, x):
        return x

    async def count(ctx, x):
        nonlocal called
        called += 1
        if called % MANY == 0:
            print("all", flush=True)
        return x

    worker.register(echo)
    worker.register(count)
    print("up", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await worker.stop()


class Clock:
    """How long something takes, and how much of that this process computes."""

    def __init__(self):
        self.began, self.used = time.perf_counter(), self.cpu()

    def cpu(self):
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime

    def read(self):
        took = time.perf_counter() - self.began
        return took, (self.cpu() - self.used) / took


async def one(client, worker):
    """One call after the other: the median in ms."""
    clock, times = Clock(), []
    for n in range(ONE):
        began = time.perf_counter()
        await client.rpc(f"one-{time.time_ns()}", "echo", n).result()
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times), clock.read()[1]


async def awaited(client, worker):
    """Calls at once, each awaited: a second."""
    clock = Clock()
    handles = [client.rpc(f"many-{time.time_ns()}-{n}", "echo", n) for n in range(MANY)]
    await asyncio.gather(*[handle.result() for handle in handles])
    took, busy = clock.read()
    return MANY / took, busy


async def fired(client, worker):
    """Calls at once, of which nobody awaits the result, until the last is executed: a second."""
    clock = Clock()
    handles = [client.rpc(f"fire-{time.time_ns()}-{n}", "count", n) for n in range(MANY)]
    await worker.stdout.readline()
    took, busy = clock.read()
    await asyncio.gather(*[handle.result() for handle in handles])  # that none was lost
    return MANY / took, busy


async def main():
    worker = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "worker", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    await worker.stdout.readline()
    client = Resonate(url=os.environ["RESONATE_URL"], group="bench-client").options(target="bench")
    for name, unit, measure in [
        ("call and answer, one after the other, p50", "ms", one),
        ("1,000 calls at once, each awaited", "1/s", awaited),
        ("1,000 calls fired, none awaited", "1/s", fired),
    ]:
        rounds = [await measure(client, worker) for _ in range(ROUNDS)]
        value, busy = (statistics.median(column) for column in zip(*rounds))
        print(f"{name}\t{value:.4g}\t{unit}\tthe client's process is busy for {busy:.0%}", flush=True)
    await client.stop()
    worker.stdin.close()
    await worker.wait()


if __name__ == "__main__":
    asyncio.run(serve() if sys.argv[1:] == ["worker"] else main())
