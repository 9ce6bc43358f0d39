"""S3-FIFO as its paper defines it, and its ghosts."""

from __future__ import annotations

from cacheserver.store.eviction.base import MOST_STEPS
from cacheserver.store.eviction.ghosts import Ghosts
from cacheserver.store.eviction.s3fifo import MAIN, SMALL, S3Fifo
from tests.store.eviction.rig import Rig


def queue(rig: Rig, number: int) -> list[object]:
    return [rig.slots.keys[slot] for slot in rig.slots.walk(number)]


def test_until_it_is_full_the_first_tenth_is_the_small_queue():
    """Whatever size it is given, small and main queue have their shares when it is reached."""
    rig = Rig("s3fifo")
    for key in range(100):
        rig.put(key)
        rig.check()
    assert queue(rig, SMALL) == list(range(10))
    assert queue(rig, MAIN) == list(range(10, 100))


def test_entries_hit_twice_go_on_to_the_main_queue_and_others_go():
    """At the end of the small queue one hit is not enough."""
    rig = Rig("s3fifo")
    rig.put(*range(100))
    rig.hit(0, 0, 1)
    assert rig.evict() == 1
    assert queue(rig, MAIN)[-1] == 0


def test_a_ghost_comes_into_the_main_queue():
    """A key that went from the small queue lately skips it when it comes again."""
    rig = Rig("s3fifo")
    rig.put(*range(100))
    assert rig.evict() == 0
    rig.put("new")
    assert queue(rig, SMALL)[-1] == "new"
    assert rig.evict() == 1
    rig.put(0)
    assert queue(rig, MAIN)[-1] == 0


def test_in_the_main_queue_hits_are_lives():
    """An entry goes round once for each of its hits, of which three count."""
    rig = Rig("s3fifo")
    rig.put(*range(10))
    rig.delete(0)  # the small queue
    assert queue(rig, MAIN) == list(range(1, 10))
    rig.hit(*[1] * 60, 2)
    assert [rig.evict() for _ in range(7)] == list(range(3, 10))
    assert rig.evict() == 2
    assert rig.evict() == 1
    assert rig.evict() is None


def test_the_main_queue_gives_when_it_has_more_than_its_share():
    """Entries promoted from the small queue push others out of the main one."""
    rig = Rig("s3fifo")
    rig.put(*range(100))
    rig.hit(*range(10), *range(10))
    assert rig.evict() == 10
    rig.check()
    assert queue(rig, SMALL) == []
    assert queue(rig, MAIN) == [*range(11, 100), *range(10)]


def test_hits_of_several_threads_add_up():
    """Two threads that hit an entry once each have hit it twice."""
    rig = Rig("s3fifo", readers=2)
    rig.put(*range(100))
    rig.hit(0, reader=0)
    rig.hit(0, reader=1)
    assert rig.evict() == 1


def test_a_write_in_place_is_a_hit():
    """Two of them save an entry in the small queue."""
    rig = Rig("s3fifo")
    rig.put(*range(100))
    rig.put(0)
    rig.put(0)
    assert rig.evict() == 1


def test_one_eviction_looks_at_a_bounded_number_of_entries():
    """Where thousands in a row were hit, one of them goes all the same."""
    rig = Rig("s3fifo")
    rig.put(*range(3 * MOST_STEPS))
    for _ in range(3):
        rig.hit(*range(3 * MOST_STEPS))
    assert rig.evict() is not None
    rig.check()


def test_ghosts_remember_the_last_keys_and_no_others():
    """Of many keys put in, those within the limit are found, hardly ever another."""
    ghosts = Ghosts()
    for key in range(20_000):
        ghosts.put(hash((key,)), 1000)
    assert sum(ghosts.take(hash((key,)), 1000) for key in range(19_000)) == 0
    assert sum(ghosts.take(hash((key,)), 1000) for key in range(19_000, 20_000)) > 850


def test_a_ghost_is_taken_once():
    """What was taken is not there any more."""
    ghosts = Ghosts()
    ghosts.put(hash(("a",)), 10)
    assert ghosts.take(hash(("a",)), 10)
    assert not ghosts.take(hash(("a",)), 10)


def test_ghosts_survive_the_growth_of_their_table():
    """More room is made without forgetting anybody."""
    ghosts = Ghosts()
    for key in range(30):
        ghosts.put(hash((key,)), 30)
    ghosts.put(hash(("last",)), 100_000)
    assert sum(ghosts.take(hash((key,)), 100_000) for key in range(30)) >= 28


def test_ghosts_take_bounded_memory():
    """The table is no longer than twice the limit, whatever goes through it."""
    ghosts = Ghosts()
    for key in range(10_000):
        ghosts.put(hash((key,)), 500)
    assert len(ghosts._table) == 512


def test_adopted_entries_are_the_main_queues():
    """A policy that takes over begins with an empty small queue."""
    rig = Rig("fifo")
    rig.put(*range(20))
    rig.switch("s3fifo")
    rig.check()
    assert isinstance(rig.policy, S3Fifo)
    assert queue(rig, MAIN) == list(range(20))
    assert rig.evict() == 0
