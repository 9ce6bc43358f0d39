"""What compiled code must withstand, though nobody who follows the docs does it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from cacheserver.store.counts import Counts
from cacheserver.store.eviction.policy import POLICIES
from cacheserver.store.eviction.slots import FIRST_SLOT, Slots
from cacheserver.store.locks import Slot, WriteGate
from cacheserver.store.namespace import NamespaceConfig
from cacheserver.store.outcomes import Condition, Conflict, Deleted, Written
from cacheserver.store.sampler import Sampler
from cacheserver.store.striped import StripedDict
from cacheserver.store.view import NamespaceView
from tests.conftest import Maker
from tests.support.inside import stripes_of
from tests.support.invariants import check_policy_order, check_slots
from tests.support.outcomes import written


def test_outcomes_are_equal_to_those_made_by_hand() -> None:
    """They are made without their constructors, and hash as if they had been called."""
    things = StripedDict[str, bytes]()
    outcome = written(things.put("k", b"v"))
    assert outcome == Written(outcome.version, True)
    assert hash(outcome) == hash(Written(outcome.version, True))
    assert type(outcome.created) is bool
    conflict = things.put("k", b"w", condition=Condition.version(1))
    assert conflict == Conflict(things.read("k"))
    assert hash(conflict) == hash(Conflict(things.read("k")))


@pytest.mark.parametrize("width", [0, 1])
def test_counts_that_are_too_few_are_refused(width: int) -> None:
    """A view adds to its counts by their place."""
    with pytest.raises(ValueError, match=f"not {width}"):
        StripedDict[str, bytes]().view(Counts(width))
    entries = StripedDict[str, bytes](packed=True)
    with pytest.raises(ValueError, match="not 2"):
        NamespaceView(entries, Counts(2), Sampler(), NamespaceConfig())


def test_places_beyond_the_counts_are_refused() -> None:
    """There is nothing before the first number and behind the last."""
    counts = Counts(2)
    for place in (-1, 2):
        with pytest.raises(IndexError):
            counts[place]
        with pytest.raises(IndexError):
            counts[place] = 1
    with pytest.raises(ValueError, match="-1"):
        Counts(-1)


def test_a_lock_that_nobody_holds_is_not_let_go_of() -> None:
    """It is an error, as with any lock, and not the end of the process."""
    slot = Slot(WriteGate())
    for let_go in (slot.release, slot.release_for_writer, slot.lock.release):
        with pytest.raises(RuntimeError):
            let_go()
    with slot:
        assert slot.locked()


def test_what_is_no_stripe_of_contents_locks_nothing(make: Maker) -> None:
    """A part of another kind is refused before the lock is taken under which it would be set."""
    stripe: Any = stripes_of(make.striped(1))[0]
    for part in ("slots", "deadlines"):
        before = getattr(stripe, part)
        with pytest.raises(TypeError):
            setattr(stripe, part, 5)
        assert getattr(stripe, part) is before


def test_slots_that_could_not_grow_grow_later() -> None:
    """No slot is ever linked beyond what there is, also when only a part of it got memory."""
    slots = Slots[str]()
    with memoryview(slots.older), pytest.raises(BufferError):
        slots.allocate("k")
    with memoryview(slots.places), pytest.raises(BufferError):
        slots.allocate("k")
    assert slots.allocate("k") == FIRST_SLOT
    slots.push(FIRST_SLOT, 1)
    check_slots(slots, {"k": FIRST_SLOT})


def test_links_to_slots_that_are_not_there_are_refused() -> None:
    """However large the number."""
    slots = Slots[str]()
    for slot in (FIRST_SLOT, 2**32 - 1):
        with pytest.raises(IndexError):
            slots.push(slot, 1)
        with pytest.raises(IndexError):
            slots.unlink(slot)
        with pytest.raises(IndexError):
            slots.release(slot)


class Incomparable:
    """A key that can't be compared from some time on."""

    left = 1_000
    """How often any two are compared until that fails."""

    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        if not Incomparable.left:
            raise ArithmeticError
        Incomparable.left -= 1
        return self is other


class Alike(Incomparable):
    """One that is equal to all others of this class."""

    __hash__ = Incomparable.__hash__

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other) or isinstance(other, Alike)


class Fickle:
    """A key that is found by its hash alone, and sometimes can't be compared."""

    raises = False

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        if Fickle.raises:
            raise ArithmeticError
        return self is other


@pytest.mark.parametrize("change", [StripedDict.delete, partial(StripedDict.touch, ttl=50)])
def test_a_change_whose_key_fails_changes_nothing(
    make: Maker, change: Callable[[StripedDict[Any, Any], object], object]
) -> None:
    """It is found, and then can't be compared once more: what is counted stays what is there."""
    entries = make.striped(1, max_bytes=1_000, cost=lambda _, entry: 150 if entry[2] else 100)
    entries.put(Alike(), 1)
    Incomparable.left = 1
    try:
        with pytest.raises(ArithmeticError):
            change(entries, Alike())
    finally:
        Incomparable.left = 1_000
    assert entries.statistics().bytes == 100
    assert isinstance(entries.delete(Alike()), Deleted)
    assert entries.statistics().bytes == 0
    for number in range(10):
        entries.put(number, 1)
    assert len(entries) == 10


@pytest.mark.parametrize("policy", [each for each in POLICIES if each != "none"])
def test_a_victim_that_can_not_be_compared_stays_a_victim(make: Maker, policy: str) -> None:
    """The policy had let go of it: it is taken in again, and goes later."""
    entries = make.striped(1, max_entries=3, policy=policy)
    for _ in range(3):
        entries.put(Fickle(), 1)
    for _ in range(5):
        Fickle.raises = True
        try:
            with pytest.raises(ArithmeticError):
                entries.put(Fickle(), 2)
        finally:
            Fickle.raises = False
    (stripe,) = stripes_of(entries)
    check_policy_order(stripe.policy, stripe.slots)
    for number in range(50):
        entries.put(number, 3)
    assert len(entries) == 3
    check_policy_order(stripe.policy, stripe.slots)


def test_a_write_whose_key_fails_gives_back_what_it_took(make: Maker) -> None:
    """Keys of other types may raise when they are compared, before a write or in the midst of it."""
    for left in (0, 1):
        entries = make.striped(1, max_entries=5)
        entries.put(Incomparable(), 1)
        Incomparable.left = left
        with pytest.raises(ArithmeticError):
            entries.put(Incomparable(), 2)
        Incomparable.left = 1_000
        for _ in range(4):
            entries.put(Incomparable(), 3)
        assert len(entries) == 5
