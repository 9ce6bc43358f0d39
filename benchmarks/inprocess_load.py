"""Workloads of the store benchmark, and the loops that are timed.

Guarantees:
- What a timed loop touches was made in its own thread, the subject apart: keys and values as a
  server makes them of what it received, no two equal keys the same object, and no name that
  another thread looks up too.
- All loops start at one barrier and run for the same time, so they overlap but for their last pass.
- Writers write values that no other write has, so that what is found afterwards tells who wrote it.
- A thread that fails fails the measurement.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Final

from benchmarks.inprocess import usable_cpus
from benchmarks.inprocess_subjects import Subject, Way

VALUE_SIZE: Final = 64
PASS: Final = 4096
"""Operations between two looks at the clock."""

type Clock = Callable[[], float]
type Timed = Callable[[], tuple[int, float]]
"""Runs a loop; returns how many operations it did in how many seconds."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Which keys are asked for, and how many of the operations write."""

    name: str
    write_share: float = 0.0
    zipf: float = 0.0
    """Exponent; 0 is uniform."""
    hot: bool = False
    """All ask for one key."""
    own: bool = False
    """Each thread has keys of its own."""


OWN_GET: Final = Workload("GET, own keys", own=True)
OWN_PUT: Final = Workload("PUT, own keys", write_share=1.0, own=True)
SHARED_MIX: Final = Workload("90/10, uniform", write_share=0.1)
WORKLOADS: Final = (
    OWN_GET,
    OWN_PUT,
    Workload("GET, uniform"),
    SHARED_MIX,
    Workload("50/50, uniform", write_share=0.5),
    Workload("GET, Zipf 0.99", zipf=0.99),
    Workload("90/10, Zipf 0.99", write_share=0.1, zipf=0.99),
    Workload("GET, one key", hot=True),
    Workload("90/10, one key", write_share=0.1, hot=True),
)


@dataclass(frozen=True, slots=True)
class Script:
    """What one thread does in a pass."""

    keys: list[str]
    values: list[bytes | None]
    """What is written under the key in the same place; None: the key is read."""

    @property
    def writes(self) -> int:
        """How many operations of a pass write."""
        return len(self.values) - self.values.count(None)


@dataclass(frozen=True, slots=True)
class Measurement:
    """What all threads together did."""

    operations_per_second: float
    writes: int
    """Done in all, the fill left out, the pass before the barrier included."""


def key(number: int) -> str:
    """Return a key of 16 characters, a new object each time."""
    return f"key:{number:012d}"


def written_value(worker: int, place: int) -> bytes:
    """Return what this worker writes in this place of its script."""
    return f"{worker}:{place}".encode().ljust(VALUE_SIZE, b".")


def filled_value(number: int) -> bytes:
    """Return what a key holds before anybody writes it: each its own object, as in a cache."""
    return f"filled:{number}".encode().ljust(VALUE_SIZE, b".")


def key_numbers(workload: Workload, keys: int, worker: int) -> range:
    """Return the keys that this worker asks for."""
    first = worker * keys if workload.own else 0
    return range(first, first + (1 if workload.hot else keys))


def write_script(workload: Workload, keys: int, worker: int, seed: int, length: int) -> Script:
    """Draw what a worker does; the share of writes is met exactly, in random places."""
    draw = random.Random(f"{seed}:{worker}")
    numbers = key_numbers(workload, keys, worker)
    weights = list(accumulate(rank**-workload.zipf for rank in range(1, len(numbers) + 1)))
    drawn = draw.choices(numbers, cum_weights=weights, k=length)
    writing = set(draw.sample(range(length), round(length * workload.write_share)))
    return Script(
        [key(number) for number in drawn],
        [written_value(worker, place) if place in writing else None for place in range(length)],
    )


