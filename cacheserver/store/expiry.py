"""When which entries of a stripe are due, so that nobody has to look at all of them.

Entries are noted in buckets of time, by their slot. A bucket is as wide as a 64th of the time to live,
an eighth of a second at least and 64 seconds at most, and falls due at its end. Nothing is ever
taken out of a bucket before that: a slot whose entry went, or got a later deadline, is passed over
or noted anew when its bucket falls due. So an entry that is written again and again, as a session is,
costs a look at one number. Where deadlines go up and down, notes are left behind in later buckets; they are
cleaned up, a bucket a time, when there are a few times as many notes as slots.

Nothing here decides whether an entry is gone: its own deadline does. Every method needs the
stripe's lock held.
"""

from __future__ import annotations

import heapq
import math
from array import array
from collections.abc import Callable
from typing import Final

UNITS: Final = 8
"""A bucket's end is a whole number of eighths of a second."""
_WIDEST: Final = 64 * UNITS
_SHARE: Final = 64
_CHOICE: Final = 64
"""Of so many entries in the first bucket the one with the soonest deadline is found."""
_MOST_LOOKS: Final = 1024
_MOST_NOTES: Final = 4
"""With more notes than so many for each slot, those that mean nothing any more are looked for."""


class Deadlines:
    """The deadlines of one stripe's entries. `deadline_of(slot)` tells a slot's, 0 where it has none."""

    __slots__ = ("_buckets", "_deadline_of", "_ends", "_next_to_clean", "_noted", "_notes")

    def __init__(self, deadline_of: Callable[[int], float]) -> None:
        self._deadline_of = deadline_of
        self._buckets: dict[int, array[int]] = {}  # slots by the bucket's end
        self._ends: list[int] = []  # of the buckets there are, and of some that are gone: a heap
        self._noted = array("q")  # by slot: the end of the soonest bucket that has it, 0: none has
        self._notes = 0  # in all buckets
        self._next_to_clean = 0

    def add(self, slot: int, deadline: float, ttl: float) -> None:
        """Note that the entry in this slot is gone at `deadline`, which is `ttl` seconds away."""
        self._note(slot, deadline, ttl)
        if self._notes > _MOST_NOTES * len(self._noted):
            self._clean()

    def _note(self, slot: int, deadline: float, ttl: float) -> None:
        if slot >= len(self._noted):
            self._noted.frombytes(bytes(8 * (slot + slot // 4 + 64 - len(self._noted))))
        share = int(ttl * UNITS / _SHARE)
        width = min(1 << share.bit_length() - 1, _WIDEST) if share else 1
        end = math.ceil(deadline * UNITS / width) * width
        if 0 < self._noted[slot] <= end:
            return  # it is looked at sooner, and noted anew then
        self._noted[slot] = end
        if end in self._buckets:
            self._buckets[end].append(slot)
        else:
            self._buckets[end] = array("I", (slot,))
            heapq.heappush(self._ends, end)
        self._notes += 1

    def due(self, now: float, limit: int) -> list[int]:
        """Take out and return the slots of entries that are gone, after at most `limit` looks.

        An empty list means that nothing is due, or that nothing was found in so many looks: `has_due`
        tells. No slot is named twice.
        """
        found: dict[int, None] = {}
        units = now * UNITS
        while limit > 0 and self._ends and self._ends[0] <= units:
            end = self._ends[0]
            slots = self._buckets[end] if end in self._buckets else None  # noqa: SIM401 (see docs/free-threading.md)
            while slots and limit > 0:
                limit -= 1
                slot = self._pop(slots)
                if self._noted[slot] != end:
                    continue
                self._noted[slot] = 0
                deadline = self._deadline_of(slot)
                if not deadline:
                    continue
                if deadline <= now:
                    found[slot] = None
                else:
                    self._note(slot, deadline, deadline - now)
            if not slots:
                self._drop_first()
        return list(found)

    def has_due(self, now: float) -> bool:
        """Tell whether a bucket is due. Needs no lock, but may be wrong then, by an instant."""
        try:
            return self._ends[0] <= now * UNITS
        except IndexError:
            return False

    def soonest(self) -> int:
        """Return the slot of an entry that is gone as soon as any other, 0 where all stay.

        As soon, that is, but for a bucket's width. 0 also where none was found in a thousand looks, since
        all of them have later deadlines by now: those are noted anew.
        """
        looks = 0
        while self._ends and looks < _MOST_LOOKS:
            end = self._ends[0]
            slots = self._buckets[end] if end in self._buckets else None  # noqa: SIM401 (see docs/free-threading.md)
            best, best_deadline = 0, math.inf
            at = good = 0
            while slots and at < len(slots) and good < _CHOICE and looks < _MOST_LOOKS:
                looks += 1
                slot = slots[at]
                deadline = self._deadline_of(slot) if self._noted[slot] == end else 0
                if deadline and deadline * UNITS <= end:
                    good += 1
                    at += 1
                    if deadline < best_deadline:
                        best, best_deadline = slot, deadline
                    continue
                slots[at] = slots[-1]  # one that is not here any more
                self._pop(slots)
                if self._noted[slot] == end:
                    self._noted[slot] = 0
                    if deadline:
                        self._note(slot, deadline, deadline - end / UNITS)
            if best:
                return best
            if not slots:
                self._drop_first()
        return 0

    def _pop(self, slots: array[int]) -> int:
        self._notes -= 1
        return slots.pop()

    def _drop_first(self) -> None:
        self._buckets.pop(heapq.heappop(self._ends), None)

    def _clean(self) -> None:
        """Take notes that mean nothing any more out of one bucket, another one each time."""
        ends, noted = self._ends, self._noted
        self._next_to_clean = at = (self._next_to_clean + 1) % len(ends)
        end = ends[at]
        if end in self._buckets:
            slots = self._buckets[end]
            kept = array("I", dict.fromkeys(slot for slot in slots if noted[slot] == end))
            self._notes -= len(slots) - len(kept)
            if kept:
                self._buckets[end] = kept
            else:
                del self._buckets[end]
        if len(ends) > 2 * len(self._buckets) + 64:
            ends[:] = self._buckets
            heapq.heapify(ends)
