from libc.stdint cimport int64_t, uint32_t, uint64_t

from cacheserver.store.budget cimport Quota
from cacheserver.store.counts cimport Counts
from cacheserver.store.eviction.slots cimport Slots
from cacheserver.store.expiry cimport Deadlines
from cacheserver.store.latch cimport Latch

cdef struct Done:
    uint64_t version
    bint created
    uint32_t slot

cdef class StripeBase(Latch):
    cdef int64_t _number
    cdef int64_t _version
    cdef int64_t _bytes
    cdef int64_t _expirations
    # Replaced by who holds the latch. Who holds it reads them as they are, others as properties.
    cdef object _data
    cdef Slots _slots
    cdef Deadlines _deadlines
    cdef object _policy
    cdef Quota _quota

cdef class Bound:
    cdef tuple stripes
    cdef tuple dicts
    cdef list marks
    cdef uint64_t mask
    cdef bint marking
    cdef int free

cdef class Way:
    cdef list _bound
    cdef readonly object _shared
    cdef readonly object _room
    cdef readonly object _growth
    cdef readonly object _monotonic
    cdef readonly object _sampler
    cdef readonly Counts _counts
    cdef Counts _due
    cdef bint _packs
    cdef bint _grows_natively
    cdef bint _has_clock
    cdef Bound bound(self)
    cdef double now(self) except -1
    cdef object find(self, object key)
    cdef object find_locked(self, object key)
    cdef object write(
        self, object key, object value, double ttl, bint keep, object content_type,
        object condition, Done* done
    )
    cdef object _write_in(
        self, StripeBase stripe, object key, object value, double ttl, bint keep,
        object content_type, object condition, bint thorough, Done* done, list garbage
    )
    cdef object _write_locked(
        self, StripeBase stripe, object key, object value, double ttl, bint keep,
        object content_type, object condition, bint thorough, Done* done, list garbage
    )
    cdef object remove(self, object key, object condition, Done* done)
    cdef object _remove_locked(
        self, StripeBase stripe, object key, object condition, Done* done, list garbage
    )
    cdef object renew(self, object key, double ttl, object condition, Done* done)
    cdef object _renew_locked(
        self, StripeBase stripe, object key, double ttl, object condition, bint thorough,
        Done* done, list garbage
    )
    cdef object _live_locked(self, StripeBase stripe, object key, double* now, list garbage)
    cdef object _record(
        self, object value, uint64_t version, double deadline, object content_type, uint32_t slot
    )
    cdef int64_t _more(self, object key, object old, object new) except? -1
    cdef int _mark(self, Bound bound, Py_ssize_t at, uint32_t slot) except -1
    cdef int _waited(self, object key, int64_t nanoseconds) except -1

cdef Py_ssize_t place(object key, uint64_t mask) except -1
cdef object written(uint64_t version, bint created)
