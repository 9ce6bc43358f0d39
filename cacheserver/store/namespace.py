"""Namespace: a StripedDict from text to bytes under a name, with its counters and its configuration.

`Namespace` is what any thread may use; it hands each call to the calling thread's `NamespaceView`,
which a busy thread asks for once with `view()` and keeps.

Guarantees: those of `StripedDict`; and that hits, misses, writes and conflicts, once the threads
are still, add up to the operations that were done.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from cacheserver.clock import Clock
from cacheserver.errors import InvalidConfig, NamespaceGone
from cacheserver.store.budget import Budget, Reason, check_limit
from cacheserver.store.counters import PerThread, Tally
from cacheserver.store.entry import DEFAULT_CONTENT_TYPE, Entry, Keep
from cacheserver.store.eviction.policy import check_policy
from cacheserver.store.graveyard import Graveyard
from cacheserver.store.heat import Heat, KeySampler, Sampler
from cacheserver.store.locks import LockStatistics
from cacheserver.store.names import check_ttl
from cacheserver.store.outcomes import (
    Condition,
    Conflict,
    Deleted,
    Missing,
    Put,
    Refused,
    Touched,
    Written,
)
from cacheserver.store.record import growth
from cacheserver.store.room import Neighbour, Room
from cacheserver.store.shared import StripeWaits, check_stripes
from cacheserver.store.stripe import Contents
from cacheserver.store.striped import DEFAULT_STRIPES, StripedDict
from cacheserver.store.view import NamespaceView

DEFAULT_POLICY: Final = "sieve"


@dataclass(frozen=True, slots=True)
class NamespaceConfig:
    """How a namespace behaves. `Namespace.configure` changes it while it is used."""

    max_bytes: int | None = None
    """Keys, values and overhead at most, None: as much as the store has memory for."""
    max_entries: int | None = None
    policy: str = DEFAULT_POLICY
    """What goes when a limit is reached, one of `cacheserver.store.eviction.policy.POLICIES`."""
    default_ttl: float = 0
    """Seconds after which what is written without a time to live is gone, 0: never."""
    stripes: int = DEFAULT_STRIPES
    require_cas: bool = False
    """Whether writes without a condition are refused."""

    def check(self) -> None:
        """Raise InvalidConfig, which names the field, unless all of it can be."""
        for name in ("max_bytes", "max_entries"):
            if getattr(self, name) is not None:
                _check(name, check_limit, name, getattr(self, name))
        _check("policy", check_policy, self.policy)
        if isinstance(self.default_ttl, bool) or not isinstance(self.default_ttl, int | float):
            raise InvalidConfig(f"default_ttl is a number of seconds, not {self.default_ttl!r}")
        _check("default_ttl", check_ttl, self.default_ttl)
        if isinstance(self.stripes, bool) or not isinstance(self.stripes, int):
            raise InvalidConfig(f"stripes is a power of two, not {self.stripes!r}")
        _check("stripes", check_stripes, self.stripes)
        if not isinstance(self.require_cas, bool):
            raise InvalidConfig(f"require_cas is true or false, not {self.require_cas!r}")


def _check[*Ts](field: str, check: Callable[[*Ts], None], *value: *Ts) -> None:
    try:
        check(*value)
    except ValueError as error:
        raise InvalidConfig(f"{field}: {error}") from None


@dataclass(frozen=True, slots=True)
class NamespaceStatistics:
    """A namespace's figures; each number is as of its own instant."""

    name: str
    config: NamespaceConfig
    entries: int
    bytes: int
    hits: int
    misses: int
    writes: int
    """Keys written and deleted."""
    cas_conflicts: int
    """Writes refused because their condition did not hold."""
    expirations: int
    evictions: dict[Reason, int]
    """Entries that went to make room, by the limit that was in the way."""
    locks: dict[str, LockStatistics]
    """`stripe`: writers of keys, waits for one another. `namespace_read`: the same acquisitions as
    shares of the namespace, waits for whoever holds the whole. `namespace_write`: the latter."""
    reported: bool = True
    """Whether metrics show it by its name."""

    def __add__(self, other: NamespaceStatistics) -> NamespaceStatistics:
        """Return the figures of both together, under the name and configuration of this one."""
        return NamespaceStatistics(
            self.name,
            self.config,
            self.entries + other.entries,
            self.bytes + other.bytes,
            self.hits + other.hits,
            self.misses + other.misses,
            self.writes + other.writes,
            self.cas_conflicts + other.cas_conflicts,
            self.expirations + other.expirations,
            {reason: count + other.evictions[reason] for reason, count in self.evictions.items()},
            {lock: numbers + other.locks[lock] for lock, numbers in self.locks.items()},
            self.reported,
        )


