"""What `cacheserver.http.answers` gives to other compiled modules."""

cimport cython
from libc.stdint cimport int64_t, uint64_t

cdef class Document:
    cdef list head
    cdef list body
    cdef bytes status_line
    cdef Py_ssize_t size


@cython.final
cdef class Answers:
    cdef char* _room
    cdef Py_ssize_t _capacity
    cdef Py_ssize_t _size
    cdef list _pieces
    cdef bytes _start
    cdef bytes _ok
    cdef bytes _created
    cdef bytes _no_content
    cdef bytes _not_modified
    cdef list _common_types
    cdef Document _missing
    cdef Document _conflict

    cdef int begin(self, bytes status_line) except -1
    cdef int _grow(self, Py_ssize_t needed) except -1
    cdef int _text(self, const char* text) except -1
    cdef int _tag(self, uint64_t version) except -1
    cdef int _caching(self, double seconds_left) except -1
    cdef int _put_whole(self, bytes value) except -1
    cdef int put(self, const char* at, Py_ssize_t size) except -1
    cdef int put_bytes(self, bytes text) except -1
    cdef int put_number(self, int64_t number) except -1
    cdef int put_value(
        self,
        bint is_head,
        const char* value,
        Py_ssize_t size,
        object whole,
        uint64_t version,
        int code,
        double seconds_left,
    ) except -1
    cdef int put_unchanged(self, uint64_t version, double seconds_left) except -1
    cdef int put_written(self, bint created, uint64_t version) except -1
    cdef int put_deleted(self) except -1
    cdef int put_changed(self, const char* what, int64_t number, uint64_t version) except -1
    cdef int put_missing(self, bint is_head, str space, str key) except -1
    cdef int put_conflict(self, bint is_head, uint64_t version) except -1
    cdef int put_answer(self, bint is_head, object answer) except -1
    cdef Py_ssize_t mark(self) noexcept
    cdef int clear(self) except -1
    cdef void rewind(self, Py_ssize_t mark) noexcept
    cdef int send(self, int socket, object write, object transport) except -1
