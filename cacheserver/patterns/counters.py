"""What adding to a counter costs, and reading it; and what goes missing without a lock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from cacheserver.patterns.measure import Case, Loop, Row, repeat
from cacheserver.patterns.tables import cells, matrix, threads_in_words
from cacheserver.store.atomics import AtomicCounter
from cacheserver.store.counters import LockedCounter, ShardedCounter, Tally

NAME: Final = "counters"
ADD: Final = "add"
READ: Final = "value"


class _Counter(Protocol):
    def add(self) -> object: ...
    @property
    def value(self) -> int: ...


class _Unprotected:
    def __init__(self) -> None:
        self.value = 0

    def add(self) -> None:
        self.value += 1


class _WithLock:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.value = 0

    def add(self) -> None:
        with self._lock:
            self.value += 1


class _OwnSums:
    def __init__(self) -> None:
        self._tally = Tally(1)
        self._mine = self._tally.mine

    def add(self) -> None:
        self._mine()[0] += 1

    @property
    def value(self) -> int:
        return self._tally.totals()[0]


class _OwnWayIn(ShardedCounter):
    """To be added to through `adder`."""


UNPROTECTED: Final = "no lock (loses additions)"
COUNTERS: Final[dict[str, Callable[[], _Counter]]] = {
    UNPROTECTED: _Unprotected,
    "with Lock": _WithLock,
    "LockedCounter": LockedCounter,
    "ShardedCounter": ShardedCounter,
    "ShardedCounter, adder()": _OwnWayIn,
    "Tally": _OwnSums,
    "AtomicCounter": AtomicCounter,
}


@dataclass(slots=True)
class _AddTrial:
    counter: _Counter
    loses: bool

    def prepare(self, _worker: int) -> Loop:
        if isinstance(self.counter, _OwnWayIn):
            return repeat(self.counter.adder())
        return repeat(self.counter.add)

    def figures(self, operations: int, _seconds: float) -> dict[str, float]:
        lost = operations - self.counter.value
        if lost and not self.loses:
            raise RuntimeError(f"{type(self.counter).__name__}: {lost} of {operations} are missing")
        return {"lost": lost / operations}


@dataclass(slots=True)
class _ReadTrial:
    counter: _Counter

    def prepare(self, _worker: int) -> Loop:
        counter = self.counter
        counter.add()  # so that each thread has its part
        return repeat(lambda: counter.value)

    def figures(self, _operations: int, _seconds: float) -> dict[str, float]:
        return {}


def cases(threads: Sequence[int]) -> list[Case]:
    """Return the cases: adding, and reading the sum."""
    adding = [
        Case(
            NAME,
            name,
            ADD,
            count,
            lambda new=new, name=name: _AddTrial(new(), name == UNPROTECTED),  # type: ignore[misc]
        )
        for name, new in COUNTERS.items()
        for count in threads
    ]
    reading = [
        Case(NAME, name, READ, count, lambda new=new: _ReadTrial(new()))  # type: ignore[misc]
        for name, new in COUNTERS.items()
        for count in threads
    ]
    return adding + reading


def report(rows: Sequence[Row]) -> str:
    """Say what an addition and a look at the sum cost, and what went missing."""
    costs = matrix(
        "ns",
        rows,
        lambda row: row.case.subject,
        cells,
        lambda row: f"{row.case.setting}, {threads_in_words(row.case.threads)}",
    )
    most = max(
        (row for row in rows if row.case.subject == UNPROTECTED and row.case.setting == ADD),
        key=lambda row: row.case.threads,
    )
    lost = (
        f"Without a lock {threads_in_words(most.case.threads)} lost "
        f"{most.figure('lost'):.2%} of the additions (at most {max(most.figures['lost']):.2%})."
    )
    return f"{costs}\n\n{lost}"
