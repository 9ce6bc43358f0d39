"""Requests for the benchmark of eviction: generated ones, recorded ones, and what would be optimal.

A load is a list of small integers, one a request, whatever its keys were: an integer's hash is the same
in every process, so that a run can be repeated to the last hit.
"""

from __future__ import annotations

import gzip
import heapq
import random
from bisect import bisect
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Final

SEED: Final = 20240416
_NEVER: Final = 1 << 60


def zipf(exponent: float, keys: int, requests: int, seed: int = SEED) -> list[int]:
    """Return requests in which the n-th most popular key has a weight of n ** -exponent."""
    chance = random.Random(seed)
    weights = list(accumulate(rank**-exponent for rank in range(1, keys + 1)))
    names = list(range(keys))
    chance.shuffle(names)
    total = weights[-1]
    return [names[bisect(weights, chance.random() * total)] for _ in range(requests)]


def with_scans(
    exponent: float, keys: int, requests: int, scans: int, seed: int = SEED
) -> list[int]:
    """Return Zipf's requests, and in between scans of a fifth as many new keys, each asked for once."""
    found: list[int] = []
    step, length, fresh = requests // scans, keys // 5, keys
    skewed = zipf(exponent, keys, requests, seed)
    for start in range(0, requests, step):
        found += skewed[start : start + step]
        found += range(fresh, fresh + length)
        fresh += length
    return found


def shifting(exponent: float, keys: int, requests: int, phases: int, seed: int = SEED) -> list[int]:
    """Return Zipf's requests over half of the keys, of which a part is exchanged in every phase.

    What is popular in a phase has nothing to do with what was popular before.
    """
    window, length = keys // 2, requests // phases
    step = (keys - window) // max(1, phases - 1)
    return [
        key + phase * step
        for phase in range(phases)
        for key in zipf(exponent, window, length, seed + phase)
    ]


def read_trace(path: Path) -> list[int]:
    """Read a key a line, text or gzip. Lines with a `*` are marks, and skipped, as are empty ones."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as lines:
        return numbered(word for line in lines if (word := line.strip()) and "*" not in word)


def numbered(keys: Iterable[object]) -> list[int]:
    """Give keys numbers, in the order in which they first come."""
    numbers: dict[object, int] = {}
    return [numbers.setdefault(key, len(numbers)) for key in keys]


def optimal_hits(requests: Sequence[int], size: int) -> int:
    """Return the hits of Belady's optimum: what goes is asked for again later than all others.

    Every key that is asked for comes in, as it does in all that is compared with it.
    """
    following = [_NEVER] * len(requests)
    last: dict[int, int] = {}
    for at in reversed(range(len(requests))):
        following[at] = last.get(requests[at], _NEVER)
        last[requests[at]] = at
    due: dict[int, int] = {}  # of the keys inside: when each is asked for next
    latest: list[tuple[int, int]] = []  # a heap of (-when, key); what is outdated is skipped
    hits = 0
    for at, key in enumerate(requests):
        if key in due:
            hits += 1
        elif len(due) >= size:
            while True:
                when, gone = heapq.heappop(latest)
                if due.get(gone) == -when:
                    del due[gone]
                    break
        due[key] = following[at]
        heapq.heappush(latest, (-following[at], key))
    return hits
