"""Fail twice, as a flaky service would make it, and succeed the third time.

    modulate run examples/retry.py --retry exponential,max_attempts=5,delay=200ms
    modulate get ID             # shows the three attempts

Without --retry a script that fails is not run again. A worker that dies is
another matter: its script always runs again elsewhere.
"""

import os
import sys

attempt = int(os.environ["MODULATE_ATTEMPT"])
if attempt == 1:
    sys.exit("attempt 1: the service is not up yet")
if attempt == 2:
    os.abort()  # a crash is a failure like any other
print(f"attempt {attempt}: done")
