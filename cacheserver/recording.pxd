"""What `cacheserver.recording` gives to other compiled modules."""

from libc.stdint cimport int64_t

cdef enum:
    METHODS_KNOWN = 8
    STATUSES = 500
    BUCKETS = 22

cdef class RequestCounts:
    cdef int64_t requests[METHODS_KNOWN][STATUSES]
    cdef int64_t buckets[BUCKETS]
    cdef int64_t taken
    cdef int64_t was_busy

    cdef void count(self, int method, int status) noexcept
    cdef void time(self, int64_t nanoseconds, int64_t number) noexcept

cpdef int index_of(str method)