class Pulse(NamedTuple):
    """The sums in `NamespaceStatistics`, for who asks often. Waits and holds in nanoseconds."""

    hits: int
    misses: int
    writes: int
    conflicts: int
    evictions: int
    expirations: int
    entries: int
    bytes: int
    acquisitions: int
    """Of stripes' locks."""
    stripe_contended: int
    stripe_ns: int
    read_contended: int
    """Of those acquisitions, the ones that waited for whoever held the whole."""
    read_ns: int
    write_contended: int
    """Of who wanted the whole."""
    write_ns: int
    write_holds: int
    """How often the whole was held."""
    write_hold_ns: int


class Namespace:
    """A named part of a store: keys are text, values bytes. For any thread.

    After `Store.drop` every operation raises NamespaceGone.
    """

    def __init__(
        self,
        name: str,
        config: NamespaceConfig | None = None,
        *,
        clock: Clock | None = None,
        budget: Budget | None = None,
        first_version: int = 0,
        neighbour: Neighbour | None = None,
        graveyard: Graveyard | None = None,
        heat: Heat | None = None,
    ) -> None:
        config = NamespaceConfig() if config is None else config
        config.check()
        self.name = name
        self.reported = True
        """Whether it has a place of its own in metrics. Replaced by the store, before anybody else knows it."""
        self._config = config
        self._entries: StripedDict[str, bytes] = StripedDict(
            config.stripes,
            clock=clock,
            growth=growth,
            budget=budget,
            max_bytes=config.max_bytes,
            max_entries=config.max_entries,
            policy=config.policy,
            first_version=first_version,
            packed=True,
            neighbour=neighbour,
            bury=None if graveyard is None else graveyard.bury,
        )
        self._tally = Tally(4)
        self._heat = heat
        self._config_lock = (
            threading.Lock()
        )  # held by who changes the configuration; before the gate
        self._views_lock = threading.Lock()  # guards _config and what follows
        self._made: list[weakref.ref[NamespaceView]] = []
        self._views = PerThread(self._make_view)
        self.view: Callable[[], NamespaceView] = self._views.mine
        """Return the calling thread's own way in."""

    def _make_view(self) -> NamespaceView:
        counts = self._tally.mine()
        heat = self._heat
        sampler = Sampler() if heat is None else KeySampler(self.name, counts, heat.mine())
        with self._views_lock:
            view = NamespaceView(self._entries.view(counts, sampler), counts, sampler, self._config)
            self._made = [*(made for made in self._made if made() is not None), weakref.ref(view)]
        return view

    @property
    def config(self) -> NamespaceConfig:
        """How it behaves now."""
        return self._config

    def configure(self, config: NamespaceConfig) -> None:
        """Behave like this from now on; what is stored stays, but for what is beyond a lower limit.

        InvalidConfig changes nothing. Writers wait while stripes or a policy are changed.
        """
        config.check()
        with self._config_lock:
            self._configure_locked(config)

    def change(self, **fields: Any) -> None:
        """Change these fields of the configuration, as `configure` does, and no others.

        Of threads that change different fields at once, none undoes what another did.
        """
        with self._config_lock:
            config = replace(self._config, **fields)
            config.check()
            self._configure_locked(config)

    def _configure_locked(self, config: NamespaceConfig) -> None:
        entries, old = self._entries, self._config
        if config.stripes != old.stripes:
            entries.reshape(config.stripes)
        if config.policy != old.policy:
            entries.set_policy(config.policy)
        if (config.max_bytes, config.max_entries) != (old.max_bytes, old.max_entries):
            entries.set_limits(max_bytes=config.max_bytes, max_entries=config.max_entries)
        with self._views_lock:
            self._config = config
            for made in self._made:
                view = made()
                if view is not None:
                    view.obey(config)
        if entries.is_gone():
            raise NamespaceGone(f"the namespace {self.name!r} was dropped")

    def read(self, key: str) -> Entry[bytes] | None:
        """Return the key's entry (value, version, deadline, content type, slot), None where none is."""
        return self.view().read(key)

    def put(
        self,
        key: str,
        value: bytes,
        *,
        ttl: float | Keep | None = None,
        content_type: str = DEFAULT_CONTENT_TYPE,
        condition: Condition | None = None,
    ) -> Written | Conflict[bytes]:
        """Write the key if `condition` holds; `ttl` in seconds, 0: never, None: the default.

        KEEP leaves it the deadline that it has. ConditionRequired where one is, and none is given.
        """
        return self.view().put(key, value, ttl, content_type, condition)

    def delete(
        self, key: str, *, condition: Condition | None = None
    ) -> Deleted | Missing | Conflict[bytes]:
        """Delete the key if it is there and `condition` holds."""
        return self.view().delete(key, condition)

    def touch(
        self, key: str, ttl: float | None = None, *, condition: Condition | None = None
    ) -> Touched | Missing | Conflict[bytes]:
        """Have the key gone after `ttl` seconds from now. Its version stays, and no condition is required."""
        return self.view().touch(key, ttl, condition)

    def compare_and_set(
        self, key: str, expected_version: int, value: bytes, *, ttl: float | None = None
    ) -> Written | Conflict[bytes]:
        """Write the key if it has the expected version, or, for 0, if it is not there."""
        return self.put(key, value, ttl=ttl, condition=Condition.version(expected_version))

    def transaction(
        self,
        writes: dict[str, Put[bytes] | None],
        conditions: dict[str, Condition] | None = None,
    ) -> dict[str, Written | Deleted | Missing] | Refused[str, bytes]:
        """Write and delete several keys at one instant, if every condition holds; None deletes.

        See `StripedDict.transaction`. ConditionRequired where a key is written without one.
        """
        return self.view().transaction(writes, conditions or {})

    def clear(self) -> int:
        """Delete everything at one instant. Returns how many entries went."""
        return self._entries.clear()

    def drop(self) -> list[Contents[str, bytes]]:
        """Delete everything and be no more: for `Store.drop`, which takes the name away, too."""
        old = self._entries.drop()
        # Those refer to this namespace: without them it is freed when nobody needs it any more, and not
        # when the garbage collector comes by.
        self.view = _no_view
        del self._views
        return old

    def highest_version(self) -> int:
        """Return a version that no key here was ever above."""
        return self._entries.highest_version()

    def is_gone(self) -> bool:
        """Tell whether it was dropped."""
        return self._entries.is_gone()

    def remade(self) -> int:
        """Return how often its dicts were exchanged."""
        return self._entries.remade()

    @property
    def room(self) -> Room[str, bytes]:
        """Who makes room here."""
        return self._entries.room

    def sweep(self) -> Iterator[int]:
        """Remove what has expired in small steps, each of which yields how many entries went."""
        return self._entries.sweep()

    def totals(self) -> tuple[int, int]:
        """Return the number of entries and their bytes, both of one instant."""
        return self._entries.totals()

    def snapshot(self) -> Mapping[str, Entry[bytes]]:
        """Return all entries of one instant. Writers wait while the stripes' dicts are copied."""
        return self._entries.snapshot()

    def statistics(self) -> NamespaceStatistics:
        """Return the figures as of now. Takes no lock that an operation wants."""
        hits, misses, writes, conflicts = self._tally.totals()
        kept = self._entries.statistics()
        return NamespaceStatistics(
            name=self.name,
            config=self._config,
            entries=kept.entries,
            bytes=kept.bytes,
            hits=hits,
            misses=misses,
            writes=writes,
            cas_conflicts=conflicts,
            expirations=kept.expirations,
            evictions=kept.evictions,
            locks={
                "stripe": kept.stripe_lock,
                "namespace_read": kept.namespace_read,
                "namespace_write": kept.namespace_write,
            },
            reported=self.reported,
        )

    def pulse(self) -> Pulse:
        """Return sums of those figures, for who asks often. Takes no lock that an operation wants."""
        hits, misses, writes, conflicts = self._tally.totals()
        return Pulse(hits, misses, writes, conflicts, *self._entries.pulse())

    def stripe_waits(self) -> list[StripeWaits]:
        """Return the waits of writers for one another, by stripe, of the stripes there are now. Takes no lock."""
        return self._entries.stripe_waits()

    def last_waits(self) -> list[tuple[int, int, float]]:
        """Return stripe, nanoseconds and time since 1970 of the latest wait of each that had one. Takes no lock."""
        return self._entries.last_waits()

    def holds(self) -> dict[str, tuple[int, int]]:
        """Return how often the whole was held, and how many nanoseconds, by what for: `clear`, `snapshot` ...

        Takes no lock.
        """
        return self._entries.holds()


def _no_view() -> NamespaceView:
    raise NamespaceGone("the namespace was dropped")
