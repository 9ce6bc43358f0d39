"""When which entries of a stripe are due, so that nobody has to look at all of them.

Entries are noted in buckets of time, by their slot. A bucket is as wide as a 64th of the time to
live, an eighth of a second at least and 64 seconds at most, and falls due at its end. Nothing is
ever taken out of a bucket before that: a slot whose entry went, or got a later deadline, is passed
over or noted anew when its bucket falls due. So an entry that is written again and again, as a
session is, costs a look at one number. Where deadlines go up and down, notes are left behind in
later buckets; they are cleaned up, a bucket a time, when there are a few times as many notes as
slots.

Nothing here decides whether an entry is gone: its own deadline does. Every method needs the
stripe's lock held.
"""

import heapq
import math
from array import array

cimport cython
from libc.math cimport ceil
from libc.stdint cimport int64_t

from cacheserver.store.atomic cimport number_get, number_set

UNITS = 8
"""A bucket's end is a whole number of eighths of a second."""

cdef enum:
    EIGHTHS = 8
    WIDEST = 64 * EIGHTHS
    SHARE = 64
    CHOICE = 64  # of so many entries in the first bucket the one with the soonest deadline is found
    MOST_LOOKS = 1024
    MOST_NOTES = 4  # with more for each slot, those that mean nothing any more are looked for


cdef int64_t NEVER = 1 << 62


@cython.final
cdef class Deadlines:
    """The deadlines of one stripe's entries. `deadline_of(slot)` tells a slot's, 0: it has none."""

    def __init__(self, deadline_of):
        self._deadline_of = deadline_of
        self._buckets = {}  # slots by the bucket's end
        self._ends = []  # of the buckets there are, and of some that are gone: a heap
        self._noted = array("q")  # by slot: the end of the soonest bucket that has it, 0: none has
        self._notes = 0  # in all buckets
        self._next_to_clean = 0
        self._first = NEVER

    cpdef int add(self, unsigned int slot, double deadline, double ttl) except -1:
        """Note that the entry in this slot is gone at `deadline`, which is `ttl` seconds away."""
        self._note(slot, deadline, ttl)
        if self._notes > MOST_NOTES * len(self._noted):
            self._clean()
        return 0

    cdef int _note(self, unsigned int slot, double deadline, double ttl) except -1:
        cdef int64_t share = <int64_t>(ttl * EIGHTHS / SHARE)
        cdef int64_t width = 1
        cdef int64_t end
        if slot >= len(self._noted):
            self._noted.frombytes(bytes(8 * (slot + slot // 4 + 64 - len(self._noted))))
        while width < WIDEST and 2 * width <= share:
            width *= 2
        end = <int64_t>ceil(deadline * EIGHTHS / width) * width
        if 0 < self._noted.data.as_longlongs[slot] <= end:
            return 0  # it is looked at sooner, and noted anew then
        self._noted.data.as_longlongs[slot] = end
        self._notes += 1
        bucket = self._buckets.get(end)
        if bucket is None:
            self._buckets[end] = array("I", (slot,))
            heapq.heappush(self._ends, end)
            self._tell_first()
        else:
            bucket.append(slot)
        return 0

    def due(self, double now, limit):
        """Take out and return the slots of entries that are gone, after at most `limit` looks.

        An empty list means that nothing is due, or that nothing was found in so many looks:
        `has_due` tells. No slot is named twice.
        """
        found = {}
        units = now * UNITS
        while limit > 0 and self._ends and self._ends[0] <= units:
            end = self._ends[0]
            slots = self._buckets[end] if end in self._buckets else None
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

    def has_due(self, double now):
        """Tell whether a bucket is due. Needs no lock, but may be wrong then, by an instant."""
        return number_get(&self._first) <= now * EIGHTHS

    def soonest(self):
        """Return the slot of an entry that is gone as soon as any other, 0 where all stay.

        As soon, that is, but for a bucket's width. 0 also where none was found in a thousand looks,
        since all of them have later deadlines by now: those are noted anew.
        """
        looks = 0
        while self._ends and looks < MOST_LOOKS:
            end = self._ends[0]
            slots = self._buckets[end] if end in self._buckets else None
            best, best_deadline = 0, math.inf
            at = good = 0
            while slots and at < len(slots) and good < CHOICE and looks < MOST_LOOKS:
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

    def _pop(self, slots):
        self._notes -= 1
        return slots.pop()

    def _drop_first(self):
        self._buckets.pop(heapq.heappop(self._ends), None)
        self._tell_first()

    cdef int _tell_first(self) except -1:
        """Have `has_due` see the first of the buckets' ends."""
        number_set(&self._first, self._ends[0] if self._ends else NEVER)
        return 0

    def _clean(self):
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
            self._tell_first()
