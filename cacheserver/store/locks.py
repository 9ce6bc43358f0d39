"""Locks that know how long their callers waited: `TimedLock` and `RWLock`.

Guarantees:
- Every acquisition is counted, and every wait, the shortest included, is counted with its length.
  The thread that holds the lock writes the numbers, so none is lost. Reading them takes no lock,
  so it can be done at any time, even while holding it: each number is exact as of that moment.
- `RWLock` lets readers in side by side and a writer in alone. Where nobody writes, a reader touches
  nothing that another reader touches.
- Fairness of `RWLock`: from the moment a writer asks, newcomers queue in order of arrival, readers
  and writers alike. So a stream of readers cannot starve a writer, nor writers a reader.
- Who is asked by `WAITS` learns what it waited for itself: how long, for which lock, and what held it.
- Nothing is re-entrant. A thread that would wait for itself gets `LockMisuse` where the lock can
  know its holder (`RWLock` with a slot a thread), and an upgrade from reading to writing always does.

Assumes of the interpreter: that reading or writing one attribute is atomic. Exclusion itself comes
from `threading.Lock` and from the mutex of a `Latch`.

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
from contextvars import ContextVar
from dataclasses import dataclass
from time import perf_counter_ns
from typing import ClassVar, Final, NamedTuple, Protocol

from cacheserver.errors import LockMisuse
from cacheserver.store.counters import PerThread
from cacheserver.store.latch import SAMPLE_EVERY, Latch, WaitCount

WAIT_BOUNDS: Final = tuple(2**k / 1e6 for k in range(21))
"""Upper bounds of the buckets of waits and holds, in seconds: 1 us, 2 us, 4 us ... 1.048576 s."""

_BUCKETS: Final = len(WAIT_BOUNDS) + 1  # the last one has no bound
_NOTHING: Final = (0,) * (2 + _BUCKETS)  # nanoseconds, how many, then the buckets
WRITE: Final = "write"
"""What holds a lock where nothing else is said: the write of a single key."""


class Wait(NamedTuple):
    """One wait for a lock."""

    lock: str
    """`stripe`, `namespace_read` or `namespace_write`; `slot`, `read` or `write` of an `RWLock`; `lock` of a
    `TimedLock`."""
    nanoseconds: int
    stripe: int
    """The number of the stripe that was waited for, -1 where it was none."""
    cause: str
    """What held the lock when the wait began: `write`, `transaction`, `clear`, `reshape` ... For
    `namespace_read` and `namespace_write`, what the whole was last held for. Empty where it is not known."""


class WaitLog(WaitCount):
    """What somebody waited for: the sum of all waits, and the last LATEST of them.

    For one thread at a time, as a request is worked on by one.
    """

    LATEST: ClassVar = 16

    __slots__ = ("_latest",)

    def __init__(self) -> None:
        self._latest: deque[tuple[str, int, int, str]] = deque(maxlen=self.LATEST)

    @property
    def waits(self) -> list[Wait]:
        """The last of the waits, in the order in which they ended."""
        return [Wait(*each) for each in self._latest]

    def add(self, lock: str, nanoseconds: int, stripe: int, cause: str) -> None:
        """Note a wait."""
        self.nanoseconds += nanoseconds
        self.count += 1
        self._latest.append((lock, nanoseconds, stripe, cause))

    def clear(self) -> None:
        """Forget all."""
        self.nanoseconds = self.count = 0
        self._latest.clear()


WAITS: Final[ContextVar[WaitLog | None]] = ContextVar("cacheserver.store.waits", default=None)
"""Where the waits of the current context are noted, None: nowhere. Only who has to wait looks at it."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Lengths of time: how many, their sum, and how many in each bucket of `WAIT_BOUNDS`."""

    count: int = 0
    seconds: float = 0.0
    buckets: tuple[int, ...] = (0,) * _BUCKETS

    def __add__(self, other: Histogram) -> Histogram:
        if not other.count or not self.count:
            return self if self.count else other
        buckets = zip(self.buckets, other.buckets, strict=True)
        return Histogram(
            self.count + other.count,
            self.seconds + other.seconds,
            tuple(mine + theirs for mine, theirs in buckets),
        )


