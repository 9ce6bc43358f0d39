"""Limits and who goes when one is reached: through the dict, for every policy."""

from __future__ import annotations

import gc
import random
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import permutations
from typing import Any

import pytest

from cacheserver.errors import NeverFits, StoreFull
from cacheserver.store.budget import Budget
from cacheserver.store.entry import DEADLINE, VALUE, VERSION, Entry
from cacheserver.store.eviction.policy import POLICIES
from cacheserver.store.namespace import NamespaceConfig
from cacheserver.store.outcomes import Condition, Put, Touched, Written
from cacheserver.store.stripe import Stripe
from cacheserver.store.striped import StripedDict
from tests.conftest import Maker
from tests.support.clock import ManualClock
from tests.support.inside import (
    budget_of,
    keys_of_stripe,
    locks_of,
    marks_in,
    quota_of,
    stripes_of,
)
from tests.support.invariants import check_invariants
from tests.support.outcomes import written
from tests.support.threads import call_before, frequent_switches, in_thread, run_threads

EVICTING = [policy for policy in POLICIES if policy != "none"]
MARKING = ["sieve", "s3fifo", "lru", "lfu"]
LIMIT = 1_000

evicting = pytest.mark.parametrize("policy", EVICTING)


def size(_key: object, entry: Entry[Any]) -> int:
    """A cost by which a number is its own size, and a deadline takes 10 more."""
    value = entry[VALUE]
    return (value if isinstance(value, int) else 10) + 10 * bool(entry[DEADLINE])


def limited(make: Maker, stripes: int, policy: str, kind: str) -> StripedDict[Any, Any]:
    """A dict with room for LIMIT bytes, or a hundred entries."""
    options: dict[str, dict[str, Any]] = {
        "max_bytes": {"max_bytes": LIMIT},
        "max_entries": {"max_entries": 100},
        "memory": {"budget": Budget(LIMIT)},
    }
    return make.striped(stripes, cost=size, policy=policy, **options[kind])


kinds = pytest.mark.parametrize("kind", ["max_bytes", "max_entries", "memory"])


def used_and_limit(entries: StripedDict[Any, Any]) -> list[tuple[int, int]]:
    """Of each budget, what is taken and what there is."""
    quota = quota_of(entries)
    assert quota is not None
    return [(b.used(), b.limit) for b in (quota.memory, quota.own, quota.entries) if b is not None]


def state(entries: StripedDict[Any, Any]) -> object:
    """What a write that fails must leave as it was."""
    statistics = entries.statistics()
    return (
        entries.snapshot(),
        entries.totals(),
        entries.highest_version(),
        statistics.evictions,
        statistics.expirations,
    )


# The bound


@evicting
@kinds
def test_full_dict_makes_room(make: Maker, stripes: int, policy: str, kind: str) -> None:
    """Every write succeeds, none passes the limit, and next to all of the room stays in use."""
    entries = limited(make, stripes, policy, kind)
    for number in range(500):
        entries.put(number, 10)
        assert number in entries
        assert all(used <= limit for used, limit in used_and_limit(entries))
        assert entries.totals()[0] <= 100
        assert number < 100 or len(entries) >= 90
    evictions: dict[Any, int] = {**entries.statistics().evictions}
    assert evictions.pop(kind) == 500 - len(entries)
    assert not any(evictions.values()), "they are counted by the limit that was in the way"


@evicting
def test_values_of_all_sizes_find_room(make: Maker, stripes: int, policy: str) -> None:
    """With values from nothing to the whole limit, written and overwritten, every write succeeds."""
    entries = limited(make, stripes, policy, "max_bytes")
    chance = random.Random(5)
    for _ in range(400):
        key, value = chance.randrange(60), int(LIMIT * chance.random() ** 4)
        there = key in entries
        assert written(entries.put(key, value)).created != there
        assert entries[key] == value
        assert entries.totals()[1] <= LIMIT


