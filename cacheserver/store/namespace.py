"""Namespace: a StripedDict from text to bytes under a name, with its counters.

`Namespace` is what any thread may use; it hands each call to the calling thread's `NamespaceView`,
which a busy thread asks for once with `view()` and keeps.

Guarantees: those of `StripedDict`; and that hits, misses, writes and conflicts, once the threads
are still, add up to the operations that were done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from cacheserver.clock import Clock
from cacheserver.store.budget import Budget
from cacheserver.store.counters import PerThread, Tally
from cacheserver.store.entry import DEFAULT_CONTENT_TYPE, Entry, growth
from cacheserver.store.locks import LockStatistics
from cacheserver.store.outcomes import Condition, Conflict, Deleted, Missing, Written
from cacheserver.store.striped import DEFAULT_STRIPES, StripedDict

_WRITES: Final = 2
_CONFLICTS: Final = 3


@dataclass(frozen=True, slots=True)
class NamespaceStatistics:
    """A namespace's figures; each number is as of its own instant."""

    name: str
    entries: int
    bytes: int
    hits: int
    misses: int
    writes: int
    """Keys written and deleted."""
    cas_conflicts: int
    """Writes refused because their condition did not hold."""
    expirations: int
    locks: dict[str, LockStatistics]
    """`stripe`: writers of keys, waits for one another. `namespace_read`: the same acquisitions as
    shares of the namespace, waits for whoever holds the whole. `namespace_write`: the latter."""


class Namespace:
    """A named part of a store: keys are text, values bytes. For any thread."""

    def __init__(
        self,
        name: str,
        *,
        stripes: int = DEFAULT_STRIPES,
        clock: Clock | None = None,
        budget: Budget | None = None,
        default_ttl: float = 0,
    ) -> None:
        self.name = name
        self.default_ttl = default_ttl
        self._entries: StripedDict[str, bytes] = StripedDict(
            stripes, clock=clock, growth=growth, budget=budget
        )
        self._tally = Tally(4)
        self._views = PerThread(self._make_view)
        self.view: Callable[[], NamespaceView] = self._views.mine
        """Return the calling thread's own way in."""

    def _make_view(self) -> NamespaceView:
        return NamespaceView(self._entries.view(), self._tally.mine(), self.default_ttl)

    def read(self, key: str) -> Entry[bytes] | None:
        """Return the key's entry (value, version, deadline, content type), None where none is."""
        return self.view().read(key)

    def put(
        self,
        key: str,
        value: bytes,
        *,
        ttl: float | None = None,
        content_type: str = DEFAULT_CONTENT_TYPE,
        condition: Condition | None = None,
    ) -> Written | Conflict[bytes]:
        """Write the key if `condition` holds; `ttl` in seconds, 0: never, None: the default."""
        return self.view().put(key, value, ttl, content_type, condition)

    def delete(
        self, key: str, *, condition: Condition | None = None
    ) -> Deleted | Missing | Conflict[bytes]:
        """Delete the key if it is there and `condition` holds."""
        return self.view().delete(key, condition)

    def compare_and_set(
        self, key: str, expected_version: int, value: bytes, *, ttl: float | None = None
    ) -> Written | Conflict[bytes]:
        """Write the key if it has the expected version, or, for 0, if it is not there."""
        return self.put(key, value, ttl=ttl, condition=Condition.version(expected_version))

    def clear(self) -> int:
        """Delete everything at one instant. Returns how many entries went."""
        return self._entries.clear()

    def sweep(self) -> Iterator[int]:
        """Remove what has expired in small steps, each of which yields how many entries went."""
        return self._entries.sweep()

    def totals(self) -> tuple[int, int]:
        """Return the number of entries and their bytes, both of one instant."""
        return self._entries.totals()

    def statistics(self) -> NamespaceStatistics:
        """Return the figures as of now. Takes no lock that an operation wants."""
        hits, misses, writes, conflicts = self._tally.totals()
        kept = self._entries.statistics()
        return NamespaceStatistics(
            name=self.name,
            entries=kept.entries,
            bytes=kept.bytes,
            hits=hits,
            misses=misses,
            writes=writes,
            cas_conflicts=conflicts,
            expirations=kept.expirations,
            locks={
                "stripe": kept.stripe_lock,
                "namespace_read": kept.namespace_read,
                "namespace_write": kept.namespace_write,
            },
        )


class NamespaceView:
    """One thread's way into a namespace: nothing in it is shared with another thread."""

    __slots__ = ("_counts", "_default_ttl", "_delete", "_put", "read")

    def __init__(
        self, entries: StripedDict[str, bytes], counts: list[int], default_ttl: float
    ) -> None:
        self.read: Final = entries.counting_read(counts)
        """Return the key's entry, None where there is none, and count a hit or a miss."""
        self._put = entries.put
        self._delete = entries.delete
        self._counts = counts
        self._default_ttl = default_ttl

    def put(
        self,
        key: str,
        value: bytes,
        ttl: float | None,
        content_type: str,
        condition: Condition | None,
    ) -> Written | Conflict[bytes]:
        """Write the key if `condition` holds, and count a write or a conflict."""
        if ttl is None:
            ttl = self._default_ttl
        outcome = self._put(key, value, ttl=ttl, content_type=content_type, condition=condition)
        if condition is None or type(outcome) is Written:
            self._counts[_WRITES] += 1
        else:
            self._counts[_CONFLICTS] += 1
        return outcome

    def delete(self, key: str, condition: Condition | None) -> Deleted | Missing | Conflict[bytes]:
        """Delete the key if it is there and `condition` holds; a missing key counts for nothing."""
        outcome = self._delete(key, condition=condition)
        if type(outcome) is Deleted:
            self._counts[_WRITES] += 1
        elif type(outcome) is Conflict:
            self._counts[_CONFLICTS] += 1
        return outcome
