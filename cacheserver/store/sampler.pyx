"""What a thread notes of keys that it meets: samples of reads and writes, all conflicts and waits.

A `ThreadHeat` and the samplers that add to it are one thread's own. Others may take `periods` at
any time, and read the sketches that are in them.
"""

from random import Random

from libc.stdint cimport int64_t
from libc.math cimport floor

from cacheserver.store.counts cimport Counts
from cacheserver.store.latch cimport Mutex
from cacheserver.store.spacesaving cimport SpaceSaving

WINDOW = 30.0
"""Seconds of a period. What is shown is that of the period before and of the one that goes on."""
CAPACITY = 128
"""Keys that a sketch keeps."""
SAMPLE = 128
"""One in so many reads and writes is noted. A power of two."""
UNSAMPLED = 1 << 62
"""A count that is never reached: where nothing is sampled, this is when the next sample is due."""

cdef enum:
    READS = 0
    WRITES = 1
    CONFLICTS = 2
    WAITS = 3
    KINDS = 4

cdef double _WINDOW = WINDOW
cdef int _GAP_BITS = SAMPLE.bit_length()


cdef class Period:
    """What was met in one period of WINDOW seconds: a sketch for each kind.

    `sketches` may be replaced before anybody else knows the period.
    """

    def __init__(self, number):
        self.number = number
        self.sketches = tuple([SpaceSaving(CAPACITY) for _ in range(KINDS)])


cdef class ThreadHeat:
    """What one thread met, in the period that goes on and in the last one before."""

    def __init__(self, monotonic):
        self._monotonic = monotonic
        self._bits = Random().getrandbits
        self._periods = ()
        self._observers = Mutex()
        self._begin_period(monotonic())

    @property
    def periods(self):
        """The periods, the latest first. Replaced as a whole, for others to read."""
        self._observers.wait()
        periods = self._periods
        self._observers.give_back()
        return periods

    cpdef int add(self, int kind, item, int64_t weight=1) except -1:
        """Note something of a kind, which is given by its place in `heat.KINDS`."""
        cdef double now = self._monotonic()
        if not 0 <= kind < KINDS:
            raise IndexError(f"there is no kind {kind}")
        if now >= self._end:
            self._begin_period(now)
        return (<SpaceSaving>self._sketches[kind]).add(item, weight)

    def gap(self):
        """Return how many to count to the next that is looked at: 1 to twice SAMPLE, the mean.

        All are as likely, but SAMPLE itself twice. So it leads to each place in a load that comes
        round after a power of two as often as to any other.
        """
        return self._bits(_GAP_BITS) or SAMPLE

    def _begin_period(self, double now):
        period = Period(int(floor(now / _WINDOW)))
        periods = (period, *self._periods[:1])
        self._observers.wait()
        _before, self._periods = self._periods, periods
        self._observers.give_back()
        self._sketches = period.sketches
        self._end = (period.number + 1) * _WINDOW


cdef class Sampler:
    """What one view tells of the keys that it meets: nothing. For views without a store."""

    def __cinit__(self):
        self.due = Counts(3)
        """The counts of hits, misses and writes at which the next one is to be told."""
        for at in range(3):
            self.due[at] = UNSAMPLED

    cpdef int read(self, key, int found) except -1:
        """Tell of a read whose count was due, `found` being its place: 0 hits, 1 misses."""
        return 0

    cpdef int wrote(self, key) except -1:
        """Tell of a write whose count was due."""
        return 0

    cpdef int conflict(self, key) except -1:
        """Tell of a write that was refused by its condition: of every one."""
        return 0

    cpdef int waited(self, key, int64_t nanoseconds) except -1:
        """Tell of a wait for the lock of the key's stripe, or for the whole: of every one."""
        return 0


cdef class KeySampler(Sampler):
    """Tells the heat of the view's thread. `counts` are the view's own: hits, misses, writes."""

    def __init__(self, namespace, Counts counts not None, ThreadHeat heat not None):
        self._namespace = namespace
        self._counts = counts
        self._heat = heat
        # As one who comes by at any time finds it: the rest of a gap, of longer ones more often.
        for at in range(3):
            self.due[at] = counts[at] + min(heat.gap(), heat.gap())

    cpdef int read(self, key, int found) except -1:
        """Note a read, and when the next one is due."""
        self.due[found] = self._counts[found] + self._heat.gap()
        return self._heat.add(READS, (self._namespace, key))

    cpdef int wrote(self, key) except -1:
        """Note a write, and when the next one is due."""
        self.due[2] = self._counts[2] + self._heat.gap()
        return self._heat.add(WRITES, (self._namespace, key))

    cpdef int conflict(self, key) except -1:
        """Note a conflict."""
        return self._heat.add(CONFLICTS, (self._namespace, key))

    cpdef int waited(self, key, int64_t nanoseconds) except -1:
        """Note a wait."""
        return self._heat.add(WAITS, (self._namespace, key), nanoseconds)
