"""The ten per cent rule: how much time goes into waiting for locks, by stripes and by hold."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle
from time import perf_counter_ns
from typing import Any, Final

from cacheserver.patterns.measure import SLOW_BATCH, Case, Loop, Row, repeat, spin, spins_for
from cacheserver.patterns.tables import table

NAME: Final = "waiting"
HOLDS: Final = (0.5, 2, 10)
"""Microseconds that a lock is held."""
OUTSIDE: Final = 10
"""Microseconds of work between two holds."""
STRIPES: Final = (1, 2, 4, 8, 16, 32, 64)
LIMIT: Final = 0.1

_DRAWN: Final = 1024


@dataclass(slots=True)
class _WaitingTrial:
    hold: float
    stripes: int
    locks: list[Any] = field(default_factory=list)
    waited: list[list[int]] = field(default_factory=list)
    """Nanoseconds, a sum in a list of one for each thread."""

    def __post_init__(self) -> None:
        self.locks += [threading.Lock() for _ in range(self.stripes)]

    def prepare(self, worker: int) -> Loop:
        draw = random.Random(worker)  # noqa: S311 (load, no secret)
        drawn = [draw.choice(self.locks) for _ in range(_DRAWN)]
        locks = cycle([(lock.acquire, lock.release) for lock in drawn])
        hold, outside = spins_for(self.hold), spins_for(OUTSIDE)
        waited = [0]
        self.waited.append(waited)

        def operation() -> None:
            acquire, release = next(locks)
            if not acquire(False):
                asked = perf_counter_ns()
                acquire()
                waited[0] += perf_counter_ns() - asked
            spin(hold)
            release()
            spin(outside)

        return repeat(operation, SLOW_BATCH)

    def figures(self, _operations: int, seconds: float) -> dict[str, float]:
        return {"wait_share": sum(each[0] for each in self.waited) / 1e9 / seconds}


def cases(threads: Sequence[int]) -> list[Case]:
    """Return the cases: by the most threads, and by one, which never waits, for comparison."""
    return [
        Case(
            NAME,
            f"{hold:g}",
            str(stripes),
            count,
            lambda h=hold, s=stripes: _WaitingTrial(h, s),  # type: ignore[misc]
        )
        for count in sorted({1, threads[-1]})
        for hold in HOLDS
        for stripes in (STRIPES if count > 1 else STRIPES[:1])
    ]


def report(rows: Sequence[Row]) -> str:
    """Say how much of the time went into waiting, and from how many stripes on it is below a tenth."""
    most = max(row.case.threads for row in rows)
    alone = {row.case.subject: row.median for row in rows if row.case.threads == 1}
    head = ["us held", *(f"{stripes} stripes" for stripes in STRIPES), "below 10 % from"]
    body = []
    for hold in dict.fromkeys(row.case.subject for row in rows):
        found = {
            int(row.case.setting): row
            for row in rows
            if row.case.subject == hold and row.case.threads == most
        }
        cells = [
            f"{row.figure('wait_share'):.1%}, {row.median / alone[hold]:.2f}x"
            for row in found.values()
        ]
        cells += [""] * (len(STRIPES) - len(cells))
        body.append([hold, *cells, _crossing(found)])
    note = (
        f"Share of the time spent waiting by {most} threads that work {OUTSIDE} us between two holds, "
        "and how long an operation takes, against one thread that never waits."
    )
    return f"{table(head, body)}\n\n{note}"


def _crossing(found: dict[int, Row]) -> str:
    """The number of stripes from which on the share stays below the limit."""
    below: int | None = None
    for stripes in sorted(found, reverse=True):
        if found[stripes].figure("wait_share") >= LIMIT:
            break
        below = stripes
    return "more" if below is None else str(below)
