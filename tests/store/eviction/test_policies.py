"""What holds for every policy: names, change from one to another, marks of several threads."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from cacheserver.store.eviction.policy import POLICIES, check_policy, make_policy
from cacheserver.store.eviction.slots import FIRST_SLOT, Slots
from tests.store.eviction.rig import FixedDeadlines, Rig
from tests.support.threads import start

EVICTING = [name for name in POLICIES if name != "none"]
MARKING = ["sieve", "s3fifo", "lru", "lfu"]


def test_the_names_are_those_of_the_contract():
    """All eight are there, the default first."""
    assert POLICIES == ("sieve", "s3fifo", "lru", "lfu", "fifo", "ttl", "random", "none")


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_knows_its_name(name: str):
    """What is made under a name carries it, and says whether it needs marks."""
    check_policy(name)
    policy = make_policy(name, Slots(), FixedDeadlines())
    assert policy.name == name
    assert policy.needs_marks == (name in MARKING)


@pytest.mark.parametrize("name", ["", "LRU", "mru", "sieve "])
def test_a_policy_that_does_not_exist_is_refused_with_those_that_do(name: str):
    """The message names every policy there is."""
    with pytest.raises(ValueError, match="sieve, s3fifo, lru, lfu, fifo, ttl, random, none"):
        check_policy(name)
    with pytest.raises(ValueError, match="choose one of"):
        make_policy(name, Slots(), FixedDeadlines())


@pytest.mark.parametrize("name", POLICIES)
def test_heads_keep_marks_below_the_first_slot(name: str):
    """However often a slot is marked, its mark stays an index into the head."""
    rig = Rig(name)
    rig.put("a")
    rig.hit(*["a"] * 300)
    for marks in rig.slots.marks:
        assert marks[rig.where["a"]] < FIRST_SLOT


@pytest.mark.parametrize("name", EVICTING)
def test_everything_goes_once(name: str):
    """Asked often enough a policy names every entry once and then none."""
    rig = Rig(name)
    rig.put(*range(300))
    rig.hit(*range(0, 300, 3))
    assert sorted(rig.evict_all()) == list(range(300))
    assert rig.evict() is None
    rig.check()


@pytest.mark.parametrize("name", MARKING)
def test_an_entry_that_is_hit_between_evictions_stays(name: str):
    """Whatever the policy makes of hits, one that is hit all the time doesn't go."""
    rig = Rig(name)
    rig.put(*range(100))
    for key in range(100, 1000):
        rig.hit(50, 50)
        rig.evict()
        rig.put(key)
        assert 50 in rig.where
    rig.check()


@pytest.mark.parametrize("new", POLICIES)
@pytest.mark.parametrize("old", POLICIES)
def test_a_change_of_policy_keeps_all_entries(old: str, new: str):
    """From any policy to any other, and those that were hit keep that."""
    rig = Rig(old, readers=2)
    rig.put(*range(200))
    rig.hit(*range(0, 200, 5), reader=1)
    for key in range(200, 260):
        if rig.evict() is not None:
            rig.put(key)
    rig.delete(*list(rig.where)[:20])
    before = set(rig.where)
    rig.switch(new)
    rig.check()
    assert set(rig.where) == before
    rig.put(*range(1000, 1100))
    rig.hit(*range(1000, 1100, 2))
    rig.delete(*range(1000, 1050))
    rig.check()
    expected = set(rig.where)
    assert new == "none" or set(rig.evict_all()) == expected
    rig.check()


@pytest.mark.parametrize("old", ["fifo", "ttl", "random", "none", "sieve", "lru"])
@pytest.mark.parametrize("new", ["fifo", "sieve", "lru"])
def test_a_change_between_queues_keeps_the_order(old: str, new: str):
    """What came first goes first, also under the next policy."""
    rig = Rig(old)
    rig.put(*range(500))
    rig.delete(*range(0, 500, 2))
    rig.switch(new)
    assert rig.evict_all() == list(range(1, 500, 2))


@pytest.mark.parametrize("new", MARKING)
@pytest.mark.parametrize("old", MARKING)
def test_hits_survive_a_change_of_policy(old: str, new: str):
    """An entry that was marked as hit under one policy is not the first to go under the next."""
    rig = Rig(old)
    rig.put(*range(20))
    rig.delete(0, 1)
    rig.hit(2, 2)
    rig.switch(new)
    assert [mark > 0 for mark in rig.marks[0][rig.where[2] : rig.where[4]]] == [True, False]
    assert rig.evict() != 2
    rig.check()


@pytest.mark.parametrize("name", MARKING)
def test_marks_of_any_thread_count(name: str):
    """It doesn't matter which of the threads has hit an entry."""
    rig = Rig(name, readers=3)
    rig.put(*range(30))
    for key in range(30):
        rig.hit(key, key, reader=key % 3)
    rig.put("cold")
    rig.hit(*range(30), reader=1)
    rig.delete(*range(3))
    rig.check()
    gone = rig.evict_all()
    assert name == "lfu" or gone.index("cold") < 3
    assert len(gone) == 28


@pytest.mark.parametrize("name", MARKING)
def test_threads_whose_marks_end_early_do_no_harm(name: str):
    """A thread that read when there were few entries has short marks; all else goes on."""
    rig = Rig(name, readers=2)
    rig.put(*range(10))
    rig.hit(3, 3, reader=0)
    rig.put(*range(10, 2000))
    rig.hit(1999, 1999, reader=1)
    rig.hit(3, 3, reader=0)
    assert len(rig.marks[0]) < len(rig.marks[1])
    gone = {rig.evict() for _ in range(100)}
    assert not gone & {3, 1999}
    rig.hit(next(key for key in rig.where if key > 500), reader=0)
    assert len(rig.marks[0]) == len(rig.marks[1])
    rig.check()


@pytest.mark.parametrize("name", MARKING)
def test_writes_in_place_count_before_anybody_has_read(name: str):
    """Overwriting needs no reader's marks."""
    rig = Rig(name)
    rig.put(*range(50))
    rig.put(*range(20))
    rig.put(*range(20))
    gone = [rig.evict() for _ in range(5)]
    assert not set(gone) & set(range(5))
    rig.check()


@pytest.mark.parametrize("name", MARKING)
def test_threads_mark_while_another_evicts(name: str):
    """Readers mark whatever slots they know, at any moment; queues and counts stay right."""
    rig = Rig(name, readers=3)
    rig.put(*range(2000))
    for reader in range(3):
        rig.hit(0, reader=reader)
    stop = threading.Event()

    def mark(reader: int) -> int:
        marks, rounds = rig.marks[reader], 0
        while not stop.is_set():
            for slot in range(FIRST_SLOT + reader, len(marks), 7):
                marks[slot] = marks[marks[slot]]
            rounds += 1
        return rounds

    readers = [start(partial(mark, reader)) for reader in range(3)]
    try:
        for key in range(2000, 8000):
            rig.evict()
            rig.put(key)
        rig.switch("lru" if name != "lru" else "lfu")
        for key in range(8000, 9000):
            rig.evict()
            rig.put(key)
    finally:
        stop.set()
    assert all(reader.result() > 0 for reader in readers)
    rig.check()
    assert len(rig.where) == 2000
    expected = sorted(rig.where)
    assert sorted(rig.evict_all()) == expected
