"""Store: names to namespaces, and the limits that all of them share.

Guarantees: a name means the same namespace to all threads from the moment that the first of them
made it until it is dropped; never more namespaces than allowed; and never more memory. One that is dropped and
made again goes on with higher versions.

Assumes of the interpreter: reading an item of a dict is atomic. Items are added under a lock.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from cacheserver.clock import Clock
from cacheserver.errors import NamespaceGone, NeverFits, StoreFull, TooManyNamespaces
from cacheserver.store.budget import Budget
from cacheserver.store.counters import PerThread
from cacheserver.store.entry import NEVER
from cacheserver.store.graveyard import Graveyard
from cacheserver.store.heat import Heat, HotKeys
from cacheserver.store.names import check_namespace
from cacheserver.store.namespace import (
    DEFAULT_POLICY,
    Namespace,
    NamespaceConfig,
    NamespaceStatistics,
)
from cacheserver.store.record import cost, pack
from cacheserver.store.room import Room
from cacheserver.store.shared import check_stripes
from cacheserver.store.striped import DEFAULT_STRIPES
from cacheserver.store.view import NamespaceView

DEFAULT_MAX_MEMORY: Final = 1 << 30
DEFAULT_MAX_VALUE_SIZE: Final = 8 << 20
DEFAULT_MAX_NAMESPACES: Final = 1024

REPORTED: Final = 100
"""So many namespaces at a time at most have figures of their own in metrics."""
OTHERS: Final = "(other)"
"""What the rest is called, which is no name that a namespace may have."""

_MOST_LOOKS: Final = 8
"""Times that figures are collected anew since a namespace was dropped meanwhile."""


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    """The figures of all namespaces, in order of their names."""

    namespaces: tuple[NamespaceStatistics, ...]
    others: NamespaceStatistics | None = None
    """The sum of those that are not reported, and of those that were not and are dropped, so that what counts up
    never falls. None where there never was one."""

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

    `stripes` and `policy` are those of each namespace that is made by its first write; `max_memory`
    bounds keys, values and overhead of all together in bytes. A write beyond it evicts: of a namespace
    that is drawn by what it has, by that one's policy. It raises `StoreFull` where no policy gives anything
    up. ValueError for limits that are none. A key is text of 1 to 1,024 bytes in UTF-8, a value bytes up
    to `max_value_size`.
    """

    def __init__(
        self,
        *,
        stripes: int = DEFAULT_STRIPES,
        max_memory: int = DEFAULT_MAX_MEMORY,
        max_value_size: int = DEFAULT_MAX_VALUE_SIZE,
        max_namespaces: int = DEFAULT_MAX_NAMESPACES,
        policy: str = DEFAULT_POLICY,
        clock: Clock | None = None,
    ) -> None:
        check_stripes(stripes)
        self.default_config = NamespaceConfig(stripes=stripes, policy=policy)
        """That of a namespace which nobody has configured."""
        self.default_config.check()
        self.stripes = stripes
        self.max_memory = max_memory
        self.max_value_size = max_value_size
        self.max_namespaces = max_namespaces
        self.clock = clock or Clock()
        self._budget = Budget(max_memory)
        self._heat = Heat(self.clock)
        self.graveyard = Graveyard()
        """What was cleared and dropped; for who calls `sweep` again and again to say so."""
        # Guards changes of _namespaces and what is kept of those that are gone; the first in the order.
        self._lock = threading.Lock()
        self._namespaces: dict[str, Namespace] = {}
        self._neighbours = _Neighbours(self._namespaces)
        self._highest_version = 0  # of namespaces that were dropped
        self._reported = 0  # namespaces that have one of the REPORTED places
        self._dropped: NamespaceStatistics | None = None  # those together that had none
        self.drops = 0
        """Namespaces that were dropped so far."""
        self.view: Callable[[], StoreView] = PerThread(lambda: StoreView(self)).mine
        """Return the calling thread's own way in: never pass it to another thread."""

    def check_room(self, key: str, value: bytes, content_type: str) -> None:
        """Raise NeverFits or StoreFull if an entry like this cannot be added now."""
        need, limit = cost(key, pack(value, 0, NEVER, content_type, 0)), self.max_memory
        if need > limit:
            raise NeverFits(
                f"this entry needs {need} bytes, and the limit is {limit}: raise --max-memory"
            )
        if need > limit - self._budget.used() and self._neighbours.draw(None, True) is None:
            raise StoreFull(
                f"no memory left: this write needs {need} bytes; delete something, or raise "
                "--max-memory"
            )

    def namespace(self, name: str) -> Namespace:
        """Return the namespace of this name, made now if need be.

        InvalidNamespace for a name that none may have, TooManyNamespaces where no more are allowed.
        """
        namespace = self.get(name)
        if namespace is not None:
            return namespace
        check_namespace(name)
        return self._add(name, self.default_config)[0]

    def get(self, name: str) -> Namespace | None:
        """Return the namespace of this name, None where there is none."""
        return self._find(name)

    def _find(self, name: str) -> Namespace | None:
        try:
            return self._namespaces[name]
        except KeyError:
            return None

    def create(self, name: str, config: NamespaceConfig) -> tuple[Namespace, bool]:
        """Have a namespace of this name and configuration. Tells also whether it was made for this.

        InvalidNamespace, InvalidConfig and TooManyNamespaces change nothing.
        """
        check_namespace(name)
        config.check()
        while True:
            namespace, created = self._add(name, config)
            if created:
                return namespace, True
            try:
                namespace.configure(config)
            except NamespaceGone:
                self.forget(name)
                continue  # so it has to be made
            return namespace, False

    def drop(self, name: str) -> int | None:
        """Delete a namespace with all that is in it. Returns how many entries went, None: there is none.

        Whoever works with it at that moment finds it gone, and the next write to its name makes a new one.
        """
        namespace = self._find(name)
        if namespace is None:
            return None
        try:
            old = namespace.drop()
        except NamespaceGone:  # somebody else was quicker
            return None
        finally:
            self.forget(name)
        entries = sum(len(contents.data) for contents in old)
        self.graveyard.bury(old)
        return entries

    def forget(self, name: str) -> None:
        """Take away the name of a namespace that is gone: whoever meets one does so, and looks again."""
        with self._lock:
            namespace = self._find(name)
            if namespace is not None and namespace.is_gone():
                self.drops += 1
                self._highest_version = max(self._highest_version, namespace.highest_version())
                if namespace.reported:
                    self._reported -= 1
                else:
                    # It may be about to give up what it keeps, and nobody would take that off again.
                    last = replace(namespace.statistics(), entries=0, bytes=0)
                    self._dropped = self._others(self._dropped, [last])
                del self._namespaces[name]

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
        for namespace in self._in_order():
            yield from namespace.sweep()
        for _ in self.graveyard.empty():
            yield 0

    def layout(self) -> dict[Namespace, int]:
        """Return the namespaces, and how often their dicts were exchanged: another one where some are new."""
        return {namespace: namespace.remade() for namespace in self._in_order()}

    def statistics(self) -> StoreStatistics:
        """Return the figures of every namespace as of now."""
        for _ in range(_MOST_LOOKS):
            with self._lock:  # so that who is dropped just now is counted once
                namespaces, others, drops = self._namespaces.copy(), self._dropped, self.drops
            figures = tuple(namespace.statistics() for _, namespace in sorted(namespaces.items()))
            if drops == self.drops:
                break
            # What is counted in one that is dropped meanwhile is in nobody's sum later.
        unreported = [each for each in figures if not each.reported]
        return StoreStatistics(figures, self._others(others, unreported))

    def _others(
        self, together: NamespaceStatistics | None, more: Iterable[NamespaceStatistics]
    ) -> NamespaceStatistics | None:
        for each in more:
            if together is None:
                together = replace(each, name=OTHERS, config=self.default_config)
            else:
                together += each
        return together

    def hot_keys(self, limit: int = 20) -> HotKeys:
        """Return the keys that are read, written, refused and waited for most, so many of each. Stops nobody.

        They are those of the last 30 to 60 seconds. Reads and writes are estimated from a sample.
        """
        return self._heat.hot_keys(limit)

    def _in_order(self) -> list[Namespace]:
        return [namespace for _, namespace in sorted(self._namespaces.copy().items())]

    def _add(self, name: str, config: NamespaceConfig) -> tuple[Namespace, bool]:
        """Return the namespace of this name, and whether it was made now."""
        while True:
            with self._lock:
                self._check_number_locked(name)
                highest = self._highest_version
            # Without the lock, since thousands of stripes take a while.
            made = Namespace(
                name,
                config,
                clock=self.clock,
                budget=self._budget,
                first_version=highest + 1,
                neighbour=self._neighbours.draw,
                graveyard=self.graveyard,
                heat=self._heat,
            )
            with self._lock:
                known = self._find(name)
                if known is None and highest == self._highest_version:
                    self._check_number_locked(name)
                    made.reported = self._reported < REPORTED
                    self._reported += made.reported
                    self._namespaces[name] = known = made
            if known is made:
                return made, True
            made.drop()  # or it would have to wait for the garbage collector
            if known is not None:
                return known, False

    def _check_number_locked(self, name: str) -> None:
        if name not in self._namespaces and len(self._namespaces) >= self.max_namespaces:
            raise TooManyNamespaces(
                f"there are {self.max_namespaces} namespaces already, and no more are allowed; "
                "use one of them or raise --max-namespaces"
            )


