"""Store: names to namespaces, and the limits that all of them share.

Guarantees: a name means the same namespace to all threads from the moment that the first of them
made it; never more namespaces than allowed.

Assumes of the interpreter: reading an item of a dict is atomic. Items are added under a lock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from cacheserver.clock import Clock
from cacheserver.errors import TooManyNamespaces
from cacheserver.store.budget import Budget
from cacheserver.store.counters import PerThread
from cacheserver.store.entry import NEVER, cost
from cacheserver.store.names import check_namespace
from cacheserver.store.namespace import Namespace, NamespaceStatistics, NamespaceView
from cacheserver.store.striped import DEFAULT_STRIPES, check_stripes

DEFAULT_MAX_MEMORY: Final = 1 << 30
DEFAULT_MAX_VALUE_SIZE: Final = 8 << 20
DEFAULT_MAX_NAMESPACES: Final = 1024


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    """The figures of all namespaces, in order of their names."""

    namespaces: tuple[NamespaceStatistics, ...]

    @property
    def entries(self) -> int:
        """Entries of all namespaces."""
        return sum(namespace.entries for namespace in self.namespaces)

    @property
    def bytes(self) -> int:
        """Bytes of all namespaces, keys, values and overhead."""
        return sum(namespace.bytes for namespace in self.namespaces)


class Store:
    """Namespaces by name, for any number of threads.

    `stripes` are those of each namespace; `max_memory` bounds keys, values and overhead of all
    together in bytes, beyond it a write raises `StoreFull`. ValueError for limits that are none. A key is text of 1 to 1,024 bytes in
    UTF-8, a value bytes up to `max_value_size`.
    """

    def __init__(
        self,
        *,
        stripes: int = DEFAULT_STRIPES,
        max_memory: int = DEFAULT_MAX_MEMORY,
        max_value_size: int = DEFAULT_MAX_VALUE_SIZE,
        max_namespaces: int = DEFAULT_MAX_NAMESPACES,
        clock: Clock | None = None,
    ) -> None:
        check_stripes(stripes)
        self.stripes = stripes
        self.max_memory = max_memory
        self.max_value_size = max_value_size
        self.max_namespaces = max_namespaces
        self.clock = clock or Clock()
        self._budget = Budget(max_memory)
        self._lock = threading.Lock()  # guards additions to _namespaces; the first in the order
        self._namespaces: dict[str, Namespace] = {}
        self.view: Callable[[], StoreView] = PerThread(lambda: StoreView(self)).mine
        """Return the calling thread's own way in: never pass it to another thread."""

    def check_room(self, key: str, value: bytes, content_type: str) -> None:
        """Raise StoreFull if an entry like this cannot be added now."""
        self._budget.check(cost(key, (value, 0, NEVER, content_type)))

    def namespace(self, name: str) -> Namespace:
        """Return the namespace of this name, made now if need be.

        InvalidNamespace for a name that none may have, TooManyNamespaces where no more are allowed.
        """
        if name in self._namespaces:
            return self._namespaces[name]
        check_namespace(name)
        with self._lock:
            if name not in self._namespaces:
                self._add_locked(name)
            return self._namespaces[name]

    def __contains__(self, name: str) -> bool:
        return name in self._namespaces

    def names(self) -> list[str]:
        """Return the names of the namespaces there are now, sorted."""
        return sorted(self._namespaces.copy())

    def sweep(self) -> Iterator[int]:
        """Remove what has expired in small steps, each of which yields how many entries went.

        An expired entry is gone for every reader anyhow; until it is swept, or somebody asks for its
        key, it takes memory. The server goes through this all the time; who uses a store without a
        server calls it now and then.
        """
        for name in self.names():
            yield from self._namespaces[name].sweep()

    def statistics(self) -> StoreStatistics:
        """Return the figures of every namespace as of now."""
        return StoreStatistics(tuple(self._namespaces[name].statistics() for name in self.names()))

    def _add_locked(self, name: str) -> None:
        if len(self._namespaces) >= self.max_namespaces:
            raise TooManyNamespaces(
                f"there are {self.max_namespaces} namespaces already, and no more are allowed; "
                "use one of them or raise --max-namespaces"
            )
        self._namespaces[name] = Namespace(
            name, stripes=self.stripes, clock=self.clock, budget=self._budget
        )


class _Views(dict[str, NamespaceView]):
    """One thread's views of namespaces, by name; None for a namespace that is not there."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store

    def __missing__(self, name: str) -> NamespaceView | None:
        return self.open(name) if name in self._store else None

    def open(self, name: str) -> NamespaceView:
        if name not in self:
            self[name] = self._store.namespace(name).view()
        return self[name]


class StoreView:
    """One thread's way into a store: it finds a namespace's view without touching what is shared."""

    __slots__ = ("find", "max_value_size", "open", "store")

    def __init__(self, store: Store) -> None:
        self.store = store
        self.max_value_size = store.max_value_size
        views = _Views(store)
        self.find: Callable[[str], NamespaceView | None] = views.__getitem__
        """Return this thread's view of a namespace, None where there is no such namespace."""
        self.open: Callable[[str], NamespaceView] = views.open
        """Return this thread's view of a namespace, which is made if need be."""