@evicting
@kinds
def test_limit_holds_at_every_instant_beside_writers(
    make: Maker, stripes: int, policy: str, kind: str
) -> None:
    """Somebody who looks all the time never sees more than the limit, and no write is refused."""
    entries = limited(make, stripes, policy, kind)
    stop = threading.Event()

    def write(number: int) -> None:
        view = entries.view()
        chance = random.Random(number)
        for _ in range(120):
            key = chance.randrange(300)
            match chance.randrange(8):
                case 0:
                    view.pop(key, None)
                case 1 | 2:
                    view.read(key)
                case 3:
                    view.transaction({key: Put(20), key + 1: None, key + 2: Put(10)})
                case _:
                    view.put(key, chance.randrange(60))

    def watch() -> None:
        while not stop.is_set():
            assert all(used <= limit for used, limit in used_and_limit(entries))
            number, kept = entries.totals()
            assert kept <= LIMIT or kind == "max_entries"
            assert number <= 100 or kind != "max_entries"

    def work() -> None:
        try:
            run_threads([lambda n=n: write(n) for n in range(3)])  # type: ignore[misc]
        finally:
            stop.set()

    with frequent_switches():
        run_threads([work, watch])
    assert sum(entries.statistics().evictions.values()) > 0, "nothing was tested"


@evicting
def test_shared_memory_is_never_passed(make: Maker, policy: str) -> None:
    """Namespaces keep no more than there is memory together, use it, and refuse no write."""
    store = make.store(max_memory=30_000, policy=policy, stripes=4)

    def write(number: int) -> None:
        namespace = store.namespace(f"n{number}")
        for turn in range(300):
            namespace.put(f"key{turn % 90}", bytes(turn % 50))
            assert budget_of(store).used() <= 30_000

    with frequent_switches():
        run_threads([lambda n=n: write(n) for n in range(3)])  # type: ignore[misc]
    assert 27_000 <= store.statistics().bytes <= 30_000


# Whoever writes keeps what is written


@evicting
@pytest.mark.parametrize("full_of", ["few", "many"])
def test_key_is_not_evicted_for_its_own_write(
    make: Maker, stripes: int, policy: str, full_of: str
) -> None:
    """A key that grows pushes others out and is never taken for new meanwhile, whatever the way."""
    for turn in range(15):
        entries = limited(make, stripes, policy, "max_bytes")
        value = 490 if full_of == "few" else 10
        version = written(entries.put("k", 300)).version
        number = 0
        while entries.totals()[1] + value <= LIMIT:
            entries.put(number, value)
            number += 1
        match turn % 5:
            case 0:
                assert not written(entries.put("k", 600)).created
            case 1:
                assert not written(entries.compare_and_set("k", version, 600)).created
            case 2:
                assert not written(entries.put("k", LIMIT)).created
                assert len(entries) == 1
            case 3:
                entries.put("k", 300 + LIMIT - entries.totals()[1])
                entry = entries.read("k")
                assert entry is not None
                assert entries.touch("k", 5) == Touched(entry[VERSION])
            case _:
                outcome = entries.transaction(
                    {"k": Put(600), "new": Put(100)}, {"k": Condition.version(version)}
                )
                assert isinstance(outcome, dict)
                assert not outcome["k"].created  # type: ignore[union-attr]
                assert outcome["new"].created  # type: ignore[union-attr]
        assert "k" in entries


@evicting
def test_transaction_keeps_all_its_keys(make: Maker, stripes: int, policy: str) -> None:
    """What a transaction writes and what its conditions are on isn't evicted for it."""
    entries = limited(make, stripes, policy, "max_entries")
    versions = {key: written(entries.put(key, 1)).version for key in range(100)}
    outcome = entries.transaction(
        {f"new {n}": Put(1) for n in range(50)},
        {key: Condition.version(versions[key]) for key in range(40)},
    )
    assert isinstance(outcome, dict)
    assert {*range(40), *(f"new {n}" for n in range(50))} <= set(entries)
    assert len(entries) <= 100


# What can't be


