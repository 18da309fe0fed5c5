"""Count words: with arguments, environment, stdin and a file laid beside it.

    modulate run examples/parameters.py -e GREETING=Hello \
        --file stopwords.txt=examples/stopwords.txt --stdin README.md -- --top 5

A script sees the environment that its submitter names, and nothing else of it.
Its working directory holds the script and its files only.
"""

import argparse
import collections
import os
import pathlib
import re
import sys

parser = argparse.ArgumentParser()
parser.add_argument("--top", type=int, default=3, help="how many words")
args = parser.parse_args()

print(os.environ.get("GREETING", "Good day") + ",")
stopwords = pathlib.Path("stopwords.txt")
ignored = set(stopwords.read_text().split()) if stopwords.exists() else set()
words = (w for w in re.findall(r"[a-z]+", sys.stdin.read().lower()) if w not in ignored)
for word, count in collections.Counter(words).most_common(args.top):
    print(f"{count:6} {word}")
