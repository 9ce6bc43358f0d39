"""SIEVE: "SIEVE is Simpler than LRU" (Zhang, Yang, Yue, Vigfusson, Rashmi; NSDI 2024).

One queue in order of arrival. A hand goes from the oldest entry to the newest and round again. An
entry that was hit since the hand passed it is spared and stays where it is; the first that was not
goes, and the hand stops behind it.
"""

from __future__ import annotations

from typing import Any

from cacheserver.store.eviction.base import MOST_STEPS, QUEUE, OneQueue, Policy
from cacheserver.store.eviction.slots import FIRST_SLOT, Slots


class Sieve(OneQueue):
    """The first entry that the hand meets and nobody has hit since it last came by."""

    name = "sieve"
    needs_marks = True
    head = b"\1" * FIRST_SLOT

    def __init__(self, slots: Slots[Any]) -> None:
        super().__init__(slots)
        self._hand = QUEUE  # the slot to look at next; the sentinel: start with the oldest

    def remove(self, slot: int) -> None:
        """Take the entry out of the queue, and the hand off it."""
        slots = self._slots
        if self._hand == slot:
            self._hand = slots.newer[slot]
        slots.unlink(slot)

    def victim(self) -> int:
        """Move the hand on to an entry without marks, clearing those it passes."""
        slots = self._slots
        newer, reach = slots.newer, slots.reach
        slot = self._hand
        if slot == QUEUE:
            slot = newer[QUEUE]
            if slot == QUEUE:
                return 0
        for _ in range(MOST_STEPS):
            hit = False
            for length, marks in reach:
                if slot < length and marks[slot]:
                    marks[slot] = 0
                    hit = True
            if not hit:
                break
            slot = newer[slot]
            if slot == QUEUE:
                slot = newer[QUEUE]
        self._hand = newer[slot]
        slots.unlink(slot)
        return slot

    def touched(self, slot: int) -> None:
        """Mark the entry as its readers do."""
        self._slots.mark(slot, self.head)

    def adopt(self, old: Policy) -> None:
        """Take over all entries; the hand starts with the oldest."""
        super().adopt(old)
        self._hand = QUEUE