_EMPTY: Final = Histogram()


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
        # Bucket k, at index k + 2, holds what is at most 2**k microseconds long.
        microseconds = (max(nanoseconds, 1) - 1) // 1000
        at = 2 + min(microseconds.bit_length(), _BUCKETS - 1)
        sums = self._sums
        self._sums = (
            sums[0] + nanoseconds,
            sums[1] + 1,
            *sums[2:at],
            sums[at] + 1,
            *sums[at + 1 :],
        )

    def freeze(self) -> Histogram:
        return _Durations.total((self,))

    @staticmethod
    def sums(many: Iterable[_Durations]) -> tuple[int, int]:
        """Return how many there are, and their nanoseconds."""
        sums = [sums for durations in many if (sums := durations._sums) is not _NOTHING]
        return sum([each[1] for each in sums]), sum([each[0] for each in sums])

    @staticmethod
    def total(many: Iterable[_Durations]) -> Histogram:
        sums = [sums for durations in many if (sums := durations._sums) is not _NOTHING]
        if not sums:
            return _EMPTY
        nanoseconds, count, *buckets = map(sum, zip(*sums, strict=True))
        return Histogram(count, nanoseconds / 1e9, tuple(buckets))


_NEVER: Final = (0, 0)


class Lock(Protocol):
    """What a lock is here, as `threading.Lock` has it."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take it. Returns whether that went in time."""

    def release(self) -> None:
        """Give it back."""

    def locked(self) -> bool:
        """Tell whether anybody holds it right now."""


class TimedLock:
    """A drop-in `threading.Lock` that counts its acquisitions and measures every wait.

    Costs hardly more than the lock inside where nobody waits: it tries first, and looks at the
    clock only when that fails. One hold in `SAMPLE_EVERY` is timed too.
    """

    __slots__ = ("_acquisitions", "_held_since", "_holds", "_waits", "lock")

    KIND: ClassVar = "lock"

    def __init__(self) -> None:
        self.lock: Lock = threading.Lock()
        """What excludes. A test may put a lock of its own here, before anybody uses this."""
        # Written by whoever holds it:
        self._acquisitions = 0
        self._held_since = 0
        self._waits = _Durations()
        self._holds = _Durations()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take the lock; arguments and result are those of `threading.Lock.acquire`."""
        if self.lock.acquire(False):
            self._count_locked()
            return True
        return blocking and self._acquire_slowly(timeout) > 0

    def release(self) -> None:
        """Give the lock back."""
        if self._held_since:
            self._holds.add(perf_counter_ns() - self._held_since)
            self._held_since = 0
        self.lock.release()

    def locked(self) -> bool:
        """Tell whether anybody holds it right now."""
        return self.lock.locked()

    def statistics(self) -> LockStatistics:
        """Return the numbers as of now. Takes no lock."""
        return TimedLock.total((self,))

    @staticmethod
    def total(locks: Sequence[TimedLock]) -> LockStatistics:
        """Return the numbers of many locks together."""
        # An acquisition is counted before its wait, so waits are read first.
        waits = _Durations.total(lock._waits for lock in locks)
        acquisitions = sum(lock._acquisitions for lock in locks)
        return LockStatistics(acquisitions, waits, _Durations.total(lock._holds for lock in locks))

    def _acquire_slowly(self, timeout: float = -1) -> int:
        """Return the nanoseconds that it took, 1 at least, or 0 where the time was over before."""
        log = WAITS.get()
        asked = perf_counter_ns()
        if not self.lock.acquire(True, timeout):
            return 0
        self._count_locked()
        waited = max(1, perf_counter_ns() - asked)
        self._waits.add(waited)
        if log is not None:
            log.add(self.KIND, waited, -1, "")
        return waited

    def _count_locked(self) -> None:
        self._acquisitions += 1
        if not self._acquisitions % SAMPLE_EVERY:
            self._held_since = perf_counter_ns()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


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
    its stripes; `RWLock` is the whole lock, with a slot a thread. `of` is what waits for it are named after:
    `{of}read` and `{of}write`.
    """

    def __init__(self, of: str = "") -> None:
        self.turnstile = Turnstile()
        self.read_name: Final = f"{of}read"
        self._write_name: Final = f"{of}write"
        self._lock = threading.Lock()  # guards _slots, _writers and Slot.closed
        self._slots: list[Slot] = []
        self._writers = 0  # that work or wait
        # Written by the writer that is inside:
        self._taken: list[Slot] = []
        self._owner = 0
        self.purpose = WRITE
        """What the writer that is inside, or was the last, wants the whole for."""
        self._held_since = 0
        self._acquisitions = 0
        self._waits = _Durations()
        self._holds = _Durations()
        self._purposes: dict[str, tuple[int, int]] = {}  # holds and their nanoseconds

    def held_for(self, purpose: str) -> AbstractContextManager[None]:
        """Return the gate for a `with` block that says what the whole is wanted for."""
        return _Purpose(self, purpose)

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

    def sums(self) -> tuple[int, int, int, int]:
        """Return the writers' waits, their nanoseconds, the holds, and their nanoseconds. Takes no lock."""
        return *_Durations.sums((self._waits,)), *_Durations.sums((self._holds,))

    def purposes(self) -> dict[str, tuple[int, int]]:
        """Return how often the whole was held, and for how many nanoseconds, by purpose. Takes no lock."""
        return self._purposes.copy()

    def __enter__(self) -> None:
        self.enter(WRITE)

    def enter(self, purpose: str) -> None:
        """Close all slots and take them, in turn. LockMisuse where the calling thread has them."""
        if self.is_mine():
            raise LockMisuse("this thread writes under this lock already; it is not re-entrant")
        asked = perf_counter_ns()
        self._close_slots()
        try:
            queued = self.turnstile.enter()
        except BaseException:
            self._open_slots()
            raise
        cause = self.purpose if queued else ""
        try:
            for slot in self.slots():
                held_by = slot.take_for_writer(purpose)
                cause = cause or held_by
                self._taken.append(slot)
        except BaseException:
            self._leave()
            raise
        self._owner = threading.get_ident()
        self.purpose = purpose
        self._acquisitions += 1
        self._held_since = perf_counter_ns()
        if cause:
            waited = max(1, self._held_since - asked)
            self._waits.add(waited)
            log = WAITS.get()
            if log is not None:
                log.add(self._write_name, waited, -1, cause)

    def __exit__(self, *_: object) -> None:
        if not self.is_mine():
            raise LockMisuse("only the thread that writes under this lock can let go of it")
        held = perf_counter_ns() - self._held_since
        self._holds.add(held)
        holds, nanoseconds = self._purposes.get(self.purpose, _NEVER)
        self._purposes[self.purpose] = holds + 1, nanoseconds + held
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