@evicting
def test_what_never_fits_changes_nothing(make: Maker, stripes: int, policy: str) -> None:
    """An entry larger than a limit evicts nobody, takes no version and leaves the old value."""
    entries = make.striped(
        stripes, cost=size, policy=policy, budget=Budget(LIMIT), max_bytes=600, max_entries=5
    )
    other = make.striped(1, cost=size, budget=quota_of(entries).memory)  # type: ignore[union-attr]
    other.put("x", LIMIT - 500)
    version = 0
    for key in range(5):
        version = written(entries.put(key, 100)).version
    before = state(entries)
    two_that_fit_alone: dict[Any, Put[Any] | None] = {0: Put(400), "new": Put(400)}
    attempts: list[Callable[[], object]] = [
        lambda: entries.put(4, 601),
        lambda: entries.put("new", 601),
        lambda: entries.put("new", LIMIT + 1),
        lambda: entries.put("new", 595, ttl=5),
        lambda: entries.compare_and_set(4, version, 601),
        lambda: entries.transaction({0: Put(601)}),
        lambda: entries.transaction({0: None, 1: None, "new": Put(601)}),
        lambda: entries.transaction(two_that_fit_alone),
        lambda: entries.transaction({f"new {n}": Put(1) for n in range(6)}),
    ]
    for attempt in attempts:
        with pytest.raises(NeverFits):
            attempt()
        assert state(entries) == before
    assert written(entries.put("fits", 500)).created
    assert entries.totals() == (1, 500)


@kinds
def test_without_a_policy_a_full_dict_refuses(make: Maker, stripes: int, kind: str) -> None:
    """Under `none` nothing goes: a write, a touch and a transaction that find no room change nothing."""
    entries = limited(make, stripes, "none", kind)
    for number in range(100):
        entries.put(number, 10)
    before = state(entries)
    attempts: list[Callable[[], object]] = [
        lambda: entries.put("new", 10),
        lambda: entries.setdefault("new", 10),
        lambda: entries.compare_and_set("new", 0, 10),
        lambda: entries.transaction({"new": Put(10)}),
        lambda: entries.transaction({5: Put(1), "new": Put(5), "newer": Put(20)}),
    ]
    if kind != "max_entries":
        attempts += [
            lambda: entries.put(5, 11),
            lambda: entries.touch(5, 5),
            lambda: entries.transaction({5: Put(10, ttl=5)}),
        ]
    for attempt in attempts:
        with pytest.raises(StoreFull):
            attempt()
        assert state(entries) == before
    assert isinstance(entries.transaction({5: None, "new": Put(10)}), dict)
    assert not written(entries.put(6, 10)).created
    del entries[7]
    assert written(entries.put("newer", 10)).created


# In bounded steps, and freed outside the locks


@evicting
def test_large_value_displaces_thousands_in_short_holds(
    make: Maker, stripes: int, policy: str
) -> None:
    """No stripe's lock is held for more than some 64 evictions, however many must go."""
    entries = make.striped(stripes, cost=size, policy=policy, max_bytes=40_000)
    for number in range(4_000):
        entries.put(number, 10)
    victims: Counter[tuple[int, int]] = Counter()

    def count(stripe: Stripe[Any, Any]) -> None:
        victims[stripe.number, stripe.acquisitions] += 1

    for stripe in stripes_of(entries):
        call_before(stripe.policy, "victim", partial(count, stripe))
    assert written(entries.put("large", 39_000)).created
    assert max(victims.values()) <= 70
    assert entries.statistics().evictions["max_bytes"] >= 3_900
    assert entries.totals()[1] <= 40_000


class Watchful:
    """A value that, when it is freed, tells which locks of its dicts are held."""

    def __init__(self, freed: list[list[str]], *dicts: StripedDict[Any, Any]) -> None:
        self.freed = freed
        self.dicts = dicts

    def __del__(self) -> None:
        held = [
            name for entries in self.dicts for name, locked in locks_of(entries).items() if locked()
        ]
        self.freed.append(held)


WAYS_TO_EVICT: dict[str, Callable[[StripedDict[Any, Any]], object]] = {
    "put": lambda entries: entries.put("new", 10),
    "put of a large value": lambda entries: entries.put("new", 900),
    "growing": lambda entries: entries.put(99, 500),
    "setdefault": lambda entries: entries.setdefault("new", 10),
    "touch": lambda entries: entries.touch(99, 5),
    "transaction": lambda entries: entries.transaction({"new": Put(500), "newer": Put(300)}),
    "lower limit": lambda entries: entries.set_limits(max_bytes=300, max_entries=None),
}


