"""Deadlines: what is due is found, what is not is left alone, and the notes of it stay few."""

from __future__ import annotations

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cacheserver.store.eviction.slots import FIRST_SLOT
from cacheserver.store.expiry import Deadlines
from tests.conftest import Maker
from tests.support.clock import MONOTONIC, ManualClock
from tests.support.inside import stripes_of

YEAR = 365 * 86400.0
SLOTS = st.integers(min_value=FIRST_SLOT, max_value=FIRST_SLOT + 12) | st.just(5_000)
TTLS = st.sampled_from([0.001, 0.125, 1, 7.9, 8, 60, 600, 4096, 5000, 86400, YEAR]) | st.floats(
    min_value=0.001, max_value=2_000
)
STEPS = st.sampled_from([0.001, 0.125, 1, 60, 600, 86400, 2 * YEAR]) | st.floats(0.001, 100)


def width(ttl: float) -> float:
    """How much later than it is due an entry is found at the latest."""
    return max(0.125, min(ttl / 64, 64))


class Machine(RuleBasedStateMachine):
    """Deadlines beside a plain dict of them. Slots are used again, as in a stripe."""

    @initialize()
    def begin(self) -> None:
        self.now = MONOTONIC
        self.model: dict[int, tuple[float, float]] = {}  # slot: deadline, ttl
        self.real = Deadlines(self.deadline_of)

    def deadline_of(self, slot: int) -> float:
        return self.model.get(slot, (0, 0))[0]

    @rule(slot=SLOTS, ttl=TTLS)
    def put(self, slot: int, ttl: float) -> None:
        """A new entry, or an earlier or later deadline for the one in this slot."""
        self.model[slot] = (self.now + ttl, ttl)
        self.real.add(slot, self.now + ttl, ttl)

    @rule(slot=SLOTS)
    def keep(self, slot: int) -> None:
        """Written anew with the deadline that it has."""
        if slot in self.model:
            deadline = self.deadline_of(slot)
            self.real.add(slot, deadline, deadline - self.now)

    @rule(slot=SLOTS)
    def go(self, slot: int) -> None:
        """Deleted, evicted, or left without a deadline: nobody is told."""
        self.model.pop(slot, None)

    @rule(seconds=STEPS)
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(limit=st.integers(min_value=1, max_value=64))
    def take_some(self, limit: int) -> None:
        found = self.real.due(self.now, limit)
        assert len(found) <= limit
        assert len(set(found)) == len(found)
        for slot in found:
            assert self.model[slot][0] <= self.now, "it is alive"
            del self.model[slot]

    @rule()
    def take_all(self) -> None:
        """After it nothing is left that is due for longer than its bucket is wide."""
        while self.real.has_due(self.now):
            self.take_some(64)
        late = [
            slot for slot, (deadline, ttl) in self.model.items() if deadline + width(ttl) < self.now
        ]
        assert not late, "what is due was missed"

    @rule()
    def soonest(self) -> None:
        slot = self.real.soonest()
        if not self.model:
            assert slot == 0
            return
        assert slot in self.model
        latest = min(deadline + width(ttl) for deadline, ttl in self.model.values())
        assert self.model[slot][0] <= latest

    @rule()
    def evict_the_soonest(self) -> None:
        slot = self.real.soonest()
        assert (slot == 0) == (not self.model)
        self.model.pop(slot, None)

    @invariant()
    def nothing_is_forgotten(self) -> None:
        if hasattr(self, "real"):
            for slot in self.model:
                end = self.real._noted[slot]
                assert end
                assert slot in self.real._buckets[end]


TestDeadlines = Machine.TestCase
TestDeadlines.settings = settings(max_examples=50, stateful_step_count=50, deadline=None)


def notes(deadlines: Deadlines) -> int:
    """How many places there are in buckets."""
    return sum(len(slots) for slots in deadlines._buckets.values())


REFRESHES = {
    "the same": lambda turn: 100.0,
    "ever later": lambda turn: 100.0 + turn,
    "ever earlier": lambda turn: 1_000_000.0 - turn,
    "now long, now short": lambda turn: (YEAR, 0.2)[turn % 2],
    "of all lengths": lambda turn: 2.0 ** (turn % 20),
}


