"""Limits on memory and on the number of entries, shared by many stripes that don't meet at one counter.

Guarantees:
- What is taken and not given back never exceeds the limit, unless the limit itself was lowered.
- A thorough taking fails only if the limit would be passed: what other shards keep is collected first.

A write touches one of SHARDS, each with a lock of its own, and that has a piece of the limit to
hand out. Only when the piece is used up, or too much has come back, does it go to the pool. A writer
that can make room by itself doesn't ask thoroughly: at the limit, where a cache spends its life, it
takes what it just gave back, and nobody waits for it.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import Final, Literal

SHARDS: Final = 16
"""A power of two."""

MAX_LIMIT: Final = 1 << 60

type Reason = Literal["memory", "max_bytes", "max_entries"]
"""Which limit was in the way."""
REASONS: Final[tuple[Reason, ...]] = ("memory", "max_bytes", "max_entries")


def check_limit(name: str, limit: object) -> None:
    """Raise ValueError unless `limit` is an integer from 1 to MAX_LIMIT."""
    if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= MAX_LIMIT:
        raise ValueError(f"{name} is a whole number from 1 to {MAX_LIMIT}, not {limit!r}")


class _Shard:
    __slots__ = ("free", "lock")

    def __init__(self) -> None:
        self.lock = threading.Lock()  # guards `free`
        self.free = 0


class Budget:
    """So many bytes, or entries, for any number of threads; `used` of them are taken already."""

    def __init__(self, limit: int, used: int = 0) -> None:
        check_limit("a limit", limit)
        self.limit = limit
        # Guards what follows; taken before the shards' locks, and those in order.
        self._lock = threading.Lock()
        self._pool = limit - used  # below 0 where more is taken than a lowered limit allows
        self._piece = (
            0 if self._pool < 0 else limit // (64 * SHARDS)
        )  # then all that comes back is the pool's
        self._shards = tuple(_Shard() for _ in range(SHARDS))

    def take(self, amount: int, hint: int, thorough: bool = True) -> bool:
        """Take `amount`, or give it back where it is negative, which always succeeds.

        Returns False, with nothing taken, where there is not so much; where not `thorough`, also if
        other shards would have to be asked for theirs. `hint` spreads callers over the shards: any
        number, the same for the same stripe.
        """
        shard = self._shards[hint & 15]  # SHARDS - 1
        with shard.lock:
            free = shard.free - amount
            if 0 <= free <= 2 * self._piece:
                shard.free = free
                return True
        # What another thread is about to give to the pool doesn't matter to one that isn't thorough.
        if amount > 0 and not thorough and self._pool + shard.free < amount:
            return False
        return self._take_from_pool(amount, shard, thorough)

    def used(self) -> int:
        """Return what is taken, as of one instant."""
        with self._lock:
            self._collect_locked(self._shards)
            return self.limit - self._pool

    def _take_from_pool(self, amount: int, shard: _Shard, thorough: bool) -> bool:
        with self._lock:
            self._collect_locked((shard,))
            if amount > self._pool and thorough:
                self._collect_locked(self._shards)
            if amount > 0 and amount > self._pool:
                return False
            self._pool -= amount
            if self._pool >= 0:
                self._piece = self.limit // (64 * SHARDS)
            piece = max(0, min(self._piece, self._pool))
            self._pool -= piece
            with shard.lock:
                shard.free += piece
        return True

    def _collect_locked(self, shards: tuple[_Shard, ...]) -> None:
        """Take all that these shards have, at one instant."""
        with ExitStack() as locks:
            for shard in shards:
                locks.enter_context(shard.lock)
            for shard in shards:
                self._pool += shard.free
                shard.free = 0


assert SHARDS == 16  # as it stands in Budget.take, where a name costs a lookup


class Quota:
    """What the writes to one dict draw on: each of these budgets, where there is one."""

    __slots__ = ("entries", "memory", "own")

    def __init__(
        self, memory: Budget | None = None, own: Budget | None = None, entries: Budget | None = None
    ) -> None:
        self.memory = memory
        """Bytes, shared with other dicts."""
        self.own = own
        """Bytes of this dict."""
        self.entries = entries

    def take(self, size: int, entries: int, hint: int, thorough: bool) -> Reason | None:
        """Take so many bytes and entries from all budgets, or nothing from any.

        Returns which budget has not so much, None where all had. Negative numbers give back.
        """
        memory, own, number = self.memory, self.own, self.entries
        if size > 0:
            if memory is not None and not memory.take(size, hint, thorough):
                return "memory"
            if own is not None and not own.take(size, hint, thorough):
                if memory is not None:
                    memory.take(-size, hint)
                return "max_bytes"
        if number is not None and entries and not number.take(entries, hint, thorough):
            if size > 0:
                self.take(-size, 0, hint, True)
            return "max_entries"
        if size < 0:  # the last: what is given back can't be had again for sure
            if memory is not None:
                memory.take(size, hint)
            if own is not None:
                own.take(size, hint)
        return None

    def budget(self, reason: Reason) -> Budget | None:
        """Return the budget of that name, None where there is none."""
        if reason == "memory":
            return self.memory
        return self.own if reason == "max_bytes" else self.entries