@pytest.mark.parametrize("way", WAYS_TO_EVICT)
def test_evicted_value_is_freed_outside_the_locks(make: Maker, stripes: int, way: str) -> None:
    """Freeing what goes, which may take long or run its owner's code, happens when no lock is held."""
    entries = limited(make, stripes, "fifo", "max_bytes")
    freed: list[list[str]] = []
    for number in range(100):
        entries.put(number, Watchful(freed, entries))
    WAYS_TO_EVICT[way](entries)
    gc.collect()
    assert freed, "nothing was evicted"
    assert not any(freed)


def test_value_evicted_next_door_is_freed_outside_the_locks(make: Maker) -> None:
    """The same where the shared memory makes another dict give way."""
    budget = Budget(LIMIT)
    freed: list[list[str]] = []
    neighbour = make.striped(4, cost=size, policy="fifo", budget=budget)
    entries = make.striped(
        4, cost=size, policy="fifo", budget=budget, neighbour=lambda *_: neighbour.room
    )
    for number in range(100):
        neighbour.put(number, Watchful(freed, entries, neighbour))
    entries.put("new", 200)
    assert isinstance(entries.transaction({"a": Put(100), "b": Put(100)}), dict)
    gc.collect()
    assert len(freed) >= 40
    assert not any(freed)
    assert entries.totals() == (3, 400)


def test_value_met_again_after_making_room_is_freed_outside_the_locks(make: Maker) -> None:
    """A write that begins anew, because it had to make room, drops what it saw before without a lock."""
    entries = limited(make, 64, "fifo", "max_bytes")
    freed: list[list[str]] = []
    entries.put("k", Watchful(freed, entries))
    for number in range(99):
        entries.put(number, 10)
    all_stripes = stripes_of(entries)
    stripe = next(stripe for stripe in all_stripes if "k" in stripe.entries())
    others: list[object] = []

    def delete_meanwhile() -> None:
        if not others and not stripe.locked():
            others.append(in_thread(lambda: entries.delete("k")))

    for each in all_stripes:
        if each is not stripe:
            call_before(each, "evict", delete_meanwhile)
    entries.put("k", 500)
    gc.collect()
    assert others
    assert freed
    assert not any(freed)


# Who goes


def test_fifo_lets_the_oldest_go(make: Maker) -> None:
    """In one stripe exactly in order of arrival, hits and overwriting notwithstanding."""
    entries = make.striped(1, policy="fifo", max_entries=5)
    for number in range(5):
        entries.put(number, 0)
    for number in range(5, 20):
        entries.read(number - 5)
        entries.put(number - 5, 1)
        entries.put(number, 0)
        assert list(entries) == list(range(number - 4, number + 1))


def test_ttl_lets_the_soonest_go(make: Maker) -> None:
    """Those with a deadline in its order, then the oldest of the others."""
    entries = make.striped(1, policy="ttl", max_entries=6)
    for number, ttl in enumerate([0, 300, 100, 0, 200, 400]):
        entries.put(number, 0, ttl=ttl)
    gone: list[int] = []
    for number in range(6, 12):
        before = set(entries)
        entries.put(number, 0)
        gone += before - set(entries)
    assert gone == [2, 4, 1, 5, 0, 3]


@pytest.mark.parametrize("policy", MARKING)
@pytest.mark.parametrize("way", ["read", "get", "in", "overwrite", "other thread"])
def test_what_was_hit_stays(make: Maker, policy: str, way: str) -> None:
    """Entries that were hit outlive as many that were not, however they were hit, by whom ever."""
    entries = make.striped(1, policy=policy, max_entries=40)
    other = entries.view()
    for number in range(40):
        entries.put(number, 0)
    entries.put("first to go", 0)  # what is full has begun to choose
    hits: dict[str, Callable[[int], object]] = {
        "read": entries.read,
        "get": entries.get,
        "in": entries.__contains__,
        "overwrite": lambda key: entries.put(key, 1),
        "other thread": lambda key: in_thread(lambda: other.read(key)),
    }
    there = set(entries)
    hot = {number for number in range(1, 40, 4) if number in there}
    for _ in range(3):
        for number in hot:
            hits[way](number)
    for number in range(len(there) - len(hot) - 2):
        entries.put(f"new {number}", 0)
    assert hot <= set(entries)