class _Neighbours:
    """Who of the namespaces makes room in the memory that they share.

    Each is drawn as often as it has bytes. So all of them give up entries of about the same age, as
    one policy over all would: what nobody writes any more gives way, and what is written grows.
    """

    _REFRESH: Final = 256
    """The weights are as old as so many draws, or as there are namespaces, at most."""

    def __init__(self, namespaces: dict[str, Namespace]) -> None:
        self._namespaces = namespaces
        self._lock = threading.Lock()  # held by who weighs; a leaf
        self._draws = 0  # since the weights were taken; about so many, as threads count it together
        self._number = -1  # of namespaces, when they were
        self._weights: tuple[list[Room[Any, Any]], list[int]] = ([], [])

    def draw[D](self, default: D, anew: bool) -> Room[Any, Any] | D:
        """Return one that may evict, `default` where there is none, or nothing but that one."""
        number = len(self._namespaces)
        if number == 1 and default is not None:
            return default
        self._draws += 1
        if anew or number != self._number or self._draws > max(self._REFRESH, 4 * number):
            self._weigh(wait=anew or self._number < 0)
        rooms, weights = self._weights
        if not rooms:
            return default
        return random.choices(rooms, cum_weights=weights)[0]  # noqa: S311 (no secret)

    def _weigh(self, wait: bool) -> None:
        if not self._lock.acquire(wait):
            return  # somebody is at it, and the old ones do
        try:
            namespaces = [*self._namespaces.copy().values()]
            weighed = [
                (namespace.room, size)
                for namespace in namespaces
                if namespace.config.policy != "none" and (size := namespace.room.totals()[1])
            ]
            self._weights = (
                [room for room, _ in weighed],
                [*itertools.accumulate(size for _, size in weighed)],
            )
            self._number = len(namespaces)
            self._draws = 0
        finally:
            self._lock.release()


