"""Estimate pi, and leave a picture, a table and a result.

    modulate run examples/artifacts.py -- 20000
    modulate artifacts ID -o out/
    modulate get ID

What a script writes into MODULATE_OUTPUT is kept as artifacts. result.json is
its result: `modulate get ID --json` has it as .outcome.result.
"""

import csv
import json
import os
import pathlib
import random
import sys

points = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
output = pathlib.Path(os.environ["MODULATE_OUTPUT"])
random.seed(1)

inside, marks = 0, []
(output / "tables").mkdir()
with open(output / "tables" / "estimates.csv", "w", newline="") as file:
    table = csv.writer(file)
    table.writerow(["points", "estimate"])
    for n in range(1, points + 1):
        x, y = random.random(), random.random()
        hit = x * x + y * y < 1
        inside += hit
        if n <= 500:
            marks.append(f'<circle cx="{x:.3f}" cy="{y:.3f}" r=".006" fill="{"teal" if hit else "tomato"}"/>')
        if n % (points // 10 or 1) == 0:
            table.writerow([n, 4 * inside / n])

(output / "points.svg").write_text(
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1">' + "".join(marks) + "</svg>\n"
)
estimate = 4 * inside / points
(output / "result.json").write_text(json.dumps({"points": points, "pi": estimate}))
print(f"pi is about {estimate:.4f}")
