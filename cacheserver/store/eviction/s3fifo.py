"""S3-FIFO: "FIFO queues are all you need for cache eviction" (Yang, Zhang, Qiu, Yue, Rashmi; SOSP 2023).

A new entry comes into a small queue of a tenth of all. At its end it goes on to the main queue if it
was hit twice, else it goes, and its key is remembered as a ghost: an entry whose key is one comes into
the main queue at once. At the end of that, an entry that was hit begins anew with one hit less, of
which three count at most.
"""

from __future__ import annotations

from typing import Any, Final

from cacheserver.store.eviction.base import MOST_STEPS, Policy
from cacheserver.store.eviction.ghosts import Ghosts
from cacheserver.store.eviction.slots import FIRST_SLOT, Slots

SMALL: Final = 1
MAIN: Final = 2
SMALL_SHARE: Final = 10
"""The small queue is for one in so many entries."""
MOST_HITS: Final = 3
PROMOTED: Final = 2
"""Hits with which an entry goes on from the small queue to the main one."""


class S3Fifo(Policy):
    """The oldest of the small queue that was not hit twice, or of the main one that was not hit."""

    name = "s3fifo"
    queues = (SMALL, MAIN)
    head = bytes(min(hits + 1, MOST_HITS) for hits in range(FIRST_SLOT))

    def __init__(self, slots: Slots[Any]) -> None:
        super().__init__(slots)
        self._ghosts = Ghosts()
        self._main = 0  # entries in the main queue
        self._filling = True  # nothing had to go yet

    def add(self, slot: int) -> None:
        """Put the entry into the small queue, or, where its key went lately, into the main one.

        Until something has to go the first tenth is the small queue and the rest the main one.
        """
        slots, queue = self._slots, MAIN
        share = slots.count - slots.count // SMALL_SHARE
        if self._filling:
            if self._main >= share:
                self._move_to_small(slots.newer[MAIN])
        elif not self._ghosts.take(hash((slots.keys[slot],)), share):
            queue = SMALL
        if queue == MAIN:
            self._main += 1
        slots.places[slot] = queue
        slots.push(slot, queue)

    def remove(self, slot: int) -> None:
        """Take the entry out of its queue."""
        slots = self._slots
        slots.unlink(slot)
        if slots.places[slot] == MAIN:
            self._main -= 1

    def victim(self) -> int:
        """Take one from the main queue if that has more than its share, else from the small one."""
        slots = self._slots
        newer, places, reach = slots.newer, slots.places, slots.reach
        share = slots.count - slots.count // SMALL_SHARE
        queue = MAIN if self._main > share else SMALL
        self._filling = False
        slot = 0
        for _ in range(MOST_STEPS):
            slot = newer[queue]
            if slot == queue:
                queue = MAIN if queue == SMALL else SMALL
                slot = newer[queue]
                if slot == queue:
                    return 0
            hits, marked = 0, None
            for length, marks in reach:
                if slot < length and marks[slot]:
                    hits += marks[slot]
                    marks[slot] = 0
                    marked = marks
            slots.unlink(slot)
            if queue == SMALL:
                if hits < PROMOTED:
                    self._ghosts.put(hash((slots.keys[slot],)), share)
                    return slot
                places[slot] = MAIN
                self._main += 1
            elif marked is None:
                self._main -= 1
                return slot
            else:
                marked[slot] = min(hits, MOST_HITS) - 1
            slots.push(slot, MAIN)
        self.remove(slot)
        return slot

    def touched(self, slot: int) -> None:
        """Mark the entry as its readers do."""
        self._slots.mark(slot, self.head)

    def adopt(self, old: Policy) -> None:
        """Take over all entries as the main queue's."""
        super().adopt(old)
        places = self._slots.places
        places[:] = bytes((MAIN,)) * len(places)
        self._main = self._slots.count

    def _move_to_small(self, slot: int) -> None:
        slots = self._slots
        self.remove(slot)
        slots.push(slot, SMALL)
        slots.places[slot] = SMALL

    def _home(self) -> int:
        return MAIN