@pytest.mark.parametrize("policy", MARKING)
def test_hits_of_several_threads_count(make: Maker, policy: str) -> None:
    """Each thread marks what it hits in marks of its own, and the policy sees all of them."""
    entries = make.striped(1, policy=policy, max_entries=60)
    for number in range(61):
        entries.put(number, 0)
    views = [entries.view() for _ in range(3)]
    there = sorted(key for key in entries if isinstance(key, int))
    hot = there[::6]

    def hit(number: int) -> None:
        for _ in range(3):
            for key in hot[number::3]:
                assert views[number].read(key) is not None

    for view in views:  # a first hit that would have to wait for the lock is not marked
        view.read(hot[0])
    run_threads([lambda n=n: hit(n) for n in range(3)])  # type: ignore[misc]
    assert len(marks_in(stripes_of(entries)[0].slots)) >= 3
    for number in range(60 - len(hot) - 2):
        entries.put(f"new {number}", 0)
    assert set(hot) <= set(entries)


def test_versions_rise_across_evictions(make: Maker, stripes: int) -> None:
    """A key that was evicted and comes back has a version higher than any that it had."""
    entries = make.striped(stripes, policy="fifo", max_entries=3)
    highest: dict[int, int] = {}
    for turn in range(300):
        key = turn % 7
        version = written(entries.put(key, turn)).version
        assert version > highest.get(key, 0)
        highest[key] = version


# Limits and policies that change


@evicting
def test_lower_limit_evicts_down_to_it(make: Maker, stripes: int, policy: str) -> None:
    """After a limit was lowered there is no more than it allows, and no less than need be."""
    entries = make.striped(stripes, cost=size, policy=policy)
    for number in range(300):
        entries.put(number, 10)
    entries.set_limits(max_bytes=None, max_entries=200)
    assert entries.totals() == (200, 2_000)
    entries.set_limits(max_bytes=1_500, max_entries=200)
    assert entries.totals() == (150, 1_500)
    entries.set_limits(max_bytes=1, max_entries=None)
    assert entries.totals() == (0, 0)
    evictions = entries.statistics().evictions
    assert (evictions["max_entries"], evictions["max_bytes"], evictions["memory"]) == (100, 200, 0)


@pytest.mark.parametrize("policy", POLICIES)
def test_higher_limit_lets_more_in(make: Maker, stripes: int, policy: str) -> None:
    """A limit that was raised, or taken away, is used at once."""
    entries = make.striped(stripes, cost=size, policy=policy, max_bytes=100, max_entries=10)
    for number in range(10):
        entries.put(number, 10)
    entries.set_limits(max_bytes=200, max_entries=20)
    for number in range(10, 20):
        entries.put(number, 10)
    assert entries.totals() == (20, 200)
    entries.set_limits(max_bytes=None, max_entries=None)
    for number in range(20, 500):
        entries.put(number, 10)
    assert entries.totals() == (500, 5_000)
    assert not any(entries.statistics().evictions.values())


def test_lower_limit_without_a_policy_keeps_what_is_there(make: Maker, stripes: int) -> None:
    """Under `none` nothing goes: nothing is added until there is room, and less may take its place."""
    entries = make.striped(stripes, cost=size)
    for number in range(10):
        entries.put(number, 10)
    entries.set_limits(max_bytes=50, max_entries=None)
    assert entries.totals() == (10, 100)
    for attempt in (lambda: entries.put("new", 1), lambda: entries.put(0, 11)):
        with pytest.raises(StoreFull):
            attempt()
    assert not written(entries.put(0, 5)).created
    with pytest.raises(StoreFull):
        entries.put("new", 5)
    for number in range(1, 6):
        del entries[number]
    assert entries.totals() == (5, 45)
    assert written(entries.put("new", 5)).created


