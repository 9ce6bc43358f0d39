"""Numbers that many threads add to, without losing any and, but for one, without waiting.

Guarantees:
- `LockedCounter` has one lock for all: exact at every instant, and everybody may wait for everybody.
- `PerThread` gives every thread an object of its own; no two threads ever get the same one.
- `ShardedCounter.value` is the exact sum of one instant between its call and its return, while
  threads add, begin and end. (So it is linearizable, with additions of either sign.)
- `Tally.totals` promises less, for less: every addition that was complete when it was asked is in
  it once, one that comes meanwhile may be or not. Its sums are exact once nobody adds, and where all
  amounts are positive they never fall. With both signs it may show a sum that never was.
- Threads that come and go leave nothing behind but their sums: memory is bounded by the threads
  that live, not by those that ever lived.

Assumes of the interpreter, for `Tally`: reading or replacing one attribute is atomic. Adding to a number is
not, so only its owner does it. `ShardedCounter` relies on locks alone.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from operator import index
from typing import Final

from cacheserver.store.counts import Counts

LARGEST: Final = 2**63 - 1
SMALLEST: Final = -(2**63)
"""What a counter can hold: a 64-bit signed integer."""
# As they stand in LockedCounter.add, where a name costs a lookup:
assert (SMALLEST, LARGEST) == (-0x8000_0000_0000_0000, 0x7FFF_FFFF_FFFF_FFFF)


class _Anchor:
    """Lives in a thread's own storage and dies with the thread."""

    __slots__ = ("__weakref__", "value")

    def __init__(self, value: object) -> None:
        self.value = value


class PerThread[T]:
    """One object a thread, made by `factory` when the thread first asks for it.

    `retire` is called, under the lock that guards the list, with the object of a thread that has
    ended, once: it must be quick and must not use this `PerThread`.
    """

    def __init__(self, factory: Callable[[], T], retire: Callable[[T], None] | None = None) -> None:
        self._factory = factory
        self._retire = retire
        self._local = threading.local()
        self._lock = threading.Lock()  # guards _living
        self._living: list[tuple[weakref.ref[_Anchor], T]] = []

    def mine(self) -> T:
        """Return the calling thread's own object: never pass it to another thread."""
        try:
            return self._local.anchor.value  # type: ignore[no-any-return]
        except AttributeError:
            return self._register(self._factory())

    def living(self) -> list[T]:
        """Return the objects of all threads that have not ended; those of others are retired."""
        with self._lock:
            self._reap_locked()
            return [value for _, value in self._living]

    def fold[R](self, function: Callable[[list[T]], R]) -> R:
        """Return `function(living objects)`, with no object retired while it runs."""
        with self._lock:
            self._reap_locked()
            return function([value for _, value in self._living])

    def _register(self, value: T) -> T:
        anchor = _Anchor(value)
        with self._lock:
            self._reap_locked()
            self._living.append((weakref.ref(anchor), value))
        self._local.anchor = anchor
        return value

    def _reap_locked(self) -> None:
        living = []
        for anchor, value in self._living:
            if anchor() is not None:
                living.append((anchor, value))
            elif self._retire is not None:
                self._retire(value)
        self._living = living


class Tally:
    """A fixed number of sums that many threads add to, each in numbers of its own.

    `mine()[k] += n` adds to sum `k`; the numbers belong to the calling thread alone.
    """

    def __init__(self, width: int) -> None:
        self._ended = _Ended(width)
        self._lists: PerThread[Counts] = PerThread(lambda: Counts(width), self._ended.add)
        self.mine = self._lists.mine

    def totals(self) -> tuple[int, ...]:
        """Return the sums, in which every addition that was complete by now is contained once."""
        return self._lists.fold(self._sum)

    def _sum(self, lists: list[Counts]) -> tuple[int, ...]:
        return tuple(sum(column) for column in zip(self._ended.sums, *lists, strict=True))


