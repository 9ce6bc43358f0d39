"""LRU to within an epoch."""

from __future__ import annotations

from collections import OrderedDict
from random import Random

import pytest

from cacheserver.store.eviction.base import MOST_STEPS
from cacheserver.store.eviction.lru import EPOCHS, Lru
from cacheserver.store.eviction.slots import FIRST_SLOT
from tests.store.eviction.rig import Rig


def exact_lru_hits(keys: list[int], size: int) -> int:
    """Return the hits of an LRU that has them all in order."""
    cache: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for key in keys:
        if key in cache:
            hits += 1
            cache.move_to_end(key)
        else:
            if len(cache) >= size:
                cache.popitem(last=False)
            cache[key] = None
    return hits


def test_without_hits_entries_go_in_order_of_arrival():
    """However many epochs pass, and where their queues are merged, order of arrival is exact."""
    rig = Rig("lru")
    rig.put(*range(1000))
    rig.check()
    assert rig.evict_all() == list(range(1000))


def test_an_entry_hit_in_a_later_epoch_outlives_those_that_came_before():
    """What was used longest ago goes, whether that was its arrival or a hit."""
    rig = Rig("lru")
    rig.put(*"abc")
    rig.hit("a")
    rig.put("d")
    assert rig.evict() == "b"
    assert rig.evict() == "c"
    assert rig.evict() == "a"
    assert rig.evict() == "d"
    assert rig.evict() is None


def test_a_write_in_place_is_a_use():
    """An entry that is overwritten is as young as one that is read."""
    rig = Rig("lru")
    rig.put(*"abc")
    rig.put("a")
    assert [rig.evict(), rig.evict(), rig.evict()] == ["b", "c", "a"]


def test_the_latest_of_several_threads_hits_counts():
    """Each thread has its own marks; the most recent one says when an entry was used."""
    rig = Rig("lru", readers=3)
    rig.put("a", "b")
    rig.hit("a", reader=2)
    rig.put("c")
    rig.hit("a", reader=0)
    rig.put("d", "e")
    rig.hit("b", reader=1)
    assert [rig.evict() for _ in range(5)] == ["c", "a", "d", "e", "b"]


def test_epochs_go_round_and_round():
    """Numbers of epochs are used again and again, and the order stays right."""
    rig = Rig("lru")
    rig.put(*range(100))
    for key in range(100, 100 + 20 * EPOCHS):
        assert rig.evict() == key - 100
        rig.put(key)
    rig.check()


def test_a_mark_of_an_epoch_long_over_counts_as_a_recent_hit():
    """A thread that slept between reading its head and marking can't put entries out of order."""
    rig = Rig("lru")
    rig.put("a", "b", "c")
    rig.hit("a")
    slot = rig.where["a"]
    rig.marks[0][slot] = 40
    assert rig.evict() == "b"
    rig.check()
    assert set(rig.evict_all()) == {"a", "c"}


def test_one_eviction_looks_at_a_bounded_number_of_entries():
    """Where thousands in a row were hit, one of them goes all the same."""
    rig = Rig("lru")
    rig.put(*range(3 * MOST_STEPS))
    rig.hit(*range(3 * MOST_STEPS))
    assert rig.evict() is not None
    rig.check()


@pytest.mark.parametrize(("keys", "size"), [(2000, 200), (5000, 1000), (20000, 400)])
def test_it_hits_as_often_as_an_exact_lru(keys: int, size: int):
    """To less than a thousandth of the requests, for skewed ones."""
    chance = Random(7)
    requests = [int(keys * chance.random() ** 3) for _ in range(40_000)]
    rig = Rig("lru")
    found = rig.run(requests, size)
    rig.check()
    assert abs(found - exact_lru_hits(requests, size)) < len(requests) / 1000


def test_most_epochs_are_in_use_when_it_is_full():
    """What goes was used many epochs ago: few entries share one with it."""
    chance = Random(7)
    rig = Rig("lru")
    rig.run([int(5000 * chance.random() ** 3) for _ in range(40_000)], 1000)
    assert 30 <= len(rig.policy.order()) <= EPOCHS


def test_the_head_says_the_epoch_in_all_marks():
    """A hit leaves the number of the present epoch, whatever mark was there."""
    rig = Rig("lru", readers=2)
    rig.put(*range(10))
    rig.hit(3, reader=0)
    rig.hit(3, reader=1)
    rig.put(*range(10, 20))
    assert isinstance(rig.policy, Lru)
    assert rig.policy.head == bytes((rig.policy._epoch,)) * FIRST_SLOT
    assert all(marks[:FIRST_SLOT] == rig.policy.head for marks in rig.slots.marks)
