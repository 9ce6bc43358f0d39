"""fifo, random, ttl and none."""

from __future__ import annotations

from random import Random

from cacheserver.store.eviction.simple import RandomChoice
from tests.store.eviction.rig import Rig


def test_fifo_evicts_in_order_of_arrival_whatever_is_hit():
    """Neither a hit nor a write in place makes an entry younger."""
    rig = Rig("fifo")
    rig.put("a", "b", "c", "d")
    rig.hit("a")
    rig.put("b")
    rig.delete("c")
    rig.check()
    assert rig.evict_all() == ["a", "b", "d"]


def test_random_evicts_every_entry_alike():
    """Over many evictions each of the entries goes about as often as any other."""
    chance = Random(1)
    rig = Rig(lambda slots: RandomChoice(slots, chance.random))
    rig.put(*range(10))
    gone = [0] * 10
    for _ in range(5000):
        key = rig.evict()
        gone[key] += 1
        rig.put(key)
    assert 400 < min(gone) <= max(gone) < 600


def test_random_finds_the_last_entries_of_a_stripe_that_was_large():
    """Where hardly a slot is in use the oldest goes, and nothing where none is."""
    rig = Rig(lambda slots: RandomChoice(slots, lambda: 0.9999))
    rig.put(*range(1000))
    rig.delete(*range(500, 1000), *range(100))
    rig.check()
    assert rig.evict_all() == list(range(100, 500))
    assert rig.evict() is None


def test_ttl_evicts_what_would_expire_first_then_what_is_oldest():
    """Deadlines decide; entries without one go when no other is left, in order of arrival."""
    rig = Rig("ttl")
    rig.put("stays")
    rig.put("late", deadline=30)
    rig.put("soon", deadline=10)
    rig.put("stays too")
    rig.put("sooner", deadline=5)
    rig.check()
    assert rig.evict_all() == ["sooner", "soon", "late", "stays", "stays too"]


def test_none_evicts_nothing():
    """No victim is named, and the entries stay."""
    rig = Rig("none")
    rig.put(*range(3))
    assert rig.evict() is None
    rig.delete(1)
    rig.check()
    assert rig.order() == [0, 2]
