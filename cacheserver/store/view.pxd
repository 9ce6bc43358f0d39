from cacheserver.store.counts cimport Counts
from cacheserver.store.sampler cimport Sampler
from cacheserver.store.way cimport Done, Way

cdef class NamespaceView:
    cdef readonly Way entries
    cdef readonly Counts _counts
    cdef Sampler _sampler
    cdef Counts _due
    cdef double _default_ttl
    cdef int _require_cas
    cdef object __weakref__
    cdef object find(self, str key)
    cdef object write(
        self, str key, bytes value, object ttl, str content_type, object condition, Done* done
    )
    cdef int _wrote(self, object key) except -1
    cdef int _refused(self, object key) except -1
    cpdef check_condition(self, condition)
    cpdef delete(self, key, condition)
    cpdef touch(self, key, ttl, condition)