def test_limit_on_bytes_needs_a_cost(make: Maker) -> None:
    """A dict that counts no bytes can't be limited by them, at the start or later; nothing changes."""
    with pytest.raises(ValueError, match="cost function"):
        StripedDict(max_bytes=100)
    entries = make.striped(1, max_entries=3)
    with pytest.raises(ValueError, match="cost function"):
        entries.set_limits(max_bytes=100, max_entries=None)
    for number in range(3):
        entries.put(number, 0)
    with pytest.raises(StoreFull):
        entries.put(3, 0)


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "7", 1 << 70])
@pytest.mark.parametrize("field", ["max_bytes", "max_entries"])
def test_limits_that_are_none_are_refused(make: Maker, field: str, limit: Any) -> None:
    """A limit is a whole number from 1 on; a bad one beside a good one changes neither."""
    with pytest.raises(ValueError, match=field):
        StripedDict(cost=size, **{field: limit})
    entries = make.striped(1, cost=size, max_entries=5, max_bytes=50, policy="fifo")
    good: dict[str, Any] = {"max_bytes": 20, "max_entries": 2}
    for number in range(5):
        entries.put(number, 10)
    with pytest.raises(ValueError, match=field):
        entries.set_limits(**{**good, field: limit})
    assert len(entries) == 5
    assert used_and_limit(entries) == [(50, 50), (5, 5)]


def test_policy_that_does_not_exist_is_refused(make: Maker) -> None:
    """The error names those that there are, and the policy stays."""
    with pytest.raises(ValueError, match=r"'mru'.*sieve, s3fifo, lru"):
        StripedDict(policy="mru")
    entries = make.striped(1, max_entries=2, policy="fifo")
    with pytest.raises(ValueError, match="'mru'"):
        entries.set_policy("mru")
    for number in range(3):
        entries.put(number, 0)
    assert sorted(entries) == [1, 2]


@pytest.mark.parametrize(("old", "new"), list(permutations(POLICIES, 2)))
def test_policy_can_be_changed_while_it_is_full(
    make: Maker, stripes: int, old: str, new: str
) -> None:
    """Between all pairs: every entry stays with its version, hits made so far count, and it goes on."""
    entries = make.striped(stripes, cost=size, policy=old, max_entries=60)
    for number in range(60):
        entries.put(number, 10)
    hot = list(range(0, 60, 5))
    for _ in range(3):
        for key in hot:
            entries.read(key)
    before = (entries.snapshot(), entries.totals())
    entries.set_policy(new)
    assert (entries.snapshot(), entries.totals()) == before
    if new == "none":
        with pytest.raises(StoreFull):
            entries.put("new", 10)
        return
    for number in range(40):
        entries.put(f"new {number}", 10)
        entries.read(f"new {number}")
    assert len(entries) <= 60
    if stripes == 1 and old in MARKING and new in MARKING:
        assert set(hot) <= set(entries)
    check_invariants(entries)
    entries.set_policy(old)
    assert len(entries) <= 60


