"""Several keys of a StripedDict at one instant.

The stripes of all keys are locked, in ascending order. Readers without locks are diverted to the locks
before the first key changes, and until the last one has: who sees a new value finds the locks of the others
taken, and waits. A read that began before may return what was there then: it overlaps the transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from cacheserver.store.entry import SLOT, VERSION, Entry, Keep, Record
from cacheserver.store.heat import Sampler
from cacheserver.store.names import check_ttl
from cacheserver.store.outcomes import Condition, Deleted, Missing, Put, Refused, Written
from cacheserver.store.room import Full
from cacheserver.store.shared import Shared
from cacheserver.store.stripe import Stripe
from cacheserver.store.way import stripe_number

type Outcome[K, V] = dict[K, Written | Deleted | Missing] | Refused[K, V]


def transact[K, V](
    shared: Shared[K, V],
    sampler: Sampler,
    writes: Mapping[K, Put[V] | None],
    conditions: Mapping[K, Condition],
) -> Outcome[K, V]:
    """Write and delete (None) several keys at one instant, if every condition holds.

    `sampler` is told of waits, each for one of the keys whose stripe was waited for.
    """
    for wish in writes.values():
        if wish is not None and not isinstance(wish.ttl, Keep):
            check_ttl(wish.ttl)
    keys = dict.fromkeys((*writes, *conditions))
    full: Full | None = None
    tries = 0  # to find room, without success
    while True:
        if full is not None:
            tries = shared.room.make(full, tries, keys)
        garbage: list[object] = []  # freed when all locks are released
        with _Diverted(shared), _Locked(shared, keys, sampler) as stripes:
            outcome: Outcome[K, V] | Full | None = None
            if stripes is not None:
                outcome = _transact_locked(shared, stripes, writes, conditions, tries > 0, garbage)
        if outcome is None:
            shared.check_there()
        elif not isinstance(outcome, Full):
            return outcome
        full = outcome


def _transact_locked[K, V](
    shared: Shared[K, V],
    stripes: dict[K, Stripe[K, V]],
    writes: Mapping[K, Put[V] | None],
    conditions: Mapping[K, Condition],
    thorough: bool,
    garbage: list[object],
) -> Outcome[K, V] | Full:
    room, now = shared.room, shared.clock.monotonic()
    found: dict[K, Entry[V] | None] = {}
    garbage.append(found)
    for key, stripe in stripes.items():
        found[key], expired = stripe.live(key, now, room.growth, room.quota)
        garbage.append(expired)
    conflicts = {
        key: found[key]
        for key, condition in conditions.items()
        if not condition.holds(entry[VERSION] if (entry := found[key]) else 0)
    }
    if conflicts:
        return Refused(conflicts)
    planned = [
        _plan(shared, key, stripes[key], wish, found[key], now) for key, wish in writes.items()
    ]
    garbage.append(planned)
    if not planned:
        return {}
    # What it takes is taken before anything changes, what it frees is given back after all has.
    size = sum(change.growth for change in planned)
    entries = sum(change.entries for change in planned)
    hint, quota = planned[0].stripe.number, room.quota
    if quota is not None:
        reason = quota.take(max(size, 0), max(entries, 0), hint, thorough)
        if reason is not None:
            room.check_fits(*_whole(shared, planned))
            return room.full(reason, size, entries, hint)
    done = {change.key: _make(shared, change, now) for change in planned}
    if quota is not None:
        quota.take(min(size, 0), min(entries, 0), hint, True)
    return done


def _whole(shared: Shared[Any, Any], planned: Iterable[_Change]) -> tuple[int, int]:
    """Return the bytes and the entries that are written, were there nothing yet."""
    growth = shared.room.growth
    written = [change for change in planned if change.record is not None]
    if growth is None:
        return 0, len(written)
    return sum(growth(change.key, None, change.record) for change in written), len(written)


class _Change(NamedTuple):
    """What a transaction does to one key."""

    key: Any
    stripe: Stripe[Any, Any]
    wish: Put[Any] | None
    current: Entry[Any] | None
    deadline: float
    record: Record[Any] | None
    """What is written, but for its version."""
    growth: int
    entries: int


def _plan[K, V](
    shared: Shared[K, V],
    key: K,
    stripe: Stripe[K, V],
    wish: Put[V] | None,
    current: Entry[V] | None,
    now: float,
) -> _Change:
    """Find out what a change takes."""
    if key is None:
        raise TypeError("None is no key")
    growth = shared.room.growth
    old = stripe.entries()[key] if current else None
    if wish is None:
        less = growth(key, old, None) if growth is not None and old else 0
        return _Change(key, stripe, wish, current, 0, None, less, -1 if current else 0)
    deadline: float = 0
    if isinstance(wish.ttl, Keep):
        deadline = current[2] if current else 0
    elif wish.ttl:
        deadline = now + wish.ttl
    record = shared.record((wish.value, 0, deadline, wish.content_type, 0))
    more = growth(key, old, record) if growth is not None else 0
    return _Change(key, stripe, wish, current, deadline, record, more, 0 if current else 1)


def _make(shared: Shared[Any, Any], change: _Change, now: float) -> Written | Deleted | Missing:
    key, stripe, wish, current, deadline, _, growth, _ = change
    if wish is None:
        if current is None:
            return Missing()
        stripe.remove(key, current[SLOT], growth)
        return Deleted(stripe.version)
    slot = current[SLOT] if current else stripe.slots.allocate(key)
    version = stripe.version + 1
    record = shared.record((wish.value, version, deadline, wish.content_type, slot))
    stripe.put(key, record, slot, current is None, growth)
    if deadline:
        stripe.deadlines.add(slot, deadline, deadline - now)
    return Written(version, current is None)


class _Diverted:
    """While this is entered readers take the locks."""

    __slots__ = ("_shared",)

    def __init__(self, shared: Shared[Any, Any]) -> None:
        self._shared = shared

    def __enter__(self) -> None:
        self._shared.divert()

    def __exit__(self, *_: object) -> None:
        self._shared.restore()


class _Locked[K, V]:
    """The stripes of several keys, locked in ascending order; None where one of them is retired."""

    __slots__ = ("_by_key", "_sampler", "_taken", "_waits")

    def __init__(self, shared: Shared[K, V], keys: Iterable[K], sampler: Sampler) -> None:
        table = shared.table
        self._by_key = {key: table.stripes[stripe_number(key, table.mask)] for key in keys}
        self._sampler = sampler
        self._taken: list[Stripe[K, V]] = []
        self._waits: list[tuple[K, int]] = []

    def __enter__(self) -> dict[K, Stripe[K, V]] | None:
        wanted = {stripe.number: (stripe, key) for key, stripe in self._by_key.items()}
        try:
            for number in sorted(wanted):
                stripe, key = wanted[number]
                # A writer of the whole that waits for the first one has closed the rest, and comes
                # after us: to queue behind it would be to wait for ourselves.
                waited = stripe.acquire_next() if self._taken else stripe.take()
                self._taken.append(stripe)
                stripe.cause = "transaction"
                if waited:
                    self._waits.append((key, waited))
        except BaseException:
            self.__exit__()
            raise
        there = all(stripe.data is not None for stripe in self._taken)
        return self._by_key if there else None

    def __exit__(self, *_: object) -> None:
        while self._taken:
            stripe = self._taken.pop()
            stripe.cause = stripe.USE
            stripe.release()
        for key, waited in self._waits:
            self._sampler.waited(key, waited)