def measure(
    subject: Subject,
    workload: Workload,
    threads: int,
    *,
    seconds: float,
    keys: int,
    seed: int = 0,
    length: int = PASS,
    check: Callable[[Way], None] = lambda way: None,
    clock: Clock = time.perf_counter,
) -> Measurement:
    """Run the workload on a new state of the subject. `check` gets a way in when it is over.

    With `time.thread_time` as the clock, seconds are those of a CPU, which other work on the machine
    leaves alone; but then waiting for a lock takes no time either.
    """
    state = subject.make(4 * keys * threads)
    writes = [0] * threads
    fill_each = subject.private or workload.own
    if not fill_each:
        _fill(subject.enter(state), workload, keys, 0)

    def prepare(worker: int) -> Timed:
        way = subject.enter(state)
        if fill_each:
            _fill(way, workload, keys, worker)
        script = write_script(workload, keys, worker, seed, length)
        loop = mixed_loop if workload.write_share else reading_loop
        loop(way, script, 0, clock)

        def run() -> tuple[int, float]:
            operations, elapsed = loop(way, script, seconds, clock)
            writes[worker] = (operations // length + 1) * script.writes
            _expect_values(subject, way, script)
            return operations, elapsed

        return run

    try:
        rate = run_threads(threads, prepare)
        if not subject.private:
            check(subject.enter(state))
        return Measurement(rate, sum(writes))
    finally:
        subject.close(state)


def run_threads(threads: int, prepare: Callable[[int], Timed]) -> float:
    """Prepare and run a loop in each of so many threads; return the sum of their rates.

    Worker N runs on the Nth usable CPU where the system lets it choose.
    """
    barrier = threading.Barrier(threads)
    cpus = usable_cpus()

    def work(worker: int) -> float:
        try:
            if can_pin():
                os.sched_setaffinity(0, {cpus[worker % len(cpus)]})
            timed = prepare(worker)
            barrier.wait()
        except BaseException:
            barrier.abort()
            raise
        operations, elapsed = timed()
        return operations / elapsed

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(work, range(threads)))


def can_pin() -> bool:
    """Whether a thread can be bound to a CPU here."""
    return sys.platform == "linux"


def reading_loop(way: Way, script: Script, seconds: float, clock: Clock) -> tuple[int, float]:
    """Read the script's keys until the time is up, whole passes and at least one."""
    get, keys = way.get, script.keys
    passes = 0
    started = clock()
    while True:
        for each in keys:
            get(each)
        passes += 1
        elapsed = clock() - started
        if elapsed >= seconds:
            return passes * len(keys), elapsed


def mixed_loop(way: Way, script: Script, seconds: float, clock: Clock) -> tuple[int, float]:
    """Read and write the script's keys until the time is up, whole passes and at least one."""
    get, put = way.get, way.put
    keys, values = script.keys, script.values
    passes = 0
    started = clock()
    while True:
        for each, value in zip(keys, values, strict=True):
            if value is None:
                get(each)
            else:
                put(each, value)
        passes += 1
        elapsed = clock() - started
        if elapsed >= seconds:
            return passes * len(keys), elapsed


def empty_reading_loop(script: Script, seconds: float) -> tuple[int, float]:
    """`reading_loop` without its operation: what the loop itself takes."""
    keys, clock = script.keys, time.perf_counter
    passes = 0
    started = clock()
    while True:
        for _each in keys:
            pass
        passes += 1
        elapsed = clock() - started
        if elapsed >= seconds:
            return passes * len(keys), elapsed


def empty_mixed_loop(script: Script, seconds: float) -> tuple[int, float]:
    """`mixed_loop` without its operations: what the loop itself takes."""
    keys, values, clock = script.keys, script.values, time.perf_counter
    passes = 0
    started = clock()
    while True:
        for _each, value in zip(keys, values, strict=True):
            if value is None:
                pass
            else:
                pass
        passes += 1
        elapsed = clock() - started
        if elapsed >= seconds:
            return passes * len(keys), elapsed


def computing_loop(_script: Script, seconds: float) -> tuple[int, float]:
    """Compute and touch no memory to speak of: what the machine gives to several threads at all."""
    clock = time.perf_counter
    passes = 0
    number = 1
    started = clock()
    while True:
        for _ in range(PASS):
            number = (5 * number + 1) & 0xFFFF
        passes += 1
        elapsed = clock() - started
        if elapsed >= seconds:
            return passes * PASS, elapsed


FLOORS: Final = {
    "loop of GET alone": empty_reading_loop,
    "loop of a mix alone": empty_mixed_loop,
    "compute": computing_loop,
}
"""Loops that ask no subject."""


def measure_floor(name: str, threads: int, *, seconds: float, keys: int, seed: int = 0) -> float:
    """Return the passes through one of FLOORS that so many threads make a second."""
    loop = FLOORS[name]

    def prepare(worker: int) -> Timed:
        script = write_script(SHARED_MIX, keys, worker, seed, PASS)
        return partial(loop, script, seconds)

    return run_threads(threads, prepare)


def _fill(way: Way, workload: Workload, keys: int, worker: int) -> None:
    for number in key_numbers(workload, keys, worker):
        way.put(key(number), filled_value(number))


def _expect_values(subject: Subject, way: Way, script: Script) -> None:
    """Fail unless a sample of the keys is there: figures of misses would be other figures."""
    for each in script.keys[:64]:
        value: object = subject.value(way.get(each))
        if not isinstance(value, bytes) or len(value) != VALUE_SIZE:
            raise RuntimeError(f"{subject.name} returned {value!r} for {each}")
