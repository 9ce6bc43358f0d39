"""What `cacheserver.http.head` gives to other compiled modules."""

from libc.stdint cimport int64_t

cdef enum Operation:
    GET
    PUT
    DELETE
    INCR
    APPEND
    TOUCH

cdef enum Result:
    UNUSUAL
    PARTIAL
    COMPLETE

cdef struct Span:
    const char* at
    Py_ssize_t size

cdef struct Head:
    Py_ssize_t size
    int64_t body
    Operation operation
    bint is_head
    bint is_escaped
    Span space
    Span key
    Span query
    Span content_type
    Span if_match
    Span if_none_match
    Span authorization
    Span traceparent
    unsigned int seen

cdef Result read_head(const char* at, Py_ssize_t received, Head* head) noexcept nogil
cdef bint is_digits(const char* at, Py_ssize_t size) noexcept nogil
