"""StripedDict: many dicts, each with a lock of its own, and a version for every value.

Guarantees:
- Every operation on one key is linearizable: it happens at one instant between call and return.
- Reads take no lock. Writes take the lock of one stripe, so that writers of other stripes go on.
- A key never has the same version twice: not after a delete, an expiry or a clear either. Versions
  of a key only rise. (Versions of different keys may be equal.)
- A key is gone from the instant its deadline passes, whoever looks and whoever cleans up.
- `clear` and `snapshot` happen at one instant for all keys, for readers without locks too.

Assumes of the interpreter: reading, setting and deleting one item of a dict is atomic for keys
whose `__hash__` and `__eq__` are builtin (str, bytes, int, tuples of those), and so is reading or
replacing one attribute. Keys of other types work, but their `__eq__` may run under a stripe's lock.

How it is laid out: what threads share is stripes, and each thread reaches them through tuples of
its own (`view`), since on a free-threaded interpreter every shared object that all threads touch in
every operation costs them an atomic reference count. Where the dicts of the stripes are exchanged
(`clear`), readers are first diverted to the locks: one that began before may still return what was
there then, one that begins later waits and sees what is there after.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, overload

from cacheserver.clock import Clock
from cacheserver.store.budget import Budget
from cacheserver.store.entry import DEADLINE, DEFAULT_CONTENT_TYPE, VALUE, VERSION, Entry
from cacheserver.store.locks import LockStatistics, Slot, WriteGate
from cacheserver.store.names import check_ttl
from cacheserver.store.outcomes import Condition, Conflict, Deleted, Missing, Written

DEFAULT_STRIPES: Final = 64
MAX_STRIPES: Final = 4096

# A key's stripe comes from the upper bits of hash((key,)), which depend on all bits of hash(key).
# Those of hash(key) itself are the same for all small integers, and its lower ones serve the dict.
_SHIFT: Final = sys.hash_info.width - (MAX_STRIPES - 1).bit_length()

_ABSENT: Final = object()

type Growth[K, V] = Callable[[K, Entry[V] | None, Entry[V] | None], int]
"""Bytes that a key takes more with the second entry than with the first, None being no entry."""


def check_stripes(stripes: int) -> None:
    """Raise ValueError unless `stripes` is a power of two from 1 to MAX_STRIPES."""
    if not 1 <= stripes <= MAX_STRIPES or stripes & (stripes - 1):
        raise ValueError(f"stripes must be a power of two from 1 to {MAX_STRIPES}, not {stripes}")


@dataclass(frozen=True, slots=True)
class StripedStatistics:
    """Numbers of a StripedDict: each stripe's as of one instant, not all of the same one."""

    entries: int
    bytes: int
    expirations: int
    stripe_lock: LockStatistics
    namespace_read: LockStatistics
    namespace_write: LockStatistics


def _growth_by[K, V](cost: Callable[[K, Entry[V]], int]) -> Growth[K, V]:
    def growth(key: K, old: Entry[V] | None, new: Entry[V] | None) -> int:
        return (cost(key, new) if new else 0) - (cost(key, old) if old else 0)

    return growth


class _Stripe[K, V](Slot):
    """One dict and its lock. All but `data.__getitem__` needs the lock held."""

    __slots__ = ("bytes", "data", "expirations", "mortal", "number", "version")

    def __init__(self, gate: WriteGate, number: int, version: int) -> None:
        super().__init__(gate)
        self.number = number
        self.data: dict[K, Entry[V]] = {}
        self.version = version  # of the last write to any key here
        self.bytes = 0
        self.mortal = 0  # entries that have a deadline
        self.expirations = 0

    def locked_getitem(self, key: K) -> Entry[V]:
        """Read as `data.__getitem__` does, under the lock."""
        with self:
            return self.data[key]


class _Shared[K, V]:
    """What all views of one StripedDict have in common. Nothing here is touched to read a key."""

    def __init__(
        self,
        stripes: int,
        clock: Clock,
        growth: Growth[K, V] | None,
        budget: Budget | None,
    ) -> None:
        self.gate = WriteGate()
        first_version = int(clock.wall() * 1e6)
        self.stripes = tuple(
            _Stripe[K, V](self.gate, number, first_version) for number in range(stripes)
        )
        self.clock = clock
        self.growth = growth
        self.budget = budget
        self.views_lock = threading.Lock()  # guards `views` and the getters of each
        self.views: list[weakref.ref[StripedDict[K, V]]] = []

    def living_views_locked(self) -> list[StripedDict[K, V]]:
        living = [view for reference in self.views if (view := reference()) is not None]
        self.views = [weakref.ref(view) for view in living]
        return living


