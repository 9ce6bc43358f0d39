"""What must be true of a store whenever nobody works on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, Final

from cacheserver.store.budget import Budget
from cacheserver.store.entry import DEADLINE, Entry
from cacheserver.store.eviction.lfu import Lfu
from cacheserver.store.eviction.policy import Policy
from cacheserver.store.eviction.s3fifo import MAIN, S3Fifo
from cacheserver.store.eviction.slots import FIRST_SLOT, Slots
from cacheserver.store.expiry import UNITS
from cacheserver.store.locks import LockStatistics, WriteGate
from cacheserver.store.record import deadline_of, slot_of, unpack, version_of
from cacheserver.store.store import Store
from cacheserver.store.stripe import Stripe
from cacheserver.store.striped import StripedDict
from tests.support.inside import (
    Thing,
    budget_of,
    dicts_of,
    locks_of,
    look_ups_of,
    marks_in,
    marks_of_the_dead,
    quota_of,
    readers_are_diverted,
    stripes_of,
    views_of,
    was_reshaped,
)

MAX_VERSION: Final = 2**53
LATEST: Final = 64 * UNITS
"""By so many units after its deadline at the latest the sweeper looks at an entry."""


def check_invariants(*things: Thing) -> None:
    """Fail unless all that is kept is consistent.

    Budgets add up only where all dicts that draw on one budget are handed in together.
    """
    dicts = [entries for thing in things for entries in dicts_of(thing)]
    for entries in dicts:
        _check_nothing_held(entries)
    there = [entries for entries in dicts if not entries.is_gone()]
    for entries in there:
        _check_stripes(entries)
        _check_views(entries)
        _check_lock_statistics(entries)
    for thing in things:
        if isinstance(thing, Store):
            assert not thing._lock.locked(), "the lock of the registry is held"
            _check_budget(budget_of(thing), _bytes_of(dicts_of(thing)))
    _check_budgets(dicts)
    for entries in there:
        _check_every_key_is_found(entries)  # the last, because it cleans up


def _check_nothing_held(entries: StripedDict[Any, Any]) -> None:
    for name, locked in locks_of(entries).items():
        assert not locked(), f"the lock of {name} is held"
    for number, stripe in enumerate(stripes_of(entries)):
        assert not stripe.closed, f"stripe {number} is closed"
    diverted = readers_are_diverted(entries)
    assert diverted == entries.is_gone(), "readers are still sent to the locks"
    gate = entries._shared.gate
    check_gate_is_free(gate)
    if not entries.is_gone():
        assert gate.slots() == stripes_of(entries), "the gate takes other stripes than there are"


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
    for number, stripe in enumerate(stripes_of(entries)):
        assert stripe.data is not None, f"stripe {number} is retired and still in use"
        assert stripe.number == number
        records = stripe.data
        versions = [version_of(record) for record in records.values()]
        if not was_reshaped(entries):
            assert len(set(versions)) == len(versions), f"stripe {number} gave a version twice"
        assert all(0 < version <= stripe.version for version in versions)
        assert stripe.version < MAX_VERSION
        if growth is not None:
            kept = sum(growth(key, None, record) for key, record in records.items())
            assert stripe.bytes == kept, f"stripe {number} counts {stripe.bytes} bytes, has {kept}"
        else:
            assert stripe.bytes == 0
        assert stripe.policy.name == entries._shared.policy
        check_slots(stripe.slots, {key: slot_of(record) for key, record in records.items()})
        check_policy_order(stripe.policy, stripe.slots)
        _check_deadlines(stripe)


def check_slots(slots: Slots[Any], expected: dict[Any, int]) -> None:
    """Fail unless exactly these keys have these slots, and every other slot can be had again."""
    assert slots.count == len(expected)
    for key, slot in expected.items():
        assert FIRST_SLOT <= slot < slots.end, f"{key!r} has slot {slot}"
        assert slots.keys[slot] == key, f"slot {slot} is of {slots.keys[slot]!r}, not {key!r}"
    free = set()
    slot = slots._free
    while slot:
        assert slot not in free, "the free slots lead round in a ring"
        free.add(slot)
        slot = slots.newer[slot]
    used = set(expected.values())
    assert len(used) == len(expected), "two keys have one slot"
    assert free | used == set(range(FIRST_SLOT, slots.end)), "a slot is lost"
    assert not free & used
    assert len(slots.keys) == len(slots.newer) == len(slots.older) == len(slots.places)
    assert all(length == len(marks) <= len(slots.keys) for length, marks in slots.reach)


def check_policy_order(policy: Policy, slots: Slots[Any]) -> None:
    """Fail unless each entry is in one of the policy's queues, once, and counted there."""
    linked: list[int] = []
    sizes: Counter[int] = Counter()
    for queue in policy.order():
        ring = [queue, *slots.walk(queue), queue]
        assert all(slots.older[after] == before for before, after in pairwise(ring))
        linked += ring[1:-1]
        sizes[queue] = len(ring) - 2
        if isinstance(policy, Lfu | S3Fifo):
            assert all(slots.places[slot] == queue for slot in ring[1:-1])
    assert len(set(linked)) == len(linked), "an entry is linked twice"
    assert len(linked) == slots.count, f"{len(linked)} linked, {slots.count} there"
    assert all(slots.older[queue] == queue for queue in range(FIRST_SLOT) if not sizes[queue])
    if isinstance(policy, Lfu):
        assert all(policy._sizes[queue] == sizes[queue] for queue in policy.queues)
    if isinstance(policy, S3Fifo):
        assert policy._main == sizes[MAIN]
    assert all(marks[:FIRST_SLOT] == policy.head for marks in marks_in(slots))


