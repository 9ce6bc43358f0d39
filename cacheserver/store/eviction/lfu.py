"""W-TinyLFU: "TinyLFU: A Highly Efficient Cache Admission Policy" (Einziger, Friedman, Manes; 2017).

A new entry comes into a window of a hundredth of all. What leaves the window must have come more
often, by a sketch of lately counted keys, than what would have to go for it from the main part; if
not, it goes itself. The main part has two queues: an entry that was hit since it came into the first,
on probation, goes on to the second, protected, which is for four in five of them; what the protected
queue has no room for goes back on probation.

A hit adds one to a mark. It is counted in the sketch, and moves the entry, when the policy next comes
by: so the queues are in order of use only roughly, and of hits in between 15 count at most.
"""

from __future__ import annotations

from typing import Any, Final

from cacheserver.store.eviction.base import Policy
from cacheserver.store.eviction.sketch import Sketch
from cacheserver.store.eviction.slots import FIRST_SLOT, Slots

WINDOW: Final = 1
PROBATION: Final = 2
PROTECTED: Final = 3
WINDOW_SHARE: Final = 100
"""The window is for one in so many entries, and for one at least."""
MOST_HITS: Final = 15
STEPS: Final = 128
"""Entries that are looked at in a queue for one that was not hit, before the next that comes is taken."""
FEW_STEPS: Final = 4
"""Protected entries looked at to find one for probation, since that may happen in each of STEPS."""


class Lfu(Policy):
    """The one that came less often, of the oldest in the window and the oldest on probation."""

    name = "lfu"
    queues = (PROBATION, WINDOW, PROTECTED)
    head = bytes(min(hits + 1, MOST_HITS) for hits in range(FIRST_SLOT))

    def __init__(self, slots: Slots[Any]) -> None:
        super().__init__(slots)
        self._sketch = Sketch()
        self._sizes = [0, 0, 0, 0]  # entries, by queue
        self._filling = True  # nothing had to go yet

    def add(self, slot: int) -> None:
        """Put the entry into the window; one that the window has no room for leaves it."""
        slots, sizes = self._slots, self._sizes
        sketch, count = self._sketch, slots.count
        if count > sketch.keys:
            sketch.grow(count)
        sketch.add(hash((slots.keys[slot],)))
        self._push(slot, WINDOW)
        if sizes[WINDOW] > (count // WINDOW_SHARE or 1):
            oldest = slots.newer[WINDOW]
            if self._hits(oldest):
                self._move(oldest, WINDOW)
            elif self._filling:
                self._move(oldest, PROTECTED)
                self._demote()
            else:
                self._move(oldest, PROBATION)

    def remove(self, slot: int) -> None:
        """Take the entry out of its queue."""
        slots = self._slots
        slots.unlink(slot)
        self._sizes[slots.places[slot]] -= 1

    def victim(self) -> int:
        """Let the window's oldest and the main part's oldest compete."""
        slots, sketch = self._slots, self._sketch
        self._filling = False
        candidate, resident = self._oldest(WINDOW), self._oldest_resident()
        loser = candidate or resident
        if candidate and resident:
            keys = slots.keys
            hashed = hash((keys[candidate],))
            if sketch.estimate(hashed) > sketch.estimate(hash((keys[resident],))):
                self._move(candidate, PROBATION)
                loser = resident
            sketch.add(hashed)  # once more, or what came lately would have too hard a stand
        if loser:
            self.remove(loser)
        return loser

    def touched(self, slot: int) -> None:
        """Mark the entry as its readers do."""
        self._slots.mark(slot, self.head)

    def adopt(self, old: Policy) -> None:
        """Take over all entries on probation."""
        super().adopt(old)
        places = self._slots.places
        places[:] = bytes((PROBATION,)) * len(places)
        self._sizes = [0, 0, self._slots.count, 0]

    def _home(self) -> int:
        return PROBATION

    def _oldest(self, queue: int, steps: int = STEPS) -> int:
        """Return the queue's oldest entry that was not hit; those that were become its newest.

        After so many steps it's the oldest, hit or not. 0 where the queue is empty.
        """
        newer = self._slots.newer
        for _ in range(steps):
            slot = newer[queue]
            if slot == queue:
                return 0
            if not self._hits(slot):
                return slot
            self._move(slot, queue)
        return newer[queue]

    def _oldest_resident(self) -> int:
        """Return the oldest on probation that was not hit; those that were become protected."""
        newer = self._slots.newer
        for _ in range(STEPS):
            slot = newer[PROBATION]
            if slot == PROBATION:
                break
            if not self._hits(slot):
                return slot
            self._move(slot, PROTECTED)
            self._demote()
        return self._oldest(PROTECTED)

    def _demote(self) -> None:
        """Put the oldest that is protected on probation if too many are protected."""
        sizes = self._sizes
        if sizes[PROTECTED] > (sizes[PROBATION] + sizes[PROTECTED]) * 4 // 5:
            self._move(self._oldest(PROTECTED, FEW_STEPS), PROBATION)

    def _hits(self, slot: int) -> int:
        """Return how often the entry was hit since the last look, and count it."""
        hits = 0
        for length, marks in self._slots.reach:
            if slot < length and marks[slot]:
                hits += marks[slot]
                marks[slot] = 0
        if hits:
            self._sketch.add(hash((self._slots.keys[slot],)), hits)
        return hits

    def _move(self, slot: int, queue: int) -> None:
        self.remove(slot)
        self._push(slot, queue)

    def _push(self, slot: int, queue: int) -> None:
        slots = self._slots
        slots.push(slot, queue)
        slots.places[slot] = queue
        self._sizes[queue] += 1
