"""Say hello, from wherever this runs.

    modulate run examples/hello.py --machine cpu
"""

import os
import platform

print(f"Hello from Python {platform.python_version()} on a {os.environ['MODULATE_MACHINE']} machine.")
print(f"This is {os.environ['MODULATE_ID']}, attempt {os.environ['MODULATE_ATTEMPT']}.")
