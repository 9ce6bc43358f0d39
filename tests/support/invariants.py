"""What must be true of a store whenever nobody works on it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cacheserver.store.budget import Budget
from cacheserver.store.entry import DEADLINE, VERSION, Entry
from cacheserver.store.locks import LockStatistics, Turnstile, WriteGate
from cacheserver.store.namespace import Namespace
from cacheserver.store.store import Store
from cacheserver.store.striped import StripedDict

MAX_VERSION = 2**53


def check_invariants(*things: Store | Namespace | StripedDict[Any, Any]) -> None:
    """Fail unless all that is kept is consistent.

    Budgets add up only where all dicts that draw on one budget are handed in together.
    """
    dicts = [entries for thing in things for entries in dicts_of(thing)]
    for entries in dicts:
        _check_nothing_held(entries)
        _check_stripes(entries)
        _check_views(entries)
        _check_lock_statistics(entries)
    for thing in things:
        if isinstance(thing, Store):
            assert not thing._lock.locked(), "the lock of the registry is held"
    for budget in {id(d._budget): d._budget for d in dicts if d._budget is not None}.values():
        _check_budget(budget, [d for d in dicts if d._budget is budget])
    for entries in dicts:
        _check_every_key_is_found(entries)  # the last, because it cleans up


def dicts_of(thing: Store | Namespace | StripedDict[Any, Any]) -> list[StripedDict[Any, Any]]:
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


def _check_nothing_held(entries: StripedDict[Any, Any]) -> None:
    shared = entries._shared
    for number, stripe in enumerate(shared.stripes):
        assert not stripe.locked(), f"the lock of stripe {number} is held"
        assert not stripe.closed, f"stripe {number} is closed"
    assert not shared.views_lock.locked(), "the lock of the views is held"
    check_gate_is_free(shared.gate)


def check_gate_is_free(gate: WriteGate) -> None:
    """Fail if anybody holds a gate or waits at it."""
    assert gate._writers == 0, "a writer works or waits"
    assert gate._taken == [], "a writer has slots"
    assert gate._owner == 0, "a writer is inside"
    assert not gate._lock.locked(), "the gate's own lock is held"
    assert not gate.turnstile.taken(), "the turnstile is taken"
    assert gate.turnstile.waiting() == 0, "somebody waits at the turnstile"


def _check_stripes(entries: StripedDict[Any, Any]) -> None:
    growth = entries._growth
    for number, stripe in enumerate(entries._shared.stripes):
        versions = [entry[VERSION] for entry in stripe.data.values()]
        assert len(set(versions)) == len(versions), f"stripe {number} gave a version twice"
        assert all(0 < version <= stripe.version for version in versions)
        assert stripe.version < MAX_VERSION
        assert stripe.mortal == sum(bool(entry[DEADLINE]) for entry in stripe.data.values())
        if growth is not None:
            kept = sum(growth(key, None, entry) for key, entry in stripe.data.items())
            assert stripe.bytes == kept, f"stripe {number} counts {stripe.bytes} bytes, has {kept}"
        else:
            assert stripe.bytes == 0


def _check_views(entries: StripedDict[Any, Any]) -> None:
    with entries._shared.views_lock:
        views = entries._shared.living_views_locked()
    assert entries in [view for view in views if view is entries]
    for view in views:
        for getter, stripe in zip(view._getters, entries._shared.stripes, strict=True):
            assert getter.__self__ is stripe.data, "a view reads from what is no longer kept"  # type: ignore[attr-defined]


def _check_lock_statistics(entries: StripedDict[Any, Any]) -> None:
    statistics = entries.statistics()
    for numbers in (
        statistics.stripe_lock,
        statistics.namespace_read,
        statistics.namespace_write,
    ):
        check_lock_numbers(numbers)


def check_lock_numbers(numbers: LockStatistics) -> None:
    """Fail unless a lock's numbers are consistent in themselves."""
    assert 0 <= numbers.contended <= numbers.acquisitions
    for histogram in (numbers.waits, numbers.holds):
        assert histogram.count == sum(histogram.buckets)
        assert histogram.seconds >= 0
        assert histogram.count or histogram.seconds == 0


def _check_budget(budget: Budget, dicts: Iterable[StripedDict[Any, Any]]) -> None:
    kept = sum(s.bytes for d in dicts for s in d._shared.stripes)
    assert not budget._lock.locked(), "the budget's lock is held"
    assert not any(shard.lock.locked() for shard in budget._shards), "a shard's lock is held"
    assert budget.used() == kept, f"{budget.used()} bytes are used, {kept} accounted for"
    assert 0 <= kept <= budget.limit, "more is handed out than there is"
    assert all(shard.free >= 0 for shard in budget._shards)


def _check_every_key_is_found(entries: StripedDict[Any, Any]) -> None:
    """Whoever looks finds what is kept, and nothing that has expired. The clock may be running."""

    def is_gone(entry: Entry[Any]) -> bool:
        return bool(entry[DEADLINE]) and entry[DEADLINE] <= entries._monotonic()

    for number, stripe in enumerate(entries._shared.stripes):
        for key, entry in stripe.data.copy().items():
            was_gone = is_gone(entry)
            if was_gone:
                assert key not in set(entries), "iteration shows what has expired"
                assert key not in entries.snapshot(), "a snapshot shows what has expired"
            found = entries.read(key)  # which removes what has expired
            assert found is None or found is entry, f"a read of {key!r} gives {found}"
            assert found is None or not was_gone, f"a read of {key!r} gives what has expired"
            assert found is not None or is_gone(entry), f"{key!r} of stripe {number} isn't found"
            assert (key in stripe.data) == (found is not None), f"{key!r} isn't cleaned up"
