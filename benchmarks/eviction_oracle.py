"""Hit ratios by libcachesim, for `benchmarks.eviction`: run in an environment of its own.

libcachesim turns the GIL on where it is off, and has no wheels for free-threaded builds; so this is a
program for another interpreter, and imports nothing of the project. It reads from standard input

    {"loads": {"name": [requests]}, "jobs": [["name", "policy", entries], ...]}

and writes a list of hit ratios, one a job: null where libcachesim lets no entry in, because a part of
so small a cache would have no room for one.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any


def hit_ratio(cache: Any, request: Any, requests: list[int]) -> float | None:
    """Ask for every key, each of size 1."""
    hits = 0
    for key in requests:
        request.obj_id = key + 1  # 0 may mean something of its own
        hits += cache.get(request)
    return hits / len(requests) if cache.get_n_obj() else None


def main() -> None:
    """Answer the jobs on standard input."""
    libcachesim = importlib.import_module("libcachesim")
    made_by = {
        "fifo": libcachesim.FIFO,
        "lru": libcachesim.LRU,
        "sieve": libcachesim.Sieve,
        "s3fifo": libcachesim.S3FIFO,
        "lfu": libcachesim.WTinyLFU,
    }
    asked = json.load(sys.stdin)
    request = libcachesim.Request()
    request.obj_size = 1
    ratios = [
        hit_ratio(made_by[policy](entries), request, asked["loads"][load])
        for load, policy, entries in asked["jobs"]
    ]
    json.dump(ratios, sys.stdout)


if __name__ == "__main__":
    main()
