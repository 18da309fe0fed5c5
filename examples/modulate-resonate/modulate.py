"""Submit a script to a machine, or ask what became of one.

    python modulate.py --script foo.py --machine gpu --wait
    python modulate.py --script foo.py --machine gpu              # prints the id of a promise, at once
    python modulate.py --script foo.py --machine gpu --direct     # without the router
    python modulate.py --get ID                                   # waits for its outcome
"""

import argparse
import asyncio
import json
import os
import uuid
from datetime import timedelta

from resonate.resonate import Resonate


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--script")
    parser.add_argument("--machine", default="gpu")
    parser.add_argument("--id", default=None)
    parser.add_argument("--wait", action="store_true")
    parser.add_argument("--direct", action="store_true")
    parser.add_argument("--get")
    args = parser.parse_args()
    resonate = Resonate(url=os.environ["RESONATE_URL"])
    try:
        await asyncio.sleep(0)  # 0.7 connects in a task of its own, and asks nothing before
        if args.get:
            handle = await resonate.get(args.get)
            print(json.dumps(await handle.result()))
            return
        with open(args.script) as file:
            source = file.read()
        id = args.id or uuid.uuid4().hex
        caller = resonate.options(target=args.machine if args.direct else "router", timeout=timedelta(days=1))
        if args.direct:
            handle = caller.rpc(id, "execute", source)
        else:
            handle = caller.rpc(id, "route", source, args.machine, args.wait)
        print(json.dumps(await handle.result()))
    finally:
        await resonate.stop()


if __name__ == "__main__":
    asyncio.run(main())
