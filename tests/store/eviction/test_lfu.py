"""W-TinyLFU as its paper defines it, and its sketch."""

from __future__ import annotations

from cacheserver.store.eviction.base import MOST_STEPS
from cacheserver.store.eviction.lfu import PROBATION, PROTECTED, WINDOW
from cacheserver.store.eviction.sketch import SAMPLE, Sketch
from tests.store.eviction.rig import Rig


def queue(rig: Rig, number: int) -> list[object]:
    return [rig.slots.keys[slot] for slot in rig.slots.walk(number)]


def test_until_it_is_full_window_and_main_part_have_their_shares():
    """A hundredth is window; of the rest one in five, the first, is on probation."""
    rig = Rig("lfu")
    for key in range(300):
        rig.put(key)
        rig.check()
    assert queue(rig, WINDOW) == [297, 298, 299]
    assert queue(rig, PROTECTED) == list(range(297 - 237, 297))
    assert queue(rig, PROBATION) == list(range(60))


def test_a_newcomer_that_came_no_more_often_goes_itself():
    """A scan of keys that come once leaves the main part alone."""
    rig = Rig("lfu")
    rig.put(*range(100))
    rig.hit(*range(100))
    gone = []
    for key in range(1000, 1200):
        gone.append(rig.evict())
        rig.put(key)
    assert len(set(gone) & set(range(100))) <= 10  # those that the sketch takes for others, and 99
    rig.check()


def test_a_key_that_keeps_coming_is_let_in():
    """Counted often enough it takes the place of an entry that nobody hits."""
    rig = Rig("lfu")
    rig.put(*range(100))
    for _ in range(5):
        if "new" not in rig.where:
            rig.evict()
            rig.put("new")
        rig.evict()
        rig.put(object())
    assert "new" in rig.where
    assert rig.slots.places[rig.where["new"]] == PROBATION
    rig.check()


def test_an_entry_hit_on_probation_is_protected():
    """When the policy comes by it moves on, and one of the protected goes back."""
    rig = Rig("lfu")
    rig.put(*range(300))
    rig.hit(0)
    protected = queue(rig, PROTECTED)
    rig.evict()
    assert queue(rig, PROTECTED) == [*protected[1:], 0]
    assert protected[0] in queue(rig, PROBATION)
    rig.check()


def test_hits_of_several_threads_add_up():
    """The sketch counts all that the threads have marked, fifteen for each at most."""
    rig = Rig("lfu", readers=2)
    rig.put(*range(300))
    rig.hit(*[0] * 100, reader=0)
    rig.hit(0, 0, reader=1)
    rig.evict()
    assert rig.policy._sketch.estimate(hash((0,))) == 1 + 15 + 2  # type: ignore[attr-defined]


def test_it_evicts_until_nothing_is_left():
    """With the window or the main part empty the other one gives."""
    rig = Rig("lfu")
    rig.put(*range(300))
    rig.hit(*range(0, 300, 7))
    assert sorted(rig.evict_all()) == list(range(300))
    rig.put("one")
    assert rig.evict() == "one"
    rig.check()


def test_one_eviction_looks_at_a_bounded_number_of_entries():
    """Where thousands in a row were hit, one of them goes all the same."""
    rig = Rig("lfu")
    rig.put(*range(2 * MOST_STEPS))
    rig.hit(*range(2 * MOST_STEPS))
    assert rig.evict() is not None
    rig.check()


def test_the_sketch_counts_keys():
    """With few keys in it counts are right."""
    sketch = Sketch()
    for key in range(10):
        sketch.add(hash((key,)), key + 1)
    assert [sketch.estimate(hash((key,))) for key in range(11)] == [*range(1, 11), 0]


def test_the_sketch_never_counts_too_few():
    """Other keys can make a count too large, not too small."""
    sketch = Sketch()
    sketch.grow(500)
    for key in range(1000):
        sketch.add(hash((key,)), 3)
    counts = [sketch.estimate(hash((key,))) for key in range(1000)]
    assert min(counts) == 3
    assert sum(counts) < 3.3 * 1000


def test_counts_stop_at_the_largest_that_a_byte_holds():
    """A key cannot come so often that it counts as rare."""
    sketch = Sketch()
    sketch.grow(1000)
    for _ in range(300):
        sketch.add(1, 3)
    assert sketch.estimate(1) == 255


def test_counts_fade():
    """After so many additions a key has half of what it had."""
    sketch = Sketch()
    sketch.grow(100)
    sketch.add(hash(("old",)), 200)
    for key in range(SAMPLE * 100 - 199):
        sketch.add(hash((key % 50,)), 1)
    assert sketch.estimate(hash(("old",))) == 100


def test_the_sketch_grows_without_losing_counts():
    """More keys find more places, and what was counted is."""
    sketch = Sketch()
    for key in range(20):
        sketch.add(hash((key,)), 7)
    before = [sketch.estimate(hash((key,))) for key in range(20)]
    sketch.grow(10_000)
    assert [sketch.estimate(hash((key,))) for key in range(20)] == before
