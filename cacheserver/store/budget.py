"""A limit on memory that all stripes of all namespaces share, without meeting at one counter.

Guarantees:
- What is taken and not given back never exceeds the limit.
- A taking fails only if the limit would be passed: what other shards keep is collected first.

A write touches one of SHARDS, each with a lock of its own, and that has a piece of the limit to
hand out. Only when the piece is used up, or too much has come back, does it go to the pool.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import Final

from cacheserver.errors import StoreFull

SHARDS: Final = 16
"""A power of two."""


class _Shard:
    __slots__ = ("free", "lock")

    def __init__(self) -> None:
        self.lock = threading.Lock()  # guards `free`
        self.free = 0


class Budget:
    """So many bytes, for any number of threads."""

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"a limit on memory is at least 1 byte, not {limit}")
        self.limit = limit
        self._piece = limit // (64 * SHARDS)
        self._lock = (
            threading.Lock()
        )  # guards _pool; taken before the shards' locks, those in order
        self._pool = limit
        self._shards = tuple(_Shard() for _ in range(SHARDS))

    def change(self, growth: int, hint: int) -> None:
        """Take `growth` bytes, or give them back where it is negative. StoreFull takes nothing.

        `hint` spreads callers over the shards: any number, the same for the same stripe.
        """
        shard = self._shards[hint & (SHARDS - 1)]
        with shard.lock:
            free = shard.free - growth
            if 0 <= free <= 2 * self._piece:
                shard.free = free
                return
        self._change_through_pool(growth, shard)

    def check(self, need: int) -> None:
        """Raise StoreFull if `need` bytes cannot be taken now. Takes nothing."""
        free = self.limit - self.used()
        if need > free:
            raise self._full(need, free)

    def used(self) -> int:
        """Return the bytes that are taken, as of one instant."""
        with self._lock:
            self._collect_locked(self._shards)
            return self.limit - self._pool

    def _change_through_pool(self, growth: int, shard: _Shard) -> None:
        with self._lock:
            self._collect_locked((shard,))
            if growth > self._pool:
                self._collect_locked(self._shards)
            if growth > self._pool:
                raise self._full(growth, self._pool)
            self._pool -= growth
            piece = min(self._piece, self._pool)
            self._pool -= piece
            with shard.lock:
                shard.free += piece

    def _full(self, need: int, free: int) -> StoreFull:
        return StoreFull(
            f"no memory left: this write needs {need} bytes and {free} of {self.limit} are free; "
            "delete something, or raise --max-memory"
        )

    def _collect_locked(self, shards: tuple[_Shard, ...]) -> None:
        """Take all that these shards have, at one instant."""
        with ExitStack() as locks:
            for shard in shards:
                locks.enter_context(shard.lock)
            for shard in shards:
                self._pool += shard.free
                shard.free = 0
