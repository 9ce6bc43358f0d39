from libc.stdint cimport int64_t

from cacheserver.store.atomic cimport PyMutex

cdef class Mutex:
    cdef PyMutex mutex
    cdef object watched  # a lock in the place of the mutex, None: the mutex
    cdef int take_if_free(self) except -1
    cdef int wait(self) except -1
    cdef int give_back(self) except -1

cdef class Latch(Mutex):
    cdef int is_closed
    cdef int64_t taken  # times
    cdef int64_t held_since  # nanoseconds, 0: this hold is not timed
    cdef int64_t last_waited
    cdef int64_t last_wait_end
    cdef readonly object gate
    cdef readonly object waits
    cdef readonly object queued
    cdef readonly object holds
    cdef PyMutex observers  # guards objects that the holder replaces while others look at them
    cdef object _cause
    cdef int64_t enter(self) except -1
    cdef int leave(self) except -1
    cdef int _check_held(self) except -1
    cdef void count(self) noexcept

cdef class WaitCount:
    cdef public int64_t count
    cdef public int64_t nanoseconds
