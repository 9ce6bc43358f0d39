"""Slots, marks and queues, without a policy."""

from __future__ import annotations

import pytest

from cacheserver.store.eviction.slots import FIRST_SLOT, NO_MARKS, Slots

ADD_ONE = bytes(min(mark + 1, 9) for mark in range(FIRST_SLOT))


def test_slots_of_entries_are_distinct_and_above_the_sentinels():
    """Each key gets a slot of its own, however many there are."""
    slots: Slots[int] = Slots()
    given = [slots.allocate(key) for key in range(1000)]
    assert len(set(given)) == 1000
    assert min(given) == FIRST_SLOT
    assert [slots.keys[slot] for slot in given] == list(range(1000))


def test_released_slots_are_given_out_again_before_new_ones():
    """Slots don't grow while as many are released as are needed."""
    slots: Slots[int] = Slots()
    given = [slots.allocate(key) for key in range(200)]
    for slot in given[50:150]:
        slots.release(slot)
    assert slots.count == 100
    assert sorted(slots.allocate(key) for key in range(100)) == given[50:150]
    assert slots.end == FIRST_SLOT + 200


def test_idle_slots_are_at_most_a_quarter_of_those_in_use():
    """Growing leaves little that is not used."""
    slots: Slots[int] = Slots()
    for key in range(5000):
        slots.allocate(key)
        assert len(slots.keys) <= max(2 * FIRST_SLOT, slots.end) * 1.25 + FIRST_SLOT


def test_nobody_can_mark_in_the_marks_of_a_thread_that_has_none():
    """The first hit of a thread gives an IndexError, and so marks of its own."""
    with pytest.raises(IndexError):
        NO_MARKS[FIRST_SLOT] = 1
    assert len(NO_MARKS) == 0


def test_new_marks_reach_as_far_as_there_are_slots():
    """Marks hold their head and a byte for each slot until there are more slots."""
    slots: Slots[int] = Slots()
    last = [slots.allocate(key) for key in range(100)][-1]
    marks = slots.new_marks(ADD_ONE)
    assert len(marks) == len(slots.keys) > last
    assert marks[:FIRST_SLOT] == ADD_ONE
    assert not any(marks[FIRST_SLOT:])


def test_longer_marks_take_the_place_of_the_old_ones_with_what_they_hold():
    """Nothing marked is lost when marks are replaced, and other threads' stay."""
    slots: Slots[int] = Slots()
    slot = slots.allocate(0)
    other, old = slots.new_marks(ADD_ONE), slots.new_marks(ADD_ONE)
    old[slot] = 3
    for key in range(1, 1000):
        slots.allocate(key)
    new = slots.replace_marks(old, b"\1" * FIRST_SLOT)
    assert len(new) == len(slots.keys) > len(old)
    assert new[slot] == 3
    assert new[:FIRST_SLOT] == b"\1" * FIRST_SLOT
    assert {id(marks) for marks in slots.marks} == {id(other), id(new)}


def test_marks_that_look_alike_are_told_apart():
    """Of several threads' marks with the same content the right ones are dropped."""
    slots: Slots[int] = Slots()
    first, second = slots.new_marks(ADD_ONE), slots.new_marks(ADD_ONE)
    slots.drop_marks(second)
    assert len(slots.marks) == 1
    assert slots.marks[0] is first


def test_a_slot_begins_without_marks():
    """What was marked for the entry before doesn't count for the next one."""
    slots: Slots[int] = Slots()
    slot = slots.allocate(0)
    marks = [slots.new_marks(ADD_ONE) for _ in range(3)]
    for each in marks:
        each[slot] = 1
    slots.release(slot)
    assert slots.allocate(1) == slot
    assert [each[slot] for each in marks] == [0, 0, 0]


def test_the_locks_holder_can_mark_where_no_thread_has_marks():
    """A hit by a writer is kept, before anybody has read, and after slots have grown."""
    slots: Slots[int] = Slots()
    first = slots.allocate(0)
    slots.mark(first, ADD_ONE)
    slots.mark(first, ADD_ONE)
    assert [marks[first] for marks in slots.marks] == [2]
    later = [slots.allocate(key) for key in range(1, 1000)]
    for slot in later:
        slots.mark(slot, ADD_ONE)
    assert [marks[first] for marks in slots.marks] == [2]
    assert all(slots.marks[0][slot] == 1 for slot in later)


def test_translating_marks_leaves_heads_alone():
    """Marks change their meaning in one pass; what a hit does stays as it is."""
    slots: Slots[int] = Slots()
    given = [slots.allocate(key) for key in range(3)]
    marks = slots.new_marks(ADD_ONE)
    marks[given[0]], marks[given[1]] = 5, 9
    slots.translate_marks(b"\0" + b"\7" * 255)
    assert [marks[slot] for slot in given] == [7, 7, 0]
    assert marks[:FIRST_SLOT] == ADD_ONE


def linked(slots: Slots[int], queue: int, keys: range) -> list[int]:
    """Put new slots into a queue by hand."""
    given = [slots.allocate(key) for key in keys]
    for slot in given:
        last = slots.older[queue]
        slots.newer[last] = slots.older[queue] = slot
        slots.older[slot], slots.newer[slot] = last, queue
    return given


def test_joined_queues_keep_their_order():
    """Queues go one behind the other, and are empty then; empty ones do no harm."""
    slots: Slots[int] = Slots()
    first, second = linked(slots, 1, range(3)), linked(slots, 2, range(4))
    slots.join((2, 5, 1), 7)
    assert list(slots.walk(7)) == second + first
    assert not list(slots.walk(1)) + list(slots.walk(2))
    more = linked(slots, 1, range(1))
    slots.join((7, 1), 7)
    assert list(slots.walk(7)) == second + first + more
    slots.join((7,), 1)
    assert list(slots.walk(1)) == second + first + more
