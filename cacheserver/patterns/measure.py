"""Runs loops in several threads at once, and takes their times.

Guarantees:
- What a loop touches was made in its own thread, the subject apart.
- All loops of a sample start at one barrier and run for the same time, so they overlap but for their
  last few operations. Worker N is bound to the Nth usable CPU where the system lets it choose.
- Samples of all cases are taken in turn, round after round, so that a slow minute of the machine
  slows all of them.
- A thread that fails fails the measurement.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter, perf_counter_ns
from typing import Any, Final, Protocol

BATCH: Final = 64
"""Operations between two looks at the clock."""
SLOW_BATCH: Final = 4
"""The same, of operations that take tens of microseconds."""

type Loop = Callable[[float], tuple[int, float]]
"""Works for about so many seconds; returns how many operations it did, and in how many seconds."""


class Trial(Protocol):
    """One sample's subject, made anew for each sample."""

    def prepare(self, worker: int) -> Loop:
        """Return the worker's loop. Called in the worker's own thread, before the barrier."""

    def figures(self, operations: int, seconds: float) -> dict[str, float]:
        """Return what else was seen, after so many operations and seconds of all threads."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured: a subject, at one setting, by a number of threads."""

    section: str
    subject: str
    setting: str
    threads: int
    make: Callable[[], Trial]


@dataclass(slots=True)
class Row:
    """What a case came to: a number for each sample."""

    case: Case
    nanoseconds: list[float] = field(default_factory=list)
    """How long one operation took a thread."""
    figures: dict[str, list[float]] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """Of the nanoseconds."""
        return statistics.median(self.nanoseconds)

    @property
    def best(self) -> float:
        """The least disturbed sample; of a contended case perhaps one that was hardly contended."""
        return min(self.nanoseconds)

    def figure(self, name: str) -> float:
        """The median of a figure."""
        return statistics.median(self.figures[name])

    def as_json(self) -> dict[str, Any]:
        """Return all of it."""
        case = self.case
        return {
            "section": case.section,
            "subject": case.subject,
            "setting": case.setting,
            "threads": case.threads,
            "nanoseconds": {"median": self.median, "best": self.best, "samples": self.nanoseconds},
            "figures": {
                name: {"median": self.figure(name), "samples": samples}
                for name, samples in self.figures.items()
            },
        }


def measure(
    cases: Sequence[Case],
    *,
    rounds: int,
    seconds: float,
    progress: Callable[[int], None] = lambda _round: None,
) -> list[Row]:
    """Take `rounds` samples of each case, in turn; of each a row, in the order of the cases."""
    rows = [Row(case) for case in cases]
    for number in range(rounds):
        progress(number)
        for row in rows:
            _take_sample(row, seconds)
    return rows


def _take_sample(row: Row, seconds: float) -> None:
    trial = row.case.make()
    done = run_threads(row.case.threads, trial.prepare, seconds)
    operations, elapsed = sum(count for count, _ in done), sum(time for _, time in done)
    row.nanoseconds.append(elapsed / max(operations, 1) * 1e9)
    for name, value in trial.figures(operations, elapsed).items():
        row.figures.setdefault(name, []).append(value)


def run_threads(
    threads: int, prepare: Callable[[int], Loop], seconds: float
) -> list[tuple[int, float]]:
    """Prepare and run a loop in each of so many threads; return what each returned."""
    barrier = threading.Barrier(threads)
    cpus = usable_cpus()

    def work(worker: int) -> tuple[int, float]:
        try:
            if sys.platform == "linux":
                os.sched_setaffinity(0, {cpus[worker % len(cpus)]})
            loop = prepare(worker)
            barrier.wait()
        except BaseException:
            barrier.abort()
            raise
        return loop(seconds)

    with ThreadPoolExecutor(threads) as pool:
        working = [pool.submit(work, worker) for worker in range(threads)]
    failures = [failure for each in working if (failure := each.exception()) is not None]
    # Those whose barrier broke only waited for one that failed.
    for failure in sorted(
        failures, key=lambda each: isinstance(each, threading.BrokenBarrierError)
    ):
        raise failure
    return [each.result() for each in working]


def repeat(operation: Callable[[], object], batch: int = BATCH) -> Loop:
    """Return a loop of nothing but calls of `operation`."""

    def loop(seconds: float) -> tuple[int, float]:
        operations, started = 0, perf_counter()
        while True:
            for _ in range(batch):
                operation()
            operations += batch
            elapsed = perf_counter() - started
            if elapsed >= seconds:
                return operations, elapsed

    return loop


def spin(count: int) -> None:
    """Work for a while, with nothing that other threads know."""
    for _ in range(count):
        pass


def spins_for(microseconds: float) -> int:
    """Return the count that has `spin` work for so long on the calling thread, undisturbed."""
    if not microseconds:
        return 0
    best = min(_nanoseconds_of_spin(10_000) for _ in range(5))
    return max(1, round(microseconds * 1_000 / (best / 10_000)))


def _nanoseconds_of_spin(count: int) -> int:
    started = perf_counter_ns()
    spin(count)
    return perf_counter_ns() - started


def thread_counts(most: int) -> list[int]:
    """Return 1, 2, 4 ... and `most` itself."""
    return sorted({most, *_powers_of_two(most)})


def _powers_of_two(most: int) -> Iterator[int]:
    power = 1
    while power <= most:
        yield power
        power *= 2


def usable_cpus() -> list[int]:
    """Return the numbers of the CPUs that this process may use."""
    if sys.platform == "linux":
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def gil_enabled() -> bool:
    """Whether this interpreter runs one thread at a time."""
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def machine() -> dict[str, Any]:
    """Describe what this runs on: figures mean nothing without it."""
    return {
        "cpus": len(usable_cpus()),
        "cpu_model": _cpu_model(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "free_threaded_build": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
        "gil_enabled": gil_enabled(),
        "optimised_build": "--enable-optimizations"
        in str(sysconfig.get_config_var("CONFIG_ARGS") or ""),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def describe(found: Mapping[str, Any]) -> str:
    """Put `machine()` into one line."""
    build = "free-threaded" if found["free_threaded_build"] else "with the GIL only"
    if found["free_threaded_build"] and found["gil_enabled"]:
        build += ", GIL turned on"
    optimised = "with PGO" if found["optimised_build"] else "without PGO"
    return (
        f"{found['cpus']} CPUs ({found['cpu_model']}), {found['system']}, "
        f"{found['implementation']} {found['python']} {build}, {optimised}"
    )


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
