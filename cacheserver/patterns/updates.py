"""Optimistic updates against a lock that is held while computing, by the probability of a conflict."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle
from statistics import fmean
from typing import Any, Final

from cacheserver.errors import Contention
from cacheserver.patterns.measure import SLOW_BATCH, Case, Loop, Row, repeat, spin, spins_for
from cacheserver.patterns.tables import table
from cacheserver.store.optimistic import OptimisticDict

NAME: Final = "updates"
OPTIMISTIC: Final = "optimistic"
LOCKED: Final = "locked"
KEYS: Final = (1, 4, 16, 256)
WORK: Final = (0, 10, 100)
"""Microseconds that the new value takes to be computed."""

_DRAWN: Final = 1024


@dataclass(slots=True)
class _Seen:
    """What one thread saw."""

    done: int = 0
    missed: int = 0
    """Computations in vain, or waits."""
    gave_up: int = 0


@dataclass(slots=True)
class _UpdateTrial:
    keys: int
    work: float
    locked: bool
    entries: OptimisticDict[str, int] = field(default_factory=OptimisticDict)
    locks: list[Any] = field(default_factory=list)
    seen: list[_Seen] = field(default_factory=list)

    def __post_init__(self) -> None:
        for number in range(self.keys):
            self.entries[str(number)] = 0
            self.locks.append(threading.Lock())

    def prepare(self, worker: int) -> Loop:
        draw = random.Random(worker)  # noqa: S311 (load, no secret)
        numbers = [draw.randrange(self.keys) for _ in range(_DRAWN)]
        seen = _Seen()
        self.seen.append(seen)
        make = self._locked if self.locked else self._optimistic
        return repeat(make(numbers, spins_for(self.work), seen), SLOW_BATCH)

    def _optimistic(self, numbers: list[int], spins: int, seen: _Seen) -> Any:
        update = self.entries.view().update
        keys = cycle([str(number) for number in numbers])

        def add_one(value: int | None) -> int:
            seen.missed += 1
            spin(spins)
            return (value or 0) + 1

        def operation() -> None:
            try:
                update(next(keys), add_one)
            except Contention:
                seen.gave_up += 1
            else:
                seen.done += 1
                seen.missed -= 1

        return operation

    def _locked(self, numbers: list[int], spins: int, seen: _Seen) -> Any:
        view = self.entries.view()
        read, put = view.read, view.put
        steps = cycle([(str(number), self.locks[number]) for number in numbers])

        def operation() -> None:
            key, lock = next(steps)
            if not lock.acquire(False):
                seen.missed += 1
                lock.acquire()
            try:
                entry = read(key)
                spin(spins)
                put(key, (entry[0] if entry else 0) + 1)
            finally:
                lock.release()
            seen.done += 1

        return operation

    def figures(self, operations: int, _seconds: float) -> dict[str, float]:
        done = sum(seen.done for seen in self.seen)
        missed = sum(seen.missed for seen in self.seen)
        gave_up = sum(seen.gave_up for seen in self.seen)
        kept = sum(value for _, value in self.entries.items())
        if kept != done or done + gave_up != operations:
            raise RuntimeError(f"{done} updates came to {kept}")
        return {"missed": missed / (done + missed), "gave_up": gave_up / operations}


def cases(threads: Sequence[int]) -> list[Case]:
    """Return the cases: each way, by keys and work; by the most threads, and by one for comparison."""
    return [
        Case(
            NAME,
            subject,
            f"{keys} {work}",
            count,
            lambda k=keys, w=work, s=subject: _UpdateTrial(k, w, s == LOCKED),  # type: ignore[misc]
        )
        for count in sorted({1, threads[-1]})
        for keys in (KEYS if count > 1 else KEYS[:1])
        for work in WORK
        for subject in (OPTIMISTIC, LOCKED)
    ]


def pairs(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Return optimistic and locked, side by side."""
    found = {(row.case.threads, row.case.setting, row.case.subject): row for row in rows}
    return [
        (row, found[row.case.threads, row.case.setting, LOCKED])
        for row in rows
        if row.case.subject == OPTIMISTIC
    ]


def report(rows: Sequence[Row]) -> str:
    """Say what an update costs either way, and how often somebody else was quicker."""
    head = ["threads", "keys", "us to compute", "computed in vain", "gave up", "waited (locked)"]
    head += ["optimistic us", "locked us", "optimistic / locked"]
    return table(
        head,
        [
            [
                str(optimistic.case.threads),
                *optimistic.case.setting.split(),
                f"{optimistic.figure('missed'):.2%}",
                f"{fmean(optimistic.figures['gave_up']):.3%}",
                f"{locked.figure('missed'):.2%}",
                f"{optimistic.median / 1000:.2f} ({optimistic.best / 1000:.2f})",
                f"{locked.median / 1000:.2f} ({locked.best / 1000:.2f})",
                f"{optimistic.median / locked.median:.2f}",
            ]
            for optimistic, locked in pairs(rows)
        ],
    )