class _Ended:
    """The sums of threads that are gone. Guarded by the lock of the others' lists.

    Apart from the tally, lest that refer to itself through the function that its lists call, and have to
    wait for the garbage collector.
    """

    __slots__ = ("sums",)

    def __init__(self, width: int) -> None:
        self.sums = [0] * width

    def add(self, numbers: Counts) -> None:
        self.sums = [ended + number for ended, number in zip(self.sums, numbers, strict=True)]


class _Shard:
    """What one thread has added. Its owner takes the lock to add, `value` to have it stand still."""

    __slots__ = ("acquire", "release", "total")

    def __init__(self) -> None:
        lock = threading.Lock()
        self.acquire, self.release = lock.acquire, lock.release
        self.total = 0


class ShardedCounter:
    """A counter that many threads add to without waiting for each other, with an exact total.

    Each thread adds to a shard of its own, under a lock that nobody else wants but who asks for
    the total. That one takes all of them, so it costs a lock for each thread that lives.
    """

    def __init__(self) -> None:
        self._ended = 0  # guarded by the lock of _shards
        self._shards = PerThread(_Shard, self._retire)
        self._mine = self._shards.mine

    def add(self, amount: int = 1) -> None:
        """Add `amount`, negative ones too."""
        shard = self._mine()
        shard.acquire()
        try:
            shard.total += amount
        finally:
            shard.release()

    def adder(self) -> Callable[..., None]:
        """Return an `add` for the calling thread alone, for threads that add millions of times.

        It touches nothing that another thread touches. To find its shard, `add` itself touches
        objects that all threads share, and on a free-threaded interpreter that costs two threads
        about as much as a lock.
        """
        shard = self._mine()

        def add(
            amount: int = 1,
            *,
            shard: _Shard = shard,
            acquire: Callable[[], bool] = shard.acquire,
            release: Callable[[], None] = shard.release,
        ) -> None:
            acquire()
            try:
                shard.total += amount
            finally:
                release()

        return add

    @property
    def value(self) -> int:
        """The sum of all additions that had happened at one instant since this was asked."""
        return self._shards.fold(self._sum)

    def _sum(self, shards: list[_Shard]) -> int:
        taken = []
        try:
            for shard in shards:
                shard.acquire()
                taken.append(shard)
            return self._ended + sum(shard.total for shard in shards)
        finally:
            for shard in taken:
                shard.release()

    def _retire(self, shard: _Shard) -> None:
        self._ended += shard.total


class LockedCounter:
    """An integer of 64 bits behind one lock that all threads share: the coarse-locked counter.

    Whoever adds learns the sum. `OverflowError` where the result does not fit; nothing is changed.
    """

    __slots__ = ("_acquire", "_release", "_value")

    def __init__(self, value: int = 0) -> None:
        lock = threading.Lock()  # whoever replaces _value has it
        self._acquire, self._release = lock.acquire, lock.release
        self._value = _checked(value)

    @property
    def value(self) -> int:
        """The number. Reading it takes no lock."""
        return self._value

    def add(self, amount: int = 1) -> int:
        """Add `amount`, negative ones too, and return the sum."""
        self._acquire()
        try:
            value = self._value + amount | 0  # so that a float is a TypeError
            if not -0x8000_0000_0000_0000 <= value <= 0x7FFF_FFFF_FFFF_FFFF:
                raise _too_large(value)
            self._value = value
            return value
        finally:
            self._release()

    def exchange(self, value: int) -> int:
        """Set the number and return the one that was there."""
        value = _checked(value)
        self._acquire()
        try:
            old, self._value = self._value, value
            return old
        finally:
            self._release()

    def compare_and_set(self, expected: int, value: int) -> bool:
        """Set the number if it is `expected`; return whether it was."""
        expected, value = _checked(expected), _checked(value)
        self._acquire()
        try:
            if self._value != expected:
                return False
            self._value = value
            return True
        finally:
            self._release()


def _checked(value: int) -> int:
    value = index(value)
    if not SMALLEST <= value <= LARGEST:
        raise _too_large(value)
    return value


def _too_large(value: int) -> OverflowError:
    return OverflowError(f"a counter holds integers of 64 bits, and {value} needs more")
