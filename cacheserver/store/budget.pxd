from libc.stdint cimport int64_t

from cacheserver.store.latch cimport Mutex

cdef class Shard(Mutex):
    cdef int64_t kept

cdef class Budget:
    cdef int64_t _limit
    cdef int64_t _in_pool
    cdef int64_t _a_piece
    cdef readonly Mutex _lock
    cdef readonly tuple _shards
    cdef bint take_some(self, int64_t amount, Py_ssize_t hint, bint thorough) except -1
    cdef bint _take_from_pool(self, int64_t amount, Shard shard, bint thorough) except -1
    cdef int _collect_locked(self, tuple shards) except -1

cdef enum Short:
    ENOUGH
    MEMORY
    MAX_BYTES
    MAX_ENTRIES

cdef class Quota:
    cdef readonly Budget memory
    cdef readonly Budget own
    cdef readonly Budget entries
    cdef Short draw(
        self, int64_t size, int64_t entries, Py_ssize_t hint, bint thorough
    ) except <Short>-1
