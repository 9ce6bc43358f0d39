"""Locks that know how long their callers waited: `TimedLock` and `RWLock`.

Guarantees:
- Every acquisition is counted, and every wait, the shortest included, is counted with its length.
  The thread that holds the lock writes the numbers, so none is lost. Reading them takes no lock,
  so it can be done at any time, even while holding it: each number is exact as of that moment.
- `RWLock` lets readers in side by side and a writer in alone. Where nobody writes, a reader touches
  nothing that another reader touches.
- Fairness of `RWLock`: from the moment a writer asks, newcomers queue in order of arrival, readers
  and writers alike. So a stream of readers cannot starve a writer, nor writers a reader.
- Nothing is re-entrant. A thread that would wait for itself gets `LockMisuse` where the lock can
  know its holder (`RWLock` with a slot a thread), and an upgrade from reading to writing always does.

Assumes of the interpreter: that reading or writing one attribute is atomic. Exclusion itself comes
from `threading.Lock` alone.

How `RWLock` works ("big reader lock"): readers own slots, each with an ordinary lock. A reader takes
its own slot; a writer takes all of them, in order. A writer that arrives first closes the slots:
whoever then comes to a closed slot queues at the turnstile, and so does the writer. Whoever is let
through the turnstile takes its slot, or all of them, before the next one is let through: a writer
keeps the turnstile until it is done, a reader until it has its slot.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Final

from cacheserver.errors import LockMisuse
from cacheserver.store.counters import PerThread

WAIT_BOUNDS: Final = tuple(2**k / 1e6 for k in range(21))
"""Upper bounds of the buckets of waits and holds, in seconds: 1 us, 2 us, 4 us ... 1.048576 s."""

_BUCKETS: Final = len(WAIT_BOUNDS) + 1  # the last one has no bound
_NOTHING: Final = (0,) * (1 + _BUCKETS)  # nanoseconds, then the buckets
SAMPLE_EVERY: Final = 64
"""One in so many holds is timed. A power of two."""
assert SAMPLE_EVERY == 64  # as it stands in Slot.acquire, where a name costs a lookup


@dataclass(frozen=True, slots=True)
class Histogram:
    """Lengths of time: how many, their sum, and how many in each bucket of `WAIT_BOUNDS`."""

    count: int = 0
    seconds: float = 0.0
    buckets: tuple[int, ...] = (0,) * _BUCKETS

    def __add__(self, other: Histogram) -> Histogram:
        buckets = zip(self.buckets, other.buckets, strict=True)
        return Histogram(
            self.count + other.count,
            self.seconds + other.seconds,
            tuple(mine + theirs for mine, theirs in buckets),
        )


@dataclass(frozen=True, slots=True)
class LockStatistics:
    """What a lock, or many locks together, saw until one instant."""

    acquisitions: int = 0
    waits: Histogram = Histogram()
    """The contended acquisitions: all of them."""
    holds: Histogram = Histogram()
    """How long it was held: one in SAMPLE_EVERY of a lock's holds, every hold of a writer."""

    @property
    def contended(self) -> int:
        """How many acquisitions had to wait."""
        return self.waits.count

    def __add__(self, other: LockStatistics) -> LockStatistics:
        return LockStatistics(
            self.acquisitions + other.acquisitions,
            self.waits + other.waits,
            self.holds + other.holds,
        )


class _Durations:
    """A histogram in the making. Whoever holds the lock that it belongs to may add; all may read.

    One tuple is replaced by the next, so that a reader, who takes no lock, sees a whole one.
    """

    __slots__ = ("_sums",)

    def __init__(self) -> None:
        self._sums = _NOTHING

    def add(self, nanoseconds: int) -> None:
        # Bucket k, at index k + 1, holds what is at most 2**k microseconds long.
        microseconds = (max(nanoseconds, 1) - 1) // 1000
        at = 1 + min(microseconds.bit_length(), _BUCKETS - 1)
        sums = self._sums
        self._sums = (sums[0] + nanoseconds, *sums[1:at], sums[at] + 1, *sums[at + 1 :])

    def freeze(self) -> Histogram:
        return _Durations.total((self,))

    @staticmethod
    def total(many: Iterable[_Durations]) -> Histogram:
        sums = [sums for durations in many if (sums := durations._sums) is not _NOTHING]
        nanoseconds, *buckets = map(sum, zip(*sums, strict=True)) if sums else _NOTHING
        return Histogram(sum(buckets), nanoseconds / 1e9, tuple(buckets))


