from libc.stdint cimport int64_t

from cacheserver.store.counts cimport Counts
from cacheserver.store.latch cimport Mutex

cdef class Period:
    cdef readonly int64_t number
    cdef public tuple sketches

cdef class ThreadHeat:
    cdef object _monotonic
    cdef object _bits
    cdef double _end
    cdef tuple _sketches  # of the period that goes on
    cdef tuple _periods
    cdef Mutex _observers  # guards the reference to _periods, which others take
    cpdef int add(self, int kind, item, int64_t weight=*) except -1

cdef class Sampler:
    cdef readonly Counts due
    cpdef int read(self, key, int found) except -1
    cpdef int wrote(self, key) except -1
    cpdef int conflict(self, key) except -1
    cpdef int waited(self, key, int64_t nanoseconds) except -1

cdef class KeySampler(Sampler):
    cdef object _namespace
    cdef Counts _counts
    cdef ThreadHeat _heat
