"""What a lock costs: free, contended, and how long those wait who wait."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from time import perf_counter, perf_counter_ns
from typing import Any, Final

from cacheserver.patterns.measure import BATCH, Case, Loop, Row
from cacheserver.patterns.tables import cells, matrix, table
from cacheserver.store.locks import RWLock, TimedLock

COSTS: Final = "locks"
WAITS: Final = "waits"


def _calls(lock: Any) -> Loop:
    """Return a loop of `acquire()` and `release()`."""
    acquire, release = lock.acquire, lock.release

    def loop(seconds: float) -> tuple[int, float]:
        operations, started = 0, perf_counter()
        while True:
            for _ in range(BATCH):
                acquire()
                release()
            operations += BATCH
            elapsed = perf_counter() - started
            if elapsed >= seconds:
                return operations, elapsed

    return loop


def _blocks(lock: AbstractContextManager[object]) -> Loop:
    """Return a loop of `with lock: pass`."""

    def loop(seconds: float) -> tuple[int, float]:
        operations, started = 0, perf_counter()
        while True:
            for _ in range(BATCH):
                with lock:
                    pass
            operations += BATCH
            elapsed = perf_counter() - started
            if elapsed >= seconds:
                return operations, elapsed

    return loop


def _nothing(_lock: object) -> Loop:
    """Return the loop alone, which is in all the others' figures."""

    def loop(seconds: float) -> tuple[int, float]:
        operations, started = 0, perf_counter()
        while True:
            for _ in range(BATCH):
                pass
            operations += BATCH
            elapsed = perf_counter() - started
            if elapsed >= seconds:
                return operations, elapsed

    return loop


def _reads(lock: RWLock) -> Loop:
    read = lock.read

    def loop(seconds: float) -> tuple[int, float]:
        operations, started = 0, perf_counter()
        while True:
            for _ in range(BATCH):
                with read():
                    pass
            operations += BATCH
            elapsed = perf_counter() - started
            if elapsed >= seconds:
                return operations, elapsed

    return loop


def _writes(lock: RWLock) -> Loop:
    lock.read()  # every thread has a slot, as where all read at times
    return _blocks(lock.write())


@dataclass(slots=True)
class _LockTrial:
    lock: Any
    loop: Callable[[Any], Loop]

    def prepare(self, _worker: int) -> Loop:
        return self.loop(self.lock)

    def figures(self, _operations: int, _seconds: float) -> dict[str, float]:
        return {}


LOCKS: Final[dict[str, tuple[Callable[[], Any], Callable[[Any], Loop]]]] = {
    "the loop alone": (object, _nothing),
    "Lock, bound acquire() and release()": (threading.Lock, _calls),
    "with Lock": (threading.Lock, _blocks),
    "with RLock": (threading.RLock, _blocks),
    "with TimedLock": (TimedLock, _blocks),
    "with RWLock.read()": (RWLock, _reads),
    "with RWLock.write()": (RWLock, _writes),
}


@dataclass(slots=True)
class _WaitTrial:
    """All threads add to one number under one lock, and time each wait."""

    lock: Any = field(default_factory=threading.Lock)
    total: int = 0
    waits: list[list[int]] = field(default_factory=list)
    """Nanoseconds, a list a thread."""

    def prepare(self, _worker: int) -> Loop:
        acquire, release = self.lock.acquire, self.lock.release
        waits: list[int] = []
        self.waits.append(waits)

        def loop(seconds: float) -> tuple[int, float]:
            operations, started = 0, perf_counter()
            while True:
                for _ in range(BATCH):
                    if not acquire(False):
                        asked = perf_counter_ns()
                        acquire()
                        waits.append(perf_counter_ns() - asked)
                    self.total += 1
                    release()
                operations += BATCH
                elapsed = perf_counter() - started
                if elapsed >= seconds:
                    return operations, elapsed

        return loop

    def figures(self, operations: int, seconds: float) -> dict[str, float]:
        if self.total != operations:
            raise RuntimeError(f"{operations} additions under a lock came to {self.total}")
        waits = sorted(wait for own in self.waits for wait in own)
        return {
            "waited": len(waits) / operations,
            "wait_share": sum(waits) / 1e9 / seconds,
            "wait_median_us": _percentile(waits, 0.5) / 1000,
            "wait_p99_us": _percentile(waits, 0.99) / 1000,
            "wait_longest_us": (waits[-1] if waits else 0) / 1000,
        }


def _percentile(ordered: Sequence[int], share: float) -> float:
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0


def cases(threads: Sequence[int]) -> list[Case]:
    """Return the cases of both sections."""
    costs = [
        Case(COSTS, name, "", count, lambda new=new, loop=loop: _LockTrial(new(), loop))  # type: ignore[misc]
        for name, (new, loop) in LOCKS.items()
        for count in threads
    ]
    return costs + [Case(WAITS, "increment", "", count, _WaitTrial) for count in threads]


def costs_report(rows: Sequence[Row]) -> str:
    """Say what taking and giving back costs."""
    return matrix("ns to take and give back", rows, lambda row: row.case.subject, cells)


def waits_report(rows: Sequence[Row]) -> str:
    """Say what an increment costs where all want the same lock, and how long the waits are."""
    head = ["threads", "ns an increment", "waited", "time spent waiting"]
    head += ["median wait us", "p99 us", "longest us"]
    return table(
        head,
        [
            [
                str(row.case.threads),
                cells(row),
                f"{row.figure('waited'):.2%}",
                f"{row.figure('wait_share'):.0%}",
                f"{row.figure('wait_median_us'):.1f}",
                f"{row.figure('wait_p99_us'):.0f}",
                f"{max(row.figures['wait_longest_us']):.0f}",
            ]
            for row in rows
        ],
    )