class _Views(dict[str, NamespaceView]):
    """One thread's views of namespaces, by name; None for a namespace that is not there."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store
        self._drops = store.drops  # when those that are gone were last forgotten

    def __missing__(self, name: str) -> NamespaceView | None:
        namespace = self._store.get(name)
        return None if namespace is None else self._add(name, namespace)

    def open(self, name: str) -> NamespaceView:
        return self[name] if name in self else self._add(name, self._store.namespace(name))

    def _add(self, name: str, namespace: Namespace) -> NamespaceView:
        if self._drops != self._store.drops:
            self._forget_gone()
        self[name] = view = namespace.view()
        return view

    def forget(self, name: str) -> None:
        self.pop(name, None)
        self._store.forget(name)

    def _forget_gone(self) -> None:
        self._drops = self._store.drops
        for name in [name for name, view in self.items() if view.entries.is_gone()]:
            del self[name]


class StoreView:
    """One thread's way into a store: it finds a namespace's view without touching what is shared."""

    __slots__ = ("find", "forget", "max_value_size", "open", "store")

    def __init__(self, store: Store) -> None:
        self.store = store
        self.max_value_size = store.max_value_size
        views = _Views(store)
        self.find: Callable[[str], NamespaceView | None] = views.__getitem__
        """Return this thread's view of a namespace, None where there is no such namespace."""
        self.open: Callable[[str], NamespaceView] = views.open
        """Return this thread's view of a namespace, which is made if need be."""
        self.forget: Callable[[str], None] = views.forget
        """Forget the view of a namespace that turned out to be gone: the next look finds what is there."""
