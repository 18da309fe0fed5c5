"""Work for ten minutes, unless it is cancelled.

    modulate submit examples/long.py --timeout 15m
    modulate logs ID -f
    modulate cancel ID

A script that is to end gets SIGTERM, and MODULATE_GRACE seconds later SIGKILL,
with everything that it started. Time enough to say where it stopped.
"""

import os
import signal
import sys
import time


def stop(*_):
    print(f"stopped at step {step}; {os.environ['MODULATE_GRACE']} seconds to put things away", flush=True)
    sys.exit(1)


signal.signal(signal.SIGTERM, stop)
for step in range(1, 601):
    print(f"step {step} of 600", flush=True)
    time.sleep(1)