@pytest.mark.parametrize("policy", MARKING)
def test_marks_of_views_that_are_gone_are_forgotten(make: Maker, policy: str) -> None:
    """Threads that come, hit and end leave no marks, whatever else is done with the dict meanwhile."""
    entries = make.striped(2, policy=policy)
    meanwhile: list[Callable[[], object]] = [
        lambda: None,
        lambda: entries.transaction({"x": Put(1)}),
        entries.clear,
        lambda: entries.reshape(4),
        lambda: entries.reshape(2),
        lambda: entries.set_policy("fifo"),
        lambda: entries.set_policy(policy),
    ]

    def come_and_hit() -> None:
        view = entries.view()
        meanwhile[turn % len(meanwhile)]()
        for key in range(20):
            entries.put(key, 1)
            view.read(key)

    for turn in range(70):
        in_thread(come_and_hit)
        meanwhile[turn // len(meanwhile) % len(meanwhile)]()
    gc.collect()
    view = entries.view()
    del view
    gc.collect()
    assert all(len(marks_in(stripe.slots)) <= 2 for stripe in stripes_of(entries))


def test_marks_grow_with_the_dict(make: Maker) -> None:
    """A view that read early marks also what came later, and what it marked is not lost."""
    entries = make.striped(1, policy="sieve", max_entries=2_000)
    view = entries.view()
    for number in range(2_000):
        entries.put(number, 0)
        if number % 3 == 0:
            view.read(number)
    for number in range(1_000):
        entries.put(f"new {number}", 0)
    assert all(number in set(entries) for number in range(0, 2_000, 3))


# Neighbours


def test_neighbours_give_way(make: Maker) -> None:
    """A namespace that grows takes memory from those that have it, by their own policies."""
    store = make.store(max_memory=200_000)
    old = store.namespace("old")
    for number in range(2_000):
        old.put(f"key{number}", bytes(100))
    kept = old.totals()[0]
    new = store.namespace("new")
    for number in range(300):
        assert isinstance(new.put(f"key{number}", bytes(100)), Written)
        assert budget_of(store).used() <= 200_000
    assert new.totals()[0] >= 150
    assert old.totals()[0] < kept
    assert old.statistics().evictions["memory"] > new.statistics().evictions["memory"]


def test_neighbour_without_a_policy_keeps_everything(make: Maker) -> None:
    """Under `none` a namespace gives nothing up for another one, and takes from those that do."""
    store = make.store(max_memory=200_000)
    firm, _ = store.create("firm", NamespaceConfig(policy="none"))
    soft = store.namespace("soft")
    for number in range(300):
        firm.put(f"key{number}", bytes(200))
    for number in range(3_000):
        soft.put(f"key{number}", bytes(100))
    assert firm.totals()[0] == 300
    for number in range(300, 450):
        firm.put(f"key{number}", bytes(200))
    assert firm.totals()[0] == 450
    assert firm.statistics().evictions == {"memory": 0, "max_bytes": 0, "max_entries": 0}
    soft.clear()
    while budget_of(store).used() < 199_000:
        firm.put(f"key{firm.totals()[0]}", bytes(200))
    with pytest.raises(StoreFull):
        firm.put("large", bytes(2_000))


@pytest.mark.parametrize("way", ["put", "touch", "transaction"])
def test_every_write_finds_room_next_door(make: Maker, way: str, clock: ManualClock) -> None:
    """A namespace with next to nothing of its own writes, touches and transacts beside a full one."""
    store = make.store(max_memory=100_000)
    small, full = store.namespace("small"), store.namespace("full")
    for number in range(2_000):
        full.put(f"key{number}", bytes(100))
    for number in range(30):
        small.put(f"key{number}", bytes(48))
    left = list(small.snapshot())
    assert left
    if way == "put":
        assert isinstance(small.put("large", bytes(20_000)), Written)
    elif way == "touch":
        assert all(isinstance(small.touch(key, 5), Touched) for key in left)
    else:
        writes: dict[str, Put[bytes] | None] = {f"t{n}": Put(bytes(2_000)) for n in range(8)}
        assert isinstance(small.transaction(writes), dict)
    assert budget_of(store).used() <= 100_000


def test_namespaces_own_limit_is_met_by_itself(make: Maker) -> None:
    """A limit of one namespace makes nobody else give way."""
    store = make.store(max_memory=1 << 20)
    limited, _ = store.create("limited", NamespaceConfig(max_bytes=20_000, max_entries=50))
    other = store.namespace("other")
    for number in range(100):
        other.put(f"key{number}", bytes(100))
        limited.put(f"key{number}", bytes(100))
    assert other.totals()[0] == 100
    assert limited.totals()[0] == 50
    limited.put("large", bytes(15_000))
    assert limited.totals()[1] <= 20_000
    assert limited.statistics().evictions["memory"] == 0
    assert limited.statistics().evictions["max_bytes"] > 0
    assert limited.statistics().evictions["max_entries"] == 50


def test_crowded_stripe_does_not_evict_only_its_own(make: Maker) -> None:
    """Keys of one stripe alone may fill the whole limit: it is not divided among the stripes."""
    entries = make.striped(8, policy="fifo", max_entries=50)
    keys = keys_of_stripe(entries, 3, 60)
    for key in keys[:50]:
        entries.put(key, 0)
    assert len(entries) == 50
    for key in keys[50:]:
        entries.put(key, 0)
    assert list(entries) == keys[10:]
