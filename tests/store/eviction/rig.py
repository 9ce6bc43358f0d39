"""A policy with its slots, used as a stripe and its readers use it, and its invariants."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from cacheserver.store.eviction.lfu import Lfu
from cacheserver.store.eviction.policy import Policy, make_policy
from cacheserver.store.eviction.s3fifo import MAIN, S3Fifo
from cacheserver.store.eviction.slots import FIRST_SLOT, NO_MARKS, Slots


class FixedDeadlines:
    """Deadlines that a test sets, by slot."""

    def __init__(self) -> None:
        self.by_slot: dict[int, float] = {}

    def soonest(self) -> int:
        return min(self.by_slot, key=lambda slot: (self.by_slot[slot], slot), default=0)


class Rig:
    """One stripe's policy and some reading threads."""

    def __init__(
        self,
        policy: str | Callable[[Slots[Any]], Policy],
        readers: int = 1,
    ) -> None:
        self.slots: Slots[Any] = Slots()
        self.deadlines = FixedDeadlines()
        self.draw = Random(1).random
        self.policy = (
            make_policy(policy, self.slots, self.deadlines, self.draw)
            if isinstance(policy, str)
            else policy(self.slots)
        )
        self.where: dict[Any, int] = {}
        self.marks = [NO_MARKS] * readers

    def put(self, *keys: Any, deadline: float = 0) -> None:
        """Write keys, those that are there already in their places."""
        for key in keys:
            if key in self.where:
                self.policy.touched(self.where[key])
            else:
                expected = self.slots.next_free()
                slot = self.slots.allocate(key)
                assert slot == expected
                self.where[key] = slot
                self.policy.add(slot)
            self.deadlines.by_slot.pop(self.where[key], None)
            if deadline:
                self.deadlines.by_slot[self.where[key]] = deadline

    def hit(self, *keys: Any, reader: int = 0) -> None:
        """Mark hits as a reading thread does: with a lock only where its marks are too short."""
        if not self.policy.needs_marks:
            return
        for key in keys:
            slot, marks = self.where[key], self.marks[reader]
            try:
                marks[slot] = marks[marks[slot]]
            except IndexError:
                head = self.policy.head
                if marks is NO_MARKS:
                    marks = self.slots.new_marks(head)
                else:
                    marks = self.slots.replace_marks(marks, head)
                self.marks[reader] = marks
                marks[slot] = marks[marks[slot]]

    def delete(self, *keys: Any) -> None:
        for key in keys:
            slot = self.where.pop(key)
            self.deadlines.by_slot.pop(slot, None)
            self.policy.remove(slot)
            self.slots.release(slot)

    def evict(self) -> Any:
        """Return the key that went, None where none may go."""
        slot = self.policy.victim()
        if not slot:
            return None
        key = self.slots.keys[slot]
        assert self.where.pop(key) == slot
        self.deadlines.by_slot.pop(slot, None)
        self.slots.release(slot)
        return key

    def evict_all(self) -> list[Any]:
        gone = []
        while (key := self.evict()) is not None:
            gone.append(key)
        return gone

    def run(self, keys: Iterable[Any], size: int) -> int:
        """Ask for each key, writing it where it is not there. Returns how often it was."""
        hits = 0
        for key in keys:
            if key in self.where:
                hits += 1
                self.hit(key)
            else:
                if len(self.where) >= size:
                    self.evict()
                self.put(key)
        return hits

    def switch(self, name: str) -> None:
        """Have another policy from now on."""
        policy = make_policy(name, self.slots, self.deadlines, self.draw)
        policy.adopt(self.policy)
        self.policy = policy

    def order(self) -> list[Any]:
        """Return the keys as the policy has them, those that go first first."""
        return [self.slots.keys[slot] for slot in self.policy]

    def check(self) -> None:
        """Every live slot is linked exactly once, both ways, and every count is right."""
        slots = self.slots
        assert sorted(self.policy) == sorted(self.where.values())
        assert slots.count == len(self.where)
        assert [slots.keys[slot] for slot in self.where.values()] == list(self.where)
        assert sum(key is not None for key in slots.keys) == slots.count
        assert all(slots.newer[slots.older[slot]] == slot for slot in self.where.values())
        assert all(slots.older[slots.newer[slot]] == slot for slot in self.where.values())
        idle = set(range(FIRST_SLOT)) - set(self.policy.order())
        assert all(slots.newer[queue] == slots.older[queue] == queue for queue in idle)
        assert len(slots.keys) == len(slots.newer) == len(slots.older) == len(slots.places)
        assert len(self.policy.head) == FIRST_SLOT > max(self.policy.head)
        for policy in [self.policy]:
            if isinstance(policy, S3Fifo):
                assert policy._main == len(list(slots.walk(MAIN)))
            if isinstance(policy, Lfu):
                assert policy._sizes[1:] == [len(list(slots.walk(queue))) for queue in (1, 2, 3)]
            if isinstance(policy, S3Fifo | Lfu):
                for queue in policy.queues:
                    assert all(slots.places[slot] == queue for slot in slots.walk(queue))
