"""What looks for pauses: threads that time each thing they do, and a note of every collection.

A thread that comes every now and then meets every pause that is longer than that, wherever it is held
up: asleep, at a lock, or in the middle. So it is late by so much as anybody could have had to wait. What
the machine itself does to it, when there are more threads than CPUs, is in there too: each figure wants
one beside it from a time when nothing happened.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from cacheserver.store.locks import WAIT_BOUNDS, Histogram

PAUSE: Final = 0.0003
"""Seconds for which a prober sleeps between two things that it does."""
SLOWEST: Final = 20
"""So many of the longest are kept."""


@dataclass(slots=True)
class Slowest:
    """The longest of many lengths of time, and how many there were."""

    count: int = 0
    longest: list[tuple[float, float]] = field(default_factory=list)
    """(seconds, when it ended on the monotonic clock), the longest last."""
    bar: float = 0.0
    """What is no longer than this isn't kept."""

    def add(self, seconds: float, ended: float) -> None:
        """Keep it if it is one of the longest."""
        self.longest.append((seconds, ended))
        self.longest.sort()
        if len(self.longest) > SLOWEST:
            del self.longest[0]
            self.bar = self.longest[0][0]

    @property
    def most(self) -> float:
        """The longest, 0 where there was none."""
        return self.longest[-1][0] if self.longest else 0.0

    def numbers(self) -> dict[str, Any]:
        """Return what a report needs."""
        return {"count": self.count, "longest": self.most, "next": [s for s, _ in self.longest]}


class Prober:
    """A thread that does one thing every PAUSE seconds, and times it from when it was to begin.

    `prepare` is called in the thread and returns the thing; it is given the number of the turn.
    """

    def __init__(self, prepare: Callable[[], Callable[[int], object]]) -> None:
        self._prepare = prepare
        self._slowest = Slowest()
        self._stopped = False
        self._started = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="probe")

    def start(self) -> None:
        """Start, and wait until it works."""
        self._thread.start()
        self._started.wait()

    def cut(self) -> Slowest:
        """Return what was seen since the last cut."""
        found, self._slowest = self._slowest, Slowest()
        return found

    def stop(self) -> Slowest:
        """Stop, and return what was seen since the last cut. Raises what ended the thread early."""
        self._stopped = True
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self.cut()

    def _run(self) -> None:
        try:
            self._work(self._prepare())
        except BaseException as error:
            self._error = error
        finally:
            self._started.set()

    def _work(self, do: Callable[[int], object]) -> None:
        now, sleep = time.monotonic, time.sleep
        do(0)
        self._started.set()
        turn = 0
        while not self._stopped:
            turn += 1
            due = now() + PAUSE
            sleep(PAUSE)
            do(turn)
            ended = now()
            slowest = self._slowest
            slowest.count += 1
            if ended - due > slowest.bar:
                slowest.add(ended - due, ended)


@contextmanager
def probing(**probers: Prober) -> Generator[dict[str, Prober]]:
    """Have these at work, and end them."""
    for prober in probers.values():
        prober.start()
    try:
        yield probers
    finally:
        for prober in probers.values():
            prober.stop()


class Collections:
    """Notes of every garbage collection in this process: when it began, and how long it took."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, float]] = []
        """(began on the monotonic clock, seconds)."""
        self._began = 0.0

    def __enter__(self) -> Collections:
        gc.callbacks.append(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        gc.callbacks.remove(self._note)

    def longest(self) -> float:
        """Return the longest so far, in seconds."""
        return max((seconds for _, seconds in self.seen), default=0.0)

    def _note(self, phase: str, _info: dict[str, int]) -> None:
        if phase == "start":
            self._began = time.monotonic()
        else:
            self.seen.append((self._began, time.monotonic() - self._began))


def longest_bucket(waits: Histogram) -> float:
    """Return an upper bound of the longest wait in a histogram, in seconds: 0 where there was none."""
    used = [at for at, count in enumerate(waits.buckets) if count]
    if not used:
        return 0.0
    return WAIT_BOUNDS[used[-1]] if used[-1] < len(WAIT_BOUNDS) else float("inf")


def since(later: Histogram, earlier: Histogram) -> Histogram:
    """Return what came to a histogram in between."""
    return Histogram(
        later.count - earlier.count,
        later.seconds - earlier.seconds,
        tuple(a - b for a, b in zip(later.buckets, earlier.buckets, strict=True)),
    )