class StripedDict[K, V]:
    """A dict for many threads, in stripes, with versions, deadlines and compare-and-set.

    It reads like a dict (`d[key]`, `d[key] = value`, `del d[key]`, `key in d`, `len(d)`, iteration)
    and offers more by name. `stripes` is a power of two up to 4,096: more than enough is four for
    each thread that writes. `cost(key, entry)` gives an entry's bytes where they are to be counted;
    it runs under a lock, so it must be quick and take no lock, and always give the same for the
    same. `growth(key, old, new)` may be given instead, where the difference of two costs is known
    sooner than both; None is no entry. Writes that would take more than `budget` raise `StoreFull` and change nothing.

    Any thread may use any instance. A thread that does millions of operations gets its own way in
    with `view()`.
    """

    __slots__ = (
        "__weakref__",
        "_budget",
        "_getters",
        "_growth",
        "_mask",
        "_monotonic",
        "_shared",
        "_stripes",
    )

    def __init__(
        self,
        stripes: int = DEFAULT_STRIPES,
        *,
        clock: Clock | None = None,
        cost: Callable[[K, Entry[V]], int] | None = None,
        growth: Growth[K, V] | None = None,
        budget: Budget | None = None,
    ) -> None:
        check_stripes(stripes)
        if cost is not None and growth is not None:
            raise ValueError("give cost or growth: one follows from the other")
        if cost is not None:
            growth = _growth_by(cost)
        if budget is not None and growth is None:
            raise ValueError("a budget needs a cost function, or nothing would be counted")
        self._attach(_Shared(stripes, clock or Clock(), growth, budget))

    def _attach(self, shared: _Shared[K, V]) -> None:
        self._shared = shared
        self._mask = len(shared.stripes) - 1
        self._stripes = (*shared.stripes,)  # a tuple of this view's own
        self._monotonic = shared.clock.monotonic
        self._growth = shared.growth
        self._budget = shared.budget
        with shared.views_lock:
            self._restore_getters_locked()
            shared.living_views_locked()
            shared.views.append(weakref.ref(self))

    def view(self) -> StripedDict[K, V]:
        """Return the same dict through objects of its own: make one in each busy thread."""
        view = object.__new__(type(self))
        view._attach(self._shared)
        return view

    # Reading: no lock.

    def read(self, key: K) -> Entry[V] | None:
        """Return the key's entry, None where there is none or its time is up."""
        try:
            entry = self._getters[hash((key,)) >> _SHIFT & self._mask](key)
        except KeyError:
            return None
        if entry[DEADLINE] and entry[DEADLINE] <= self._monotonic():
            return self._expire(key)
        return entry

    def counting_read(self, counts: list[int]) -> Callable[[K], Entry[V] | None]:
        """Return a `read` that adds hits to `counts[0]` and misses to `counts[1]`, for one thread."""
        # Without a specializing interpreter, as in free-threaded 3.13, every attribute and every global
        # costs a lookup, and a local none.

        def read(
            key: K,
            view: StripedDict[K, V] = self,
            mask: int = self._mask,
            shift: int = _SHIFT,
            hash_of: Callable[[object], int] = hash,
            counts: list[int] = counts,
        ) -> Entry[V] | None:
            try:
                entry: Entry[V] | None = view._getters[hash_of((key,)) >> shift & mask](key)
            except KeyError:
                counts[1] += 1
                return None
            if entry[2] and entry[2] <= view._monotonic():  # type: ignore[index]
                entry = view._expire(key)
                if entry is None:
                    counts[1] += 1
                    return None
            counts[0] += 1
            return entry

        return read

    def get[D](self, key: K, default: D | None = None) -> V | D | None:
        """Return the key's value, or `default`."""
        entry = self.read(key)
        return default if entry is None else entry[VALUE]

    def __getitem__(self, key: K) -> V:
        entry = self.read(key)
        if entry is None:
            raise KeyError(key)
        return entry[VALUE]

    def __contains__(self, key: K) -> bool:
        return self.read(key) is not None

    def __len__(self) -> int:
        """How many entries are kept, those counted whose time is up but that nobody met since."""
        return sum(len(stripe.data) for stripe in self._stripes)

    def __bool__(self) -> bool:
        return any(stripe.data for stripe in self._stripes)

    def __iter__(self) -> Iterator[K]:
        """Go through the keys, stripe by stripe.

        A key that is there throughout comes exactly once; one written or deleted meanwhile may or
        may not come. `snapshot` gives all of one instant.
        """
        for stripe in self._stripes:
            now = self._monotonic()
            for key, entry in stripe.data.copy().items():
                if not entry[DEADLINE] or entry[DEADLINE] > now:
                    yield key

    def items(self) -> Iterator[tuple[K, V]]:
        """Go through keys and values, as `iter` goes through keys."""
        for key in self:
            entry = self.read(key)
            if entry is not None:
                yield key, entry[VALUE]

    # Writing: the lock of one stripe.

    def put(
        self,
        key: K,
        value: V,
        *,
        ttl: float = 0,
        content_type: str = DEFAULT_CONTENT_TYPE,
        condition: Condition | None = None,
    ) -> Written | Conflict[V]:
        """Write the key if `condition` holds; it is gone again after `ttl` seconds, 0: never.

        A `Conflict` says what is there instead. `StoreFull` where the budget has no room,
        `InvalidTTL` where `ttl` is no length of time up to ten years.
        """
        if ttl:
            check_ttl(ttl)
        stripe = self._stripes[hash((key,)) >> _SHIFT & self._mask]
        stripe.acquire()
        try:
            # As in _live_locked, but that the clock is read only where it matters.
            data, now = stripe.data, 0.0
            current = found = data[key] if key in data else None  # noqa: SIM401 (see docs/free-threading.md)
            if ttl or (found and found[2]):  # DEADLINE
                now = self._monotonic()
                if found and found[2] and found[2] <= now:
                    self._expire_locked(stripe, key, found)
                    current = None
            if condition is not None and not condition.holds(current[VERSION] if current else 0):
                return Conflict(current)
            version = stripe.version + 1
            deadline = now + ttl if ttl else 0  # NEVER
            self._commit_locked(stripe, key, current, (value, version, deadline, content_type))
            return tuple.__new__(Written, (version, current is None))  # half of Written()'s time
        finally:
            stripe.release()

    def delete(
        self, key: K, *, condition: Condition | None = None
    ) -> Deleted | Missing | Conflict[V]:
        """Delete the key if it is there and `condition` holds."""
        stripe = self._stripes[hash((key,)) >> _SHIFT & self._mask]
        stripe.acquire()
        try:
            current, _expired = self._live_locked(stripe, key, self._monotonic())
            if condition is not None and not condition.holds(current[VERSION] if current else 0):
                return Conflict(current)
            if current is None:
                return Missing()
            self._commit_locked(stripe, key, current, None)
            return Deleted(stripe.version)
        finally:
            stripe.release()

    def compare_and_set(
        self, key: K, expected_version: int, value: V, *, ttl: float = 0
    ) -> Written | Conflict[V]:
        """Write the key if it has the expected version, or, for 0, if it is not there."""
        return self.put(key, value, ttl=ttl, condition=Condition.version(expected_version))

    def setdefault(self, key: K, default: V) -> V:
        """Return the key's value, which becomes `default` if it is not there."""
        entry = self.read(key)
        while entry is None:
            outcome = self.put(key, default, condition=Condition.version(0))
            if isinstance(outcome, Written):
                return default
            entry = outcome.current
        return entry[VALUE]

    @overload
    def pop(self, key: K) -> V: ...
    @overload
    def pop[D](self, key: K, default: D) -> V | D: ...
    def pop(self, key: K, default: object = _ABSENT) -> object:
        """Delete the key and return the value that it had: of several callers one gets it."""
        while (entry := self.read(key)) is not None:
            outcome = self.delete(key, condition=Condition.version(entry[VERSION]))
            if isinstance(outcome, Deleted):
                return entry[VALUE]
        if default is _ABSENT:
            raise KeyError(key)
        return default

    def __setitem__(self, key: K, value: V) -> None:
        self.put(key, value)

    def __delitem__(self, key: K) -> None:
        if isinstance(self.delete(key), Missing):
            raise KeyError(key)

    # The whole: all locks, in ascending order.

    def clear(self) -> int:
        """Delete everything at one instant. Returns how many entries went."""
        shared = self._shared
        old: list[dict[K, Entry[V]]] = []
        with shared.gate, shared.views_lock:
            views = shared.living_views_locked()
            for view in views:
                view._divert_getters_locked()
            for stripe in shared.stripes:
                old.append(stripe.data)
                stripe.data = {}
                stripe.mortal = 0
                if stripe.bytes:
                    self._account_locked(stripe, -stripe.bytes)
            for view in views:
                view._restore_getters_locked()
        return sum(map(len, old))  # and the entries are freed here, outside the locks

    def sweep(self) -> Iterator[int]:
        """Remove what has expired, stripe by stripe: each step yields how many entries went.

        Nothing depends on it but memory. A stripe without deadlines costs nothing; of another one a
        step copies the dict, without its lock, and takes the lock once for each entry that goes.
        """
        for stripe in self._stripes:
            if not stripe.mortal:
                continue
            now = self._monotonic()
            expired = [
                key
                for key, entry in stripe.data.copy().items()
                if entry[DEADLINE] and entry[DEADLINE] <= now
            ]
            yield sum(self._expire(key) is None for key in expired)

    def snapshot(self) -> dict[K, Entry[V]]:
        """Return all entries of one instant. Writers wait while the stripes' dicts are copied."""
        with self._shared.gate:
            now = self._monotonic()
            copies = [stripe.data.copy() for stripe in self._stripes]
        return {
            key: entry
            for copy in copies
            for key, entry in copy.items()
            if not entry[DEADLINE] or entry[DEADLINE] > now
        }

    def totals(self) -> tuple[int, int]:
        """Return the number of entries and their bytes, both of one instant."""
        with self._shared.gate:
            return len(self), sum(stripe.bytes for stripe in self._stripes)

    def statistics(self) -> StripedStatistics:
        """Return the numbers that are kept anyway. Takes no lock."""
        stripes = self._shared.stripes
        return StripedStatistics(
            entries=len(self),
            bytes=sum(stripe.bytes for stripe in stripes),
            expirations=sum(stripe.expirations for stripe in stripes),
            stripe_lock=Slot.total(stripes),
            namespace_read=Slot.total_read(stripes),
            namespace_write=self._shared.gate.statistics(),
        )

    # Inside.

    def _expire(self, key: K) -> Entry[V] | None:
        """Clean up a key whose time a reader found to be up. Returns what is there now."""
        stripe = self._stripes[hash((key,)) >> _SHIFT & self._mask]
        stripe.acquire()
        try:
            current, _expired = self._live_locked(stripe, key, self._monotonic())
            return current
        finally:
            stripe.release()

    def _live_locked(
        self, stripe: _Stripe[K, V], key: K, now: float
    ) -> tuple[Entry[V] | None, Entry[V] | None]:
        """Return the key's entry, and the one that was removed because its time is up.

        The caller keeps the latter until the lock is released: freeing a large value takes time.
        """
        try:
            entry = stripe.data[key]
        except KeyError:
            return None, None
        if not entry[DEADLINE] or entry[DEADLINE] > now:
            return entry, None
        self._expire_locked(stripe, key, entry)
        return None, entry

    def _expire_locked(self, stripe: _Stripe[K, V], key: K, entry: Entry[V]) -> None:
        stripe.expirations += 1
        self._commit_locked(stripe, key, entry, None)

    def _commit_locked(
        self, stripe: _Stripe[K, V], key: K, old: Entry[V] | None, new: Entry[V] | None
    ) -> None:
        """Put `new` in the place of `old`, None being nothing: the one way in which a key changes.

        Keeps version and sizes. StoreFull changes nothing. The caller holds on to `old` until the
        lock is released.
        """
        growth = self._growth
        if growth is not None:
            more = growth(key, old, new)
            if more:
                self._account_locked(stripe, more)
        stripe.version += 1
        if old is not None and old[2]:  # DEADLINE
            stripe.mortal -= 1
        if new is None:
            del stripe.data[key]
            return
        if new[2]:
            stripe.mortal += 1
        stripe.data[key] = new

    def _account_locked(self, stripe: _Stripe[K, V], growth: int) -> None:
        if self._budget is not None:
            self._budget.change(growth, stripe.number)
        stripe.bytes += growth

    def _divert_getters_locked(self) -> None:
        """Have this view's readers take the stripes' locks."""
        self._getters: tuple[Callable[[K], Entry[V]], ...] = tuple(
            stripe.locked_getitem for stripe in self._stripes
        )

    def _restore_getters_locked(self) -> None:
        """Have this view's readers go to the stripes' dicts, which stay the same from now on."""
        self._getters = tuple(stripe.data.__getitem__ for stripe in self._stripes)
