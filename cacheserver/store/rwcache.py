"""RWCache: a dict under a read-write lock, the plainest cache whose whole can be seen at one instant.

Guarantees:
- Readers go in side by side; whoever writes is alone. Every method happens at one instant.
- `items` is a copy of one instant, and `update` writes all its keys at one instant: nobody sees half.
- From the moment a writer asks, all queue in order of arrival: no one is starved (`RWLock`).

Assumes of the interpreter: that several threads may read one dict while nobody writes it.

Made for many reads and rare writes: a write takes a lock for each thread that reads. Where writes
are not rare, or only single keys matter, `StripedDict` is the better cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from cacheserver.store.locks import RWLock

_ABSENT: Final = object()


class RWCache[K, V]:
    """A dict for many threads that read and few that write, under one `RWLock`.

    Keys' `__hash__` and `__eq__` run under the lock; they must not use the same cache.
    """

    def __init__(self, items: Mapping[K, V] | Iterable[tuple[K, V]] = ()) -> None:
        self.lock: Final = RWLock()
        self._data = dict(items)

    def get[D](self, key: K, default: D | None = None) -> V | D | None:
        """Return the key's value, or `default`."""
        with self.lock.read():
            try:  # not dict.get: see docs/free-threading.md
                return self._data[key]
            except KeyError:
                return default

    def put(self, key: K, value: V) -> None:
        """Write the key."""
        with self.lock.write():
            old = self._data[key] if key in self._data else None  # noqa: SIM401
            self._data[key] = value
        del old  # freed here, outside the lock

    def update(self, items: Mapping[K, V] | Iterable[tuple[K, V]]) -> None:
        """Write all these keys at one instant."""
        items = dict(items)  # foreign code, perhaps: before the lock
        with self.lock.write():
            old = [self._data[key] for key in items if key in self._data]
            self._data.update(items)
        del old

    def delete(self, key: K) -> bool:
        """Delete the key; return whether it was there."""
        with self.lock.write():
            old = self._data.pop(key, _ABSENT)
        return old is not _ABSENT

    def clear(self) -> int:
        """Delete everything; return how many entries went."""
        with self.lock.write():
            old, self._data = self._data, {}
        return len(old)

    def items(self) -> list[tuple[K, V]]:
        """Return all keys and values, as of one instant."""
        with self.lock.read():
            copy = self._data.copy()
        return list(copy.items())

    def __len__(self) -> int:
        with self.lock.read():
            return len(self._data)

    def __contains__(self, key: K) -> bool:
        with self.lock.read():
            return key in self._data