class TimedLock:
    """A drop-in `threading.Lock` that counts its acquisitions and measures every wait.

    Costs hardly more than the lock inside where nobody waits: it tries first, and looks at the
    clock only when that fails. One hold in `SAMPLE_EVERY` is timed too.
    """

    __slots__ = ("_acquisitions", "_held_since", "_holds", "_lock", "_waits")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Written by whoever holds _lock:
        self._acquisitions = 0
        self._held_since = 0
        self._waits = _Durations()
        self._holds = _Durations()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take the lock; arguments and result are those of `threading.Lock.acquire`."""
        if self._lock.acquire(False):
            self._count_locked()
            return True
        return blocking and self._acquire_slowly(timeout)

    def release(self) -> None:
        """Give the lock back."""
        if self._held_since:
            self._holds.add(perf_counter_ns() - self._held_since)
            self._held_since = 0
        self._lock.release()

    def locked(self) -> bool:
        """Tell whether anybody holds it right now."""
        return self._lock.locked()

    def statistics(self) -> LockStatistics:
        """Return the numbers as of now. Takes no lock."""
        return TimedLock.total((self,))

    @staticmethod
    def total(locks: Sequence[TimedLock]) -> LockStatistics:
        """Return the numbers of many locks together."""
        waits = _Durations.total(lock._waits for lock in locks)
        return _after_waits(locks, waits)

    def _acquire_slowly(self, timeout: float = -1) -> bool:
        asked = perf_counter_ns()
        if not self._lock.acquire(True, timeout):
            return False
        self._count_locked()
        self._waits.add(perf_counter_ns() - asked)
        return True

    def _count_locked(self) -> None:
        self._acquisitions += 1
        if not self._acquisitions % SAMPLE_EVERY:
            self._held_since = perf_counter_ns()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def _after_waits(locks: Sequence[TimedLock], waits: Histogram) -> LockStatistics:
    """Complete statistics. An acquisition is counted before its wait, so waits are read first."""
    acquisitions = sum(lock._acquisitions for lock in locks)
    return LockStatistics(acquisitions, waits, _Durations.total(lock._holds for lock in locks))


class Turnstile:
    """A lock that is handed over in order of arrival. It is slow, and meant for slow paths.

    Whoever is interrupted on the way in, by an exception that a signal handler raises, has left the
    queue or passed the turnstile on.
    """

    __slots__ = ("_lock", "_queue")

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _queue
        self._queue: deque[threading.Lock] = deque()  # the first is inside, the others wait

    def enter(self) -> bool:
        """Wait for the turn of this caller. Returns whether it had to wait."""
        turn = threading.Lock()
        turn.acquire()
        try:
            with self._lock:
                self._queue.append(turn)
                waits = self._queue[0] is not turn
            if waits:
                turn.acquire()
        except BaseException:
            self._withdraw(turn)
            raise
        return waits

    def leave(self) -> None:
        """Let the next one in."""
        with self._lock:
            self._queue.popleft()
            self._call_first_locked()

    def taken(self) -> bool:
        """Tell whether anybody is inside right now."""
        return bool(self._queue)

    def waiting(self) -> int:
        """Tell how many wait right now."""
        return max(0, len(self._queue) - 1)

    def _withdraw(self, turn: threading.Lock) -> None:
        with self._lock:
            if turn in self._queue:
                was_first = self._queue[0] is turn
                self._queue.remove(turn)
                if was_first:
                    self._call_first_locked()

    def _call_first_locked(self) -> None:
        if self._queue:
            self._queue[0].release()


class WriteGate:
    """The writer's half of a big reader lock: `with gate:` closes all slots and takes them.

    Used by itself where somebody else owns the slots and acquires them, as a striped dict does with
    its stripes; `RWLock` is the whole lock, with a slot a thread.
    """

    def __init__(self) -> None:
        self.turnstile = Turnstile()
        self._lock = threading.Lock()  # guards _slots, _writers and Slot.closed
        self._slots: list[Slot] = []
        self._writers = 0  # that work or wait
        # Written by the writer that is inside:
        self._taken: list[Slot] = []
        self._owner = 0
        self._held_since = 0
        self._acquisitions = 0
        self._waits = _Durations()
        self._holds = _Durations()

    def add(self, slot: Slot) -> None:
        """Have writers take this slot too, from the next one that is let in."""
        with self._lock:
            slot.closed = self._writers > 0
            self._slots.append(slot)

    def remove(self, slot: Slot) -> None:
        """Have writers take this slot no more."""
        with self._lock:
            self._slots.remove(slot)

    def exchange(self, old: Iterable[Slot], new: Iterable[Slot]) -> None:
        """Have writers take these slots instead of those. New ones may have been added already."""
        gone = {*map(id, old), *map(id, new := tuple(new))}
        with self._lock:
            for slot in new:
                slot.closed = self._writers > 0
            self._slots = [*(slot for slot in self._slots if id(slot) not in gone), *new]

    def slots(self) -> tuple[Slot, ...]:
        """Return the slots, in the order in which a writer takes them."""
        with self._lock:
            return tuple(self._slots)

    def is_mine(self) -> bool:
        """Tell whether the calling thread is the writer inside."""
        return self._owner == threading.get_ident()

    def statistics(self) -> LockStatistics:
        """Return the writers' numbers as of now. Takes no lock."""
        waits = self._waits.freeze()  # before the acquisitions, which are counted first
        return LockStatistics(self._acquisitions, waits, self._holds.freeze())

    def __enter__(self) -> None:
        if self.is_mine():
            raise LockMisuse("this thread writes under this lock already; it is not re-entrant")
        asked = perf_counter_ns()
        self._close_slots()
        try:
            waited = self.turnstile.enter()
        except BaseException:
            self._open_slots()
            raise
        try:
            for slot in self.slots():
                waited |= slot.take_for_writer()
                self._taken.append(slot)
        except BaseException:
            self._leave()
            raise
        self._owner = threading.get_ident()
        self._acquisitions += 1
        self._held_since = perf_counter_ns()
        if waited:
            self._waits.add(self._held_since - asked)

    def __exit__(self, *_: object) -> None:
        if not self.is_mine():
            raise LockMisuse("only the thread that writes under this lock can let go of it")
        self._holds.add(perf_counter_ns() - self._held_since)
        self._owner = 0
        self._leave()

    def _leave(self) -> None:
        taken, self._taken = self._taken, []
        for slot in taken:
            slot.release_for_writer()
        self._open_slots()
        self.turnstile.leave()

    def _close_slots(self) -> None:
        with self._lock:
            self._writers += 1
            for slot in self._slots:
                slot.closed = True

    def _open_slots(self) -> None:
        with self._lock:
            self._writers -= 1
            for slot in self._slots:
                slot.closed = self._writers > 0


