"""One stripe of a StripedDict: a dict and its lock, and what is known of its entries.

The lock guards everything here but the look-up of a key in `data`, which readers do without it, and
the marks that they leave (`eviction/slots.py`). What takes it for a single key is in `way.pyx`. What takes memory is handed back to the caller, who
drops it when the lock is released.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Final

from cacheserver.store.budget import REASONS, Quota, Reason
from cacheserver.store.entry import Entry, Record
from cacheserver.store.eviction.policy import Policy, make_policy
from cacheserver.store.eviction.slots import Slots
from cacheserver.store.expiry import Deadlines
from cacheserver.store.locks import Slot, WriteGate
from cacheserver.store.record import deadline_of, slot_of, unpack
from cacheserver.store.way import StripeBase

type Growth[K, V] = Callable[[K, Record[V] | None, Record[V] | None], int]
"""Bytes that a key takes more with the second record than with the first, None being none."""

NO_EVICTIONS: Final[Mapping[Reason, int]] = MappingProxyType(dict.fromkeys(REASONS, 0))

STEP: Final = 64
"""Entries at most that are looked at while the lock is held once, by who evicts or sweeps."""


class Contents[K, V]:
    """What a stripe holds: made before the lock is taken, and freed after it is released."""

    __slots__ = ("data", "deadlines", "policy", "slots")

    def __init__(self, policy: str) -> None:
        self.data: dict[K, Record[V]] = {}
        self.slots: Slots[K] = Slots()
        self.deadlines = Deadlines(_deadlines_of(self.slots.keys, self.data))
        self.policy: Policy = make_policy(policy, self.slots, self.deadlines)


def _deadlines_of[K](keys: list[K | None], data: dict[K, Record[Any]]) -> Callable[[int], float]:
    """Return what tells the deadline of a slot.

    It must not know the contents: what is in a cycle isn't freed when nobody needs it any more, but
    when the garbage collector comes by, or never.
    """

    def deadline_in(slot: int) -> float:
        key = keys[slot]
        return 0 if key is None else deadline_of(data[key])

    return deadline_in


class Stripe[K, V](StripeBase[K, V], Slot):
    """One dict and its lock, and all that is seldom done to it. Needs the lock held.

    What is done to a single key is in `way.pyx`.
    """

    __slots__ = ("evictions",)

    KIND: ClassVar = "stripe"

    def __init__(
        self,
        gate: WriteGate,
        number: int,
        version: int,
        contents: Contents[K, V],
        quota: Quota | None,
    ) -> None:
        super().__init__(gate)
        self.number = number
        self.version = version
        self.evictions = NO_EVICTIONS  # another one from the first on
        self.draw_on(quota)
        self.fill(contents)

    def fill(self, contents: Contents[K, V]) -> None:
        """Hold this from now on."""
        self.data = contents.data
        self.slots = contents.slots
        self.deadlines = contents.deadlines
        self.policy = contents.policy

    def contents(self) -> Contents[K, V]:
        """Return what is held."""
        contents: Contents[K, V] = object.__new__(Contents)
        contents.data = self.entries()
        contents.slots = self.slots
        contents.deadlines = self.deadlines
        contents.policy = self.policy
        return contents

    def retire(self, nothing: Contents[K, V]) -> None:
        """Hold nothing any more: who comes for a key has to ask where it is."""
        self.fill(nothing)
        self.bytes = 0
        self.data = None

    def entries(self) -> dict[K, Record[V]]:
        """Return the dict, an empty one where the stripe is retired. Needs no lock."""
        data = self.data
        return {} if data is None else data

    # How a key changes, for who changes several. All are told by how much the bytes grow.

    def put(self, key: K, record: Record[V], slot: int, created: bool, growth: int) -> None:
        """Have this record under the key."""
        self.data[key] = record  # type: ignore[index]
        self.bytes += growth
        self.version += 1
        if created:
            self.policy.add(slot)
        else:
            self.policy.touched(slot)

    def remove(self, key: K, slot: int, growth: int, evicted: bool = False) -> None:
        """Have nothing under the key. Of an evicted one the policy knows."""
        del self.data[key]  # type: ignore[union-attr]
        self.bytes += growth
        self.version += 1
        if not evicted:
            self.policy.remove(slot)
        self.slots.release(slot)

    # What is made of them.

    def live(
        self, key: K, now: float, growth: Growth[K, V] | None, quota: Quota | None
    ) -> tuple[Entry[V] | None, Entry[V] | None]:
        """Return the key's entry, and the one that was removed because its time is up."""
        data = self.data
        assert data is not None
        if key not in data:
            return None, None
        record = data[key]
        entry = unpack(record)
        if not entry[2] or entry[2] > now:  # DEADLINE
            return entry, None
        self.expire(key, record, growth, quota)
        return None, entry

    def expire(
        self, key: K, record: Record[V], growth: Growth[K, V] | None, quota: Quota | None
    ) -> None:
        """Remove an entry whose time is up."""
        less = self._expire(key, record, growth)
        if quota is not None:
            quota.take(less, -1, self.number, True)

    def expire_due(
        self, now: float, growth: Growth[K, V] | None, quota: Quota | None
    ) -> list[Record[V]]:
        """Remove some of what is due. Returns it; nothing where nothing is due."""
        data, keys = self.data, self.slots.keys
        gone: list[Record[V]] = []
        if data is None:
            return gone
        less = 0
        for slot in self.deadlines.due(now, STEP):
            key: K = keys[slot]  # type: ignore[assignment]
            record = data[key]
            less += self._expire(key, record, growth)
            gone.append(record)
        if gone and quota is not None:
            quota.take(less, -len(gone), self.number, True)
        return gone

    def _expire(self, key: K, record: Record[V], growth: Growth[K, V] | None) -> int:
        less = growth(key, record, None) if growth is not None else 0
        self.remove(key, slot_of(record), less)
        self.expirations += 1
        return less

    def evict(
        self, kept: Collection[K], growth: Growth[K, V] | None, reason: Reason
    ) -> tuple[Record[V], int] | None:
        """Remove the entry that the policy chooses, but none of a key in `kept`.

        Returns it and how much the bytes grew. The quota isn't told: that is for the caller.
        """
        slot = self._victim_but(kept)
        if not slot:
            return None
        key: K = self.slots.keys[slot]  # type: ignore[assignment]
        try:
            record = self.data[key]  # type: ignore[index]
            less = growth(key, record, None) if growth is not None else 0
            self.remove(key, slot, less, evicted=True)
        except BaseException:  # somebody else's cost function, or a key's own __eq__
            self._take_in_again(slot, key)
            raise
        self.evictions = {**self.evictions, reason: self.evictions[reason] + 1}
        return record, less

    def _victim_but(self, kept: Collection[K]) -> int:
        """Return a victim whose key isn't kept, 0 where there is none. The others are taken in again."""
        keys, aside = self.slots.keys, []
        try:
            while slot := self.policy.victim():
                aside.append((slot, keys[slot]))
                if keys[slot] not in kept:  # which may raise what a key's own __eq__ does
                    aside.pop()
                    break
                keys[slot] = None  # so that it isn't chosen again
        finally:
            for each, key in reversed(aside):
                keys[each] = key
                self._take_in_again(each, key)  # type: ignore[arg-type]
        return slot

    def _take_in_again(self, slot: int, key: K) -> None:
        """Have a victim stay."""
        self.policy.restore(slot)
        deadline = deadline_of(self.entries()[key])
        if deadline:  # which was forgotten, where the policy came by
            self.deadlines.add(slot, deadline, 0)