@pytest.mark.parametrize("way", REFRESHES)
@pytest.mark.parametrize("deleted", [False, True])
def test_key_written_again_and_again_leaves_few_notes(way: str, deleted: bool) -> None:
    """A hundred thousand writes of one key, with deletions in between or without, cost no memory."""
    kept = {FIRST_SLOT: 0.0}
    deadlines = Deadlines(lambda slot: kept.get(slot, 0))
    for turn in range(100_000):
        ttl = REFRESHES[way](turn)
        kept[FIRST_SLOT] = MONOTONIC + ttl
        deadlines.add(FIRST_SLOT, MONOTONIC + ttl, ttl)
        if deleted:
            del kept[FIRST_SLOT]
    few = 10_000 if way == "ever earlier" else 300
    assert notes(deadlines) <= few


def test_session_that_is_touched_for_long_leaves_few_notes(make: Maker, clock: ManualClock) -> None:
    """A deadline that moves on with the clock, with a sweep now and then, is noted a few times."""
    entries = make.striped(1)
    entries.put("session", 1, ttl=1_800)
    for turn in range(5_000):
        clock.advance(1)
        entries.touch("session", 1_800)
        if turn % 60 == 0:
            assert sum(entries.sweep()) == 0
    assert notes(stripes_of(entries)[0].deadlines) <= 10
    clock.advance(1_800 + width(1_800))
    assert sum(entries.sweep()) == 1


def test_short_life_after_a_long_one_leaves_at_most_one_note_each(
    make: Maker, clock: ManualClock
) -> None:
    """What was to stay for a year and is gone after a second leaves a few bytes, if anything."""
    entries = make.striped(1)
    for _ in range(1_000):
        entries.put("k", 1, ttl=YEAR)
        entries.touch("k", 0.5)
        clock.advance(1)
        assert sum(entries.sweep()) == 1
    assert notes(stripes_of(entries)[0].deadlines) <= 1_000


@pytest.mark.parametrize("ttl", [0.001, 0.01, 1, 59.9, 3600, YEAR, 10 * YEAR])
def test_entry_is_swept_soon_after_its_deadline(
    make: Maker, clock: ManualClock, ttl: float
) -> None:
    """Not a moment before it, and a 64th of its life later, or an eighth of a second, at most."""
    entries = make.striped(1)
    entries.put("k", 1, ttl=ttl)
    deadline = clock.monotonic() + ttl
    clock.set(math.nextafter(deadline, 0))
    assert sum(entries.sweep()) == 0
    assert len(entries) == 1
    clock.set(deadline + width(ttl))
    assert sum(entries.sweep()) == 1
    assert len(entries) == 0


def test_many_that_are_due_at_once_go_in_small_steps(make: Maker, clock: ManualClock) -> None:
    """However many are due, a step looks at 64 at most and lets go of the lock."""
    entries = make.striped(1)
    for number in range(1_000):
        entries.put(number, number, ttl=5)
    clock.advance(10)
    before = entries.statistics().stripe_lock.acquisitions
    steps = list(entries.sweep())
    assert sum(steps) == 1_000
    assert max(steps) <= 64
    assert entries.statistics().stripe_lock.acquisitions == before + len(steps)
    assert entries.statistics().expirations == 1_000


def test_sweep_ends_though_the_stripes_change_under_it(make: Maker, clock: ManualClock) -> None:
    """A sweep that began before a change of stripes comes to its end, and the next one finds the rest."""
    entries = make.striped(4)
    for number in range(500):
        entries.put(number, number, ttl=5)
    clock.advance(10)
    sweep = entries.sweep()
    gone = next(sweep)
    entries.reshape(2)
    for step, more in enumerate(sweep):
        gone += more
        assert step < 1_000, "it goes on for ever"
    gone += sum(entries.sweep())
    assert gone == 500
    assert len(entries) == 0
    assert entries.statistics().expirations == 500


def test_sweep_beside_another_one(make: Maker, clock: ManualClock) -> None:
    """Two sweepers in turns take each entry once."""
    entries = make.striped(2)
    for number in range(500):
        entries.put(number, number, ttl=5)
    clock.advance(10)
    one, other = entries.sweep(), entries.sweep()
    gone = 0
    for _ in range(20):
        gone += next(one, 0) + next(other, 0)
    assert gone + sum(one) + sum(other) == 500
