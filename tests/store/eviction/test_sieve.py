"""SIEVE as its paper defines it."""

from __future__ import annotations

from cacheserver.store.eviction.base import MOST_STEPS
from tests.store.eviction.rig import Rig


def test_entries_hit_are_spared_and_stay_where_they_are():
    """A sequence worked out by hand: the hand spares G and D, and F, E and C go."""
    rig = Rig("sieve")
    rig.put(*"GFEDCBA")
    rig.hit("A", "B", "G")
    assert rig.evict() == "F"
    rig.put("H")
    rig.hit("A", "D")
    assert rig.evict() == "E"
    rig.put("I")
    rig.hit("B")
    assert rig.evict() == "C"
    rig.put("J")
    assert rig.order() == list("GDBAHIJ")
    rig.check()


def test_the_hand_goes_on_from_where_it_stopped():
    """An entry that was spared is not looked at again before the hand has been round."""
    rig = Rig("sieve")
    rig.put(*"abcde")
    rig.hit("a", "b")
    assert rig.evict() == "c"
    assert rig.evict() == "d"
    assert rig.evict() == "e"
    assert rig.evict() == "a"


def test_the_hand_goes_round_when_all_were_hit():
    """Every mark is cleared once, and then the oldest goes."""
    rig = Rig("sieve")
    rig.put(*"abc")
    rig.hit("a", "b", "c")
    assert rig.evict() == "a"
    rig.hit("b")
    rig.put("d")
    assert rig.evict() == "c"
    assert rig.evict() == "d"
    assert rig.evict() == "b"
    assert rig.evict() is None


def test_the_hand_leaves_an_entry_that_is_removed():
    """Deleting the entry under the hand moves it on to the next one."""
    rig = Rig("sieve")
    rig.put(*"abcd")
    rig.hit("a")
    assert rig.evict() == "b"
    rig.delete("c")
    rig.check()
    assert rig.evict() == "d"


def test_newcomers_wait_for_the_hand_at_the_newest_end():
    """A hand that stopped behind the newest entry begins with the oldest, not with who came since."""
    rig = Rig("sieve")
    rig.put(*"abc")
    rig.hit("a", "b")
    assert rig.evict() == "c"
    rig.put("d")
    assert rig.evict() == "a"


def test_a_write_in_place_is_a_hit():
    """An entry that is overwritten is spared as one that is read, though nobody ever read here."""
    rig = Rig("sieve")
    rig.put(*"ab")
    rig.put("a")
    assert rig.evict() == "b"


def test_one_eviction_looks_at_a_bounded_number_of_entries():
    """Where thousands in a row were hit, the next one goes: no lock is held for all of them."""
    rig = Rig("sieve")
    rig.put(*range(3 * MOST_STEPS))
    rig.hit(*range(3 * MOST_STEPS))
    assert rig.evict() == MOST_STEPS
    rig.check()