class _Purpose:
    """A gate, and what it is taken for."""

    __slots__ = ("_gate", "_purpose")

    def __init__(self, gate: WriteGate, purpose: str) -> None:
        self._gate = gate
        self._purpose = purpose

    def __enter__(self) -> None:
        self._gate.enter(self._purpose)

    def __exit__(self, *_: object) -> None:
        self._gate.__exit__()


class Slot(Latch):
    """A reader's place in a big reader lock: a latch of its own that a writer takes too.

    While a writer works or waits the slot is closed, and `take` queues at the gate's turnstile.
    Waits there are kept apart from waits for another reader of the same slot.
    """

    __slots__ = ()

    KIND: ClassVar = "slot"
    USE: ClassVar = WRITE
    """What holds it, unless who does says something else."""
    number: int = -1

    def __init__(self, gate: WriteGate) -> None:
        self._prepare(gate, _Durations(), _Durations(), _Durations(), self.USE)
        gate.add(self)

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take the slot as `take` does. Only the waiting form exists."""
        if not blocking or timeout != -1:
            raise LockMisuse("a slot can only be waited for: call acquire() without arguments")
        self.take()
        return True

    def __enter__(self) -> bool:
        self.take()
        return True

    def __exit__(self, *_: object) -> None:
        self.release()

    def held_for(self, cause: str) -> AbstractContextManager[int]:
        """Return the slot for a `with` block that tells those who wait what holds it."""
        return _Held(self, cause)

    def try_acquire(self) -> bool:
        """Take the slot if nobody has it or waits for it."""
        return self.take_if_open()

    def acquire_next(self) -> int:
        """Take the slot without queueing, for who has one that writers take before this one.

        Returns the nanoseconds waited, as `take` does.
        """
        return 0 if self._try() else self._wait_for_holder()

    def take_for_writer(self, purpose: str) -> str:
        """Take the slot for a writer that is through the turnstile.

        Returns what held it, where the writer had to wait, and else nothing.
        """
        held_by = ""
        if not self._take_uncounted(False):
            held_by = self.cause
            self._take_uncounted(True)
        self.cause = purpose
        return held_by

    def release_for_writer(self) -> None:
        """Give back what `take_for_writer` took."""
        self.cause = self.USE
        self._release_uncounted()

    def statistics(self) -> LockStatistics:
        """Return the numbers as of now. Takes no lock."""
        return Slot.totals((self,))[0]

    @staticmethod
    def total_read(slots: Sequence[Slot]) -> LockStatistics:
        """The same acquisitions seen as shares of the whole: their waits are those for writers."""
        return Slot.totals(slots)[1]

    @staticmethod
    def totals(slots: Sequence[Slot]) -> tuple[LockStatistics, LockStatistics]:
        """Return the numbers of many slots together, and the same as `total_read` sees them."""
        # An acquisition is counted before its wait, so waits are read first.
        waits = _Durations.total(slot.waits for slot in slots)
        queued = _Durations.total(slot.queued for slot in slots)
        acquisitions = sum(slot.acquisitions for slot in slots)
        holds = _Durations.total(slot.holds for slot in slots)
        return LockStatistics(acquisitions, waits, holds), LockStatistics(
            acquisitions, queued, holds
        )

    @staticmethod
    def sums(slots: Sequence[Slot]) -> tuple[int, int, int, int, int]:
        """Return acquisitions, and waits and their nanoseconds: for who had the slot, and for writers."""
        waits = _Durations.sums(slot.waits for slot in slots)
        queued = _Durations.sums(slot.queued for slot in slots)
        return sum(slot.acquisitions for slot in slots), *waits, *queued

    @staticmethod
    def used[S: Slot](slots: Iterable[S]) -> list[S]:
        """Return those that were taken ever: the numbers of others are zeros."""
        return [slot for slot in slots if slot.acquisitions]

    def _wait(self) -> int:
        """Take the slot, which is taken or closed. Returns the nanoseconds that it took, 1 at least."""
        return self._wait_in_turn() if self.closed else self._wait_for_holder()

    def _wait_for_holder(self) -> int:
        log, cause = WAITS.get(), self.cause
        asked = perf_counter_ns()
        self._wait_for_it()
        now = perf_counter_ns()
        waited = max(1, now - asked)
        self._note_wait(waited, now)
        if log is not None:
            log.add(self.KIND, waited, self.number, cause)
        return waited

    def _wait_in_turn(self) -> int:
        gate: WriteGate = self.gate
        if gate.is_mine():
            raise LockMisuse("this thread has the whole of what it wants a part of: it would hang")
        log = WAITS.get()
        asked = perf_counter_ns()
        gate.turnstile.enter()
        try:
            cause = gate.purpose  # no writer comes in before this leaves the turnstile
            self._wait_for_it()
        finally:
            gate.turnstile.leave()
        waited = max(1, perf_counter_ns() - asked)
        self.queued.add(waited)
        if log is not None:
            log.add(gate.read_name, waited, -1, cause)
        return waited


class _Held:
    """A slot, and what it is held for."""

    __slots__ = ("_cause", "_slot")

    def __init__(self, slot: Slot, cause: str) -> None:
        self._slot = slot
        self._cause = cause

    def __enter__(self) -> int:
        waited = self._slot.take()
        self._slot.cause = self._cause
        return waited

    def __exit__(self, *_: object) -> None:
        self._slot.cause = self._slot.USE
        self._slot.release()


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

    USE: ClassVar = "read"

    def __init__(self, gate: WriteGate) -> None:
        self.inside = False  # its thread's own
        # Foreign code runs while this is held, and a signal may interrupt who waits for it.
        self.lock = threading.Lock()
        super().__init__(gate)  # from here on writers know it

    def __enter__(self) -> bool:
        if self.inside:
            raise LockMisuse("this thread reads under this RWLock already; it is not re-entrant")
        self.take()
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
