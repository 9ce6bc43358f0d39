"""Numbers that many threads add to without waiting for each other.

Guarantees:
- `PerThread` gives every thread an object of its own; no two threads ever get the same one.
- `ShardedCounter.value` is exact once the threads that add are done, and never misses an addition
  that was complete before `value` was asked.
- Threads that come and go leave nothing behind but their sums: memory is bounded by the threads
  that live, not by those that ever lived.

Assumes of the interpreter: reading or replacing one item of a list, or one attribute, is atomic.
Adding to an item is not, so only its owner does it.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable


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
    """A fixed number of sums that many threads add to, each in a list of its own.

    `mine()[k] += n` adds to sum `k`; the list belongs to the calling thread alone.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._ended = [0] * width  # guarded by the lock of _lists
        self._lists: PerThread[list[int]] = PerThread(lambda: [0] * width, self._retire)
        self.mine = self._lists.mine

    def totals(self) -> tuple[int, ...]:
        """Return the sums, in which every addition that was complete by now is contained once."""
        return self._lists.fold(self._sum)

    def _sum(self, lists: list[list[int]]) -> tuple[int, ...]:
        return tuple(sum(column) for column in zip(self._ended, *lists, strict=True))

    def _retire(self, numbers: list[int]) -> None:
        self._ended = [ended + number for ended, number in zip(self._ended, numbers, strict=True)]


class ShardedCounter:
    """A counter that many threads add to without waiting for each other."""

    def __init__(self) -> None:
        self._tally = Tally(1)

    def add(self, amount: int = 1) -> None:
        """Add `amount`, negative ones too."""
        self._tally.mine()[0] += amount

    @property
    def value(self) -> int:
        """The sum of all additions that were complete by now, and each one once."""
        return self._tally.totals()[0]
