"""Limits on memory and on entries, shared by many stripes that don't meet at one counter.

Guarantees:
- What is taken and not given back never exceeds the limit, unless the limit itself was lowered.
- A thorough taking fails only if the limit would be passed: what other shards keep is collected
  first.

A write touches one of SHARDS, each with a lock of its own, and that has a piece of the limit to
hand out. Only when the piece is used up, or too much has come back, does it go to the pool. A
writer that can make room by itself doesn't ask thoroughly: at the limit, where a cache spends its
life, it takes what it just gave back, and nobody waits for it.
"""

from typing import Literal

from cpython.object cimport PyObject
from libc.stdint cimport int64_t

from cacheserver.store.atomic cimport number_get, number_set
from cacheserver.store.latch cimport Mutex

cdef extern from "Python.h":
    PyObject* PyTuple_GET_ITEM(PyObject* items, Py_ssize_t at)

cdef enum:
    NUMBER_OF_SHARDS = 16  # a power of two

SHARDS = NUMBER_OF_SHARDS
MAX_LIMIT = 1 << 60
Reason = Literal["memory", "max_bytes", "max_entries"]
"""Which limit was in the way."""
REASONS = ("memory", "max_bytes", "max_entries")


def check_limit(name, limit):
    """Raise ValueError unless `limit` is an integer from 1 to MAX_LIMIT."""
    if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= MAX_LIMIT:
        raise ValueError(f"{name} is a whole number from 1 to {MAX_LIMIT}, not {limit!r}")


cdef class Shard(Mutex):
    """A piece of a limit, and the lock that guards it."""

    @property
    def free(self):
        """What is left of it."""
        return number_get(&self.kept)


cdef class Budget:
    """So many bytes, or entries, for any number of threads; `used` of them are taken already."""

    def __init__(self, limit, used=0):
        check_limit("a limit", limit)
        self._limit = limit
        # Guards what follows; taken before the shards' locks, and those in order.
        self._lock = Mutex()
        self._in_pool = limit - used  # below 0 where more is taken than a lowered limit allows
        # Where nothing is left all that comes back is the pool's.
        self._a_piece = 0 if self._in_pool < 0 else limit // (64 * NUMBER_OF_SHARDS)
        self._shards = tuple([Shard() for _ in range(NUMBER_OF_SHARDS)])

    @property
    def limit(self):
        """How much there is."""
        return self._limit

    def take(self, amount, hint, thorough=True):
        """Take `amount`, or give it back where it is negative, which always succeeds.

        Returns False, with nothing taken, where there is not so much; where not `thorough`, also if
        other shards would have to be asked for theirs. `hint` spreads callers over the shards: any
        number, the same for the same stripe.
        """
        return self.take_some(amount, hint, thorough)

    cdef bint take_some(self, int64_t amount, Py_ssize_t hint, bint thorough) except -1:
        # Not counted as a reference: a budget keeps its shards as long as it lives.
        cdef PyObject* at = PyTuple_GET_ITEM(
            <PyObject*>self._shards, hint & (NUMBER_OF_SHARDS - 1)
        )
        cdef int64_t free, pool
        if not (<Shard>at).take_if_free():
            (<Shard>at).wait()
        free = (<Shard>at).kept - amount
        if 0 <= free <= 2 * number_get(&self._a_piece):
            number_set(&(<Shard>at).kept, free)
            (<Shard>at).give_back()
            return True
        free += amount
        (<Shard>at).give_back()
        # What another thread is about to give to the pool doesn't matter to one that isn't
        # thorough.
        pool = number_get(&self._in_pool)
        if amount > 0 and not thorough and pool + free < amount:
            return False
        return self._take_from_pool(amount, <Shard>at, thorough)

    def used(self):
        """Return what is taken, as of one instant."""
        self._lock.wait()
        try:
            self._collect_locked(self._shards)
            return self._limit - self._in_pool
        finally:
            self._lock.give_back()

    cdef bint _take_from_pool(self, int64_t amount, Shard shard, bint thorough) except -1:
        cdef int64_t piece, pool
        self._lock.wait()
        try:
            self._collect_locked((shard,))
            if amount > self._in_pool and thorough:
                self._collect_locked(self._shards)
            if amount > 0 and amount > self._in_pool:
                return False
            pool = self._in_pool - amount
            if pool >= 0:
                number_set(&self._a_piece, self._limit // (64 * NUMBER_OF_SHARDS))
            piece = max(<int64_t>0, min(self._a_piece, pool))
            number_set(&self._in_pool, pool - piece)
            shard.wait()
            number_set(&shard.kept, shard.kept + piece)
            shard.give_back()
            return True
        finally:
            self._lock.give_back()

    cdef int _collect_locked(self, tuple shards) except -1:
        """Take all that these shards have, at one instant."""
        cdef Shard shard
        cdef list taken = []
        try:
            for shard in shards:
                shard.wait()
                taken.append(shard)
            for shard in shards:
                number_set(&self._in_pool, self._in_pool + shard.kept)
                number_set(&shard.kept, 0)
        finally:
            for shard in taken:
                shard.give_back()
        return 0


cdef tuple _reasons = (None, *REASONS)


cdef class Quota:
    """What the writes to one dict draw on: each of these budgets, where there is one.

    `memory` is bytes, shared with other dicts, `own` bytes of this dict, `entries` their number.
    """

    def __init__(self, Budget memory=None, Budget own=None, Budget entries=None):
        self.memory = memory
        self.own = own
        self.entries = entries

    def take(self, size, entries, hint, thorough):
        """Take so many bytes and entries from all budgets, or nothing from any.

        Returns which budget has not so much, None where all had. Negative numbers give back.
        """
        return _reasons[self.draw(size, entries, hint, thorough)]

    cdef Short draw(
        self, int64_t size, int64_t entries, Py_ssize_t hint, bint thorough
    ) except <Short>-1:
        # Its budgets are never replaced, so that no reference to them is counted.
        cdef PyObject* memory = <PyObject*>self.memory
        cdef PyObject* own = <PyObject*>self.own
        cdef PyObject* number = <PyObject*>self.entries
        cdef PyObject* none = <PyObject*>None
        if size > 0:
            if memory != none and not (<Budget>memory).take_some(size, hint, thorough):
                return MEMORY
            if own != none and not (<Budget>own).take_some(size, hint, thorough):
                if memory != none:
                    (<Budget>memory).take_some(-size, hint, True)
                return MAX_BYTES
        if number != none and entries and not (<Budget>number).take_some(entries, hint, thorough):
            if size > 0:
                self.draw(-size, 0, hint, True)
            return MAX_ENTRIES
        if size < 0:  # the last: what is given back can't be had again for sure
            if memory != none:
                (<Budget>memory).take_some(size, hint, True)
            if own != none:
                (<Budget>own).take_some(size, hint, True)
        return ENOUGH

    def budget(self, reason):
        """Return the budget of that name, None where there is none."""
        if reason == "memory":
            return self.memory
        return self.own if reason == "max_bytes" else self.entries