def _check_deadlines(stripe: Stripe[Any, Any]) -> None:
    """No entry whose time will be up is forgotten: it is noted where the sweeper finds it."""
    deadlines = stripe.deadlines
    assert set(deadlines._ends) >= set(deadlines._buckets)
    assert deadlines._notes == sum(map(len, deadlines._buckets.values()))
    if deadlines._ends:
        assert deadlines._ends[0] == min(deadlines._ends)
    for key, record in stripe.entries().items():
        deadline = deadline_of(record)
        if deadline:
            slot = slot_of(record)
            end = deadlines._noted[slot]
            assert end, f"{key!r}, which ends at {deadline}, is noted nowhere"
            assert slot in deadlines._buckets[end], f"{key!r} is not where it should be noted"
            assert end <= deadline * UNITS + LATEST, f"{key!r} is looked for too late"


def _check_views(entries: StripedDict[Any, Any]) -> None:
    views = views_of(entries)
    stripes = stripes_of(entries)
    assert any(view is entries for view in views)
    for view in views:
        assert view.reads_freely(), "a reader takes locks"
        assert view.leads_to()[0] == stripes, "a view has stripes that are not in use"
        assert len(view.marks) == len(stripes)
        for look_up, stripe in zip(look_ups_of(view), stripes, strict=True):
            assert look_up is stripe.data, "a view reads from what is no longer kept"
    dead = marks_of_the_dead(entries)
    for number, stripe in enumerate(stripes):
        registered = set(map(id, marks_in(stripe.slots)))
        living = {id(view.marks[number]) for view in views if view.marks[number]}
        assert living <= registered, "the policy doesn't see what a view marks"
        forgettable = {id(marks[number]) for marks in dead if number < len(marks)}
        own = {id(stripe.slots._own_marks)}
        assert registered <= living | forgettable | own, "marks stay whose view is gone"


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


def _bytes_of(dicts: Iterable[StripedDict[Any, Any]]) -> int:
    return sum(stripe.bytes for entries in dicts for stripe in stripes_of(entries))


def _check_budgets(dicts: list[StripedDict[Any, Any]]) -> None:
    shared: dict[int, tuple[Budget, list[StripedDict[Any, Any]]]] = {}
    for entries in dicts:
        quota = quota_of(entries)
        if quota is None:
            continue
        if quota.memory is not None:
            shared.setdefault(id(quota.memory), (quota.memory, []))[1].append(entries)
        if quota.own is not None:
            _check_budget(quota.own, _bytes_of([entries]))
        if quota.entries is not None:
            _check_budget(quota.entries, sum(len(s.entries()) for s in stripes_of(entries)))
    for budget, users in shared.values():
        _check_budget(budget, _bytes_of(users))


def _check_budget(budget: Budget, kept: int) -> None:
    assert not budget._lock.locked(), "the budget's lock is held"
    assert not any(shard.locked() for shard in budget._shards), "a shard's lock is held"
    assert budget.used() == kept, f"{budget.used()} are used, {kept} accounted for"
    assert 0 <= kept <= budget.limit, "more is handed out than there is"
    assert all(shard.free >= 0 for shard in budget._shards)


def _check_every_key_is_found(entries: StripedDict[Any, Any]) -> None:
    """Whoever looks finds what is kept, and nothing that has expired. The clock may be running."""

    def is_gone(entry: Entry[Any]) -> bool:
        return bool(entry[DEADLINE]) and entry[DEADLINE] <= entries._monotonic()

    for number, stripe in enumerate(stripes_of(entries)):
        for key, record in stripe.entries().copy().items():
            entry = unpack(record)
            was_gone = is_gone(entry)
            if was_gone:
                assert key not in set(entries), "iteration shows what has expired"
                assert key not in entries.snapshot(), "a snapshot shows what has expired"
            found = entries.read(key)  # which removes what has expired
            assert found is None or found == entry, f"a read of {key!r} gives {found}"
            assert found is None or not was_gone, f"a read of {key!r} gives what has expired"
            assert found is not None or is_gone(entry), f"{key!r} of stripe {number} isn't found"
            assert (key in stripe.entries()) == (found is not None), f"{key!r} isn't cleaned up"
