"""Where a store keeps what tests look at. Nothing else here knows how a striped dict is built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cacheserver.store.budget import Budget, Quota
from cacheserver.store.eviction.slots import Slots
from cacheserver.store.locks import Turnstile, WriteGate
from cacheserver.store.namespace import Namespace
from cacheserver.store.store import Store
from cacheserver.store.stripe import Stripe
from cacheserver.store.striped import StripedDict

type Thing = Store | Namespace | StripedDict[Any, Any]


def dicts_of(thing: Thing) -> list[StripedDict[Any, Any]]:
    """The striped dicts that something is made of."""
    if isinstance(thing, Store):
        return [thing.namespace(name)._entries for name in thing.names()]
    return [thing._entries] if isinstance(thing, Namespace) else [thing]


def gate_of(entries: StripedDict[Any, Any]) -> WriteGate:
    """The gate at which whoever takes the whole dict closes it."""
    return entries._shared.gate


def turnstile_of(entries: StripedDict[Any, Any]) -> Turnstile:
    """Where those wait who come while somebody has the whole dict."""
    return gate_of(entries).turnstile


def stripes_of(entries: StripedDict[Any, Any]) -> tuple[Stripe[Any, Any], ...]:
    """The stripes that there are now."""
    return entries._shared.table.stripes


def stripe_of(entries: StripedDict[Any, Any], key: object) -> int:
    """The number of the stripe that has a key, or would."""
    other = StripedDict[Any, Any](len(stripes_of(entries)))
    other[key] = 0
    return [len(stripe.entries()) for stripe in stripes_of(other)].index(1)


def keys_of_stripe(entries: StripedDict[Any, Any], number: int, many: int) -> list[str]:
    """So many keys that this stripe has, or would."""
    other = StripedDict[Any, Any](len(stripes_of(entries)))
    found: list[str] = []
    for probe in range(1_000_000):
        other[f"probe{probe}"] = 0
        if stripes_of(other)[number].entries():
            found.append(f"probe{probe}")
            other.clear()
            if len(found) == many:
                return found
    raise AssertionError(f"no {many} keys for stripe {number}")


def quota_of(entries: StripedDict[Any, Any]) -> Quota | None:
    """What the dict draws on."""
    return entries._shared.room.quota


def budget_of(store: Store) -> Budget:
    """The memory that all namespaces of a store share."""
    return store._budget


def views_of(entries: StripedDict[Any, Any]) -> list[Any]:
    """The views that live, the dict itself included. Forgets nothing."""
    return [view for reference, _ in entries._shared.views if (view := reference()) is not None]


def registered_views(entries: StripedDict[Any, Any]) -> int:
    """How many views the dict remembers, those included that are gone."""
    return len(entries._shared.views)


def marks_of_the_dead(entries: StripedDict[Any, Any]) -> list[list[bytearray]]:
    """The marks of views that are gone, which are forgotten when the next view is made."""
    shared = entries._shared
    return [marks for reference, marks in shared.views if reference() is None] + shared.dead_marks


def was_reshaped(entries: StripedDict[Any, Any]) -> bool:
    """Whether keys of several stripes may have come together in one."""
    return bool(entries._shared.table.before)


def marks_in(slots: Slots[Any]) -> list[bytearray]:
    """The marks that a policy looks at."""
    return slots.marks


def look_ups_of(view: StripedDict[Any, Any]) -> list[object]:
    """The dicts in which a view looks keys up, by stripe, when it takes no lock."""
    return [*view.leads_to()[1]]


def read_under_the_lock(view: StripedDict[Any, Any], key: Any) -> Any:
    """What a view reads while somebody wants readers to take the locks."""
    view.divert()
    try:
        return view.read(key)
    finally:
        view.read_freely()


def readers_are_diverted(entries: StripedDict[Any, Any]) -> bool:
    """Whether readers take the locks just now."""
    return bool(entries._shared.diverted)


def locks_of(entries: StripedDict[Any, Any]) -> dict[str, Callable[[], bool]]:
    """All locks of a dict, each as what tells whether it is held."""
    shared = entries._shared
    locks: dict[str, Callable[[], bool]] = {
        f"stripe {number}": stripe.locked for number, stripe in enumerate(shared.table.stripes)
    }
    locks["the views"] = shared.views_lock.locked
    locks["the gate"] = shared.gate._lock.locked
    locks["the turnstile"] = shared.gate.turnstile.taken
    return locks


def kept_by_heat(store: Store) -> list[int]:
    """How many keys each sketch keeps, of all threads that live and of those that have ended."""
    heat = store._heat
    periods = [*heat._ended.periods, *(p for each in heat._threads.living() for p in each.periods)]
    return [len(sketch.counts()) for period in periods for sketch in period.sketches]