class Slot(TimedLock):
    """A reader's place in a big reader lock: a lock of its own that a writer takes too.

    While a writer works or waits the slot is closed, and `acquire` queues at the gate's turnstile.
    Waits there are kept apart from waits for another reader of the same slot.
    """

    __slots__ = ("_gate", "_queued", "closed")

    def __init__(self, gate: WriteGate) -> None:
        super().__init__()
        self._gate = gate
        self._queued = _Durations()  # written by whoever holds _lock
        self.closed = False  # written by the gate, under its lock
        gate.add(self)

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take the slot, after every writer that asked before. Only the waiting form exists."""
        if not blocking or timeout != -1:
            raise LockMisuse("a slot can only be waited for: call acquire() without arguments")
        if not self.closed and self._lock.acquire(False):
            # As in _count_locked, without the call.
            self._acquisitions = acquisitions = self._acquisitions + 1
            if not acquisitions & 63:  # SAMPLE_EVERY
                self._held_since = perf_counter_ns()
        elif self.closed:
            self._acquire_in_turn()
        else:
            self._acquire_slowly()
        return True

    def try_acquire(self) -> bool:
        """Take the slot if nobody has it or waits for it."""
        return not self.closed and TimedLock.acquire(self, False)

    def acquire_next(self) -> None:
        """Take the slot without queueing, for who has one that writers take before this one."""
        TimedLock.acquire(self)

    def take_for_writer(self) -> bool:
        """Take the slot for a writer that is through the turnstile. Returns whether it waited."""
        if self._lock.acquire(False):
            return False
        return self._lock.acquire()

    def release_for_writer(self) -> None:
        """Give back what `take_for_writer` took."""
        self._lock.release()

    @staticmethod
    def total_read(slots: Sequence[Slot]) -> LockStatistics:
        """The same acquisitions seen as shares of the whole: their waits are those for writers."""
        waits = _Durations.total(slot._queued for slot in slots)
        return _after_waits(slots, waits)

    def _acquire_in_turn(self) -> None:
        if self._gate.is_mine():
            raise LockMisuse("this thread has the whole of what it wants a part of: it would hang")
        asked = perf_counter_ns()
        self._gate.turnstile.enter()
        try:
            self._lock.acquire()
        finally:
            self._gate.turnstile.leave()
        self._count_locked()
        self._queued.add(perf_counter_ns() - asked)


class RWLock:
    """Many readers side by side, or one writer alone; in order of arrival once a writer asks.

    `with lock.read(): ...` and `with lock.write(): ...`. Made for reads that are frequent and short
    and writes that are rare: a read costs one lock that nobody else wants, a write one lock for
    every thread that reads. Not re-entrant, no upgrade: both raise `LockMisuse`. Never hold it
    over an `await`.
    """

    def __init__(self) -> None:
        self._gate = WriteGate()
        self._slots = PerThread(lambda: _ThreadSlot(self._gate), self._retire)
        self._ended = LockStatistics()  # of threads that are gone; guarded by the lock of _slots
        self._write_side = _WriteSide(self._slots, self._gate)

    def read(self) -> AbstractContextManager[bool]:
        """Return what lets the calling thread in beside other readers."""
        return self._slots.mine()

    def write(self) -> AbstractContextManager[None]:
        """Return what lets the calling thread in alone."""
        return self._write_side

    def read_statistics(self) -> LockStatistics:
        """Return the readers' numbers; their waits are those for writers."""
        return self._slots.fold(self._sum)

    def write_statistics(self) -> LockStatistics:
        """Return the writers' numbers."""
        return self._gate.statistics()

    def _sum(self, slots: list[_ThreadSlot]) -> LockStatistics:
        return self._ended + Slot.total_read(slots)

    def _retire(self, slot: _ThreadSlot) -> None:
        self._ended += Slot.total_read((slot,))
        self._gate.remove(slot)


class _ThreadSlot(Slot):
    """The slot of one thread, which knows whether that thread is inside."""

    __slots__ = ("inside",)

    def __init__(self, gate: WriteGate) -> None:
        self.inside = False  # its thread's own
        super().__init__(gate)

    def __enter__(self) -> bool:
        if self.inside:
            raise LockMisuse("this thread reads under this RWLock already; it is not re-entrant")
        self.acquire()
        self.inside = True
        return True

    def __exit__(self, *_: object) -> None:
        self.inside = False
        self.release()


class _WriteSide:
    """The gate, for threads that may be inside as readers."""

    __slots__ = ("_gate", "_slots")

    def __init__(self, slots: PerThread[_ThreadSlot], gate: WriteGate) -> None:
        self._slots = slots
        self._gate = gate

    def __enter__(self) -> None:
        if self._slots.mine().inside:
            raise LockMisuse(
                "this thread reads under this RWLock and cannot upgrade: leave first, then write, "
                "and check again what was read"
            )
        self._gate.__enter__()

    def __exit__(self, *_: object) -> None:
        self._gate.__exit__()
