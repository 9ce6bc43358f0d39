"""The head of a request for a key, read in one pass.

`read_head` looks at every byte once and at every header by its name. It takes a part of what
HTTP/1.1 allows, in which nothing has two meanings: whoever else reads the same bytes (RFC 9112, the
parser of the connection) reads the same request. All else is UNUSUAL, and for others to judge. So
is whatever may have the app answer otherwise: a header that it looks at and this module does not.

It never reads beyond what was received, and writes to nothing but the `Head` of its caller. CLASSES
is filled when the module is imported and only read afterwards, so threads may call it side by side.
"""

from libc.string cimport memchr, memcmp, memset

cdef enum:
    MOST = 8192
    MOST_OF_NAMESPACE = 64
    MOST_OF_KEY = 1024
    MOST_OF_QUERY = 1024

MAX_HEAD = MOST
"""Bytes of a request's head that are looked at here: what is longer is left to the parser."""

cdef enum:
    IN_NAMESPACE = 1
    IN_KEY = 2
    IN_QUERY = 4
    IN_NAME = 8
    IN_VALUE = 16

cdef unsigned char CLASSES[256]  # by a byte: where it may stand


cdef void _allow(bytes characters, int where):
    for byte in characters:
        CLASSES[byte] |= where


_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_DIGITS = b"0123456789"
_PRINTABLE = bytes(range(0x21, 0x7F))

_allow(_LETTERS + _DIGITS + b"._-", IN_NAMESPACE)
_allow(_PRINTABLE.translate(None, b"#?"), IN_KEY)
_allow(_PRINTABLE.translate(None, b"#"), IN_QUERY)
_allow(_LETTERS + _DIGITS + b"!#$%&'*+-.^_`|~", IN_NAME)
_allow(b"\t " + _PRINTABLE + bytes(range(0x80, 0x100)), IN_VALUE)


cdef struct Beginning:
    const char* text
    Py_ssize_t size
    Operation operation
    bint is_head

cdef Beginning[7] BEGINNINGS
BEGINNINGS[0] = Beginning(b"GET /v1/kv/", 11, GET, False)
BEGINNINGS[1] = Beginning(b"HEAD /v1/kv/", 12, GET, True)
BEGINNINGS[2] = Beginning(b"PUT /v1/kv/", 11, PUT, False)
BEGINNINGS[3] = Beginning(b"DELETE /v1/kv/", 14, DELETE, False)
BEGINNINGS[4] = Beginning(b"POST /v1/incr/", 14, INCR, False)
BEGINNINGS[5] = Beginning(b"POST /v1/append/", 16, APPEND, False)
BEGINNINGS[6] = Beginning(b"POST /v1/touch/", 15, TOUCH, False)


cdef enum Field:
    OTHER = 0
    HOST = 1
    CONTENT_LENGTH = 2
    CONTENT_TYPE = 4
    IF_MATCH = 8
    IF_NONE_MATCH = 16
    AUTHORIZATION = 32
    CONNECTION = 64
    TRACEPARENT = 128
    TRACED_TWICE = 256
    FOR_OTHERS = 512


cdef inline bint _is(const char* name, const char* lower, Py_ssize_t size) noexcept nogil:
    """Tell whether a name, of characters that names have, is this one whatever its case."""
    for i in range(size):
        if name[i] | 0x20 != lower[i]:
            return False
    return True


cdef Field _field(const char* name, Py_ssize_t size) noexcept nogil:
    """Return which header this is."""
    if size == 4:
        return HOST if _is(name, b"host", 4) else OTHER
    if size == 6:
        return FOR_OTHERS if _is(name, b"expect", 6) or _is(name, b"origin", 6) else OTHER
    if size == 7:
        return FOR_OTHERS if _is(name, b"upgrade", 7) else OTHER
    if size == 8:
        return IF_MATCH if _is(name, b"if-match", 8) else OTHER
    if size == 10:
        return CONNECTION if _is(name, b"connection", 10) else OTHER
    if size == 11:
        return TRACEPARENT if _is(name, b"traceparent", 11) else OTHER
    if size == 12:
        return CONTENT_TYPE if _is(name, b"content-type", 12) else OTHER
    if size == 13:
        if _is(name, b"if-none-match", 13):
            return IF_NONE_MATCH
        if _is(name, b"authorization", 13):
            return AUTHORIZATION
        return FOR_OTHERS if _is(name, b"content-range", 13) else OTHER
    if size == 14:
        if _is(name, b"content-length", 14):
            return CONTENT_LENGTH
        return FOR_OTHERS if _is(name, b"sec-fetch-site", 14) else OTHER
    if size == 16:
        if _is(name, b"content-encoding", 16) or _is(name, b"proxy-connection", 16):
            return FOR_OTHERS
        return OTHER
    if size == 17:
        return FOR_OTHERS if _is(name, b"transfer-encoding", 17) else OTHER
    return OTHER


cdef bint is_digits(const char* at, Py_ssize_t size) noexcept nogil:
    """Tell whether these are decimal digits, at least one."""
    for i in range(size):
        if not c'0' <= at[i] <= c'9':
            return False
    return size > 0


cdef inline Py_ssize_t _run(const char* at, const char* end, int where) noexcept nogil:
    """Return how many bytes follow that may stand there."""
    cdef const char* here = at
    while here < end and CLASSES[<unsigned char>here[0]] & where:
        here += 1
    return here - at


cdef Result _expect(
    const char** at, const char* end, const char* text, Py_ssize_t size
) noexcept nogil:
    """Go on behind `text`, which must stand there: PARTIAL where only its beginning has come."""
    cdef Py_ssize_t there = min(size, end - at[0])
    if memcmp(at[0], text, there) != 0:
        return UNUSUAL
    at[0] += there
    return COMPLETE if there == size else PARTIAL


cdef Result _part(
    const char** at, const char* end, Span* part, int where, Py_ssize_t most
) noexcept nogil:
    """Go on behind a part of the target, of 1 to `most` bytes."""
    part.at = at[0]
    part.size = _run(at[0], end, where)
    if part.size > most:
        return UNUSUAL
    at[0] += part.size
    if at[0] == end:
        return PARTIAL
    return COMPLETE if part.size else UNUSUAL


cdef Result _read_line(const char** at, const char* end, Head* head) noexcept nogil:
    """Read the request line."""
    cdef Result result = UNUSUAL
    cdef const char* begin = at[0]
    for i in range(7):
        at[0] = begin
        result = _expect(at, end, BEGINNINGS[i].text, BEGINNINGS[i].size)
        if result != UNUSUAL:
            head.operation = BEGINNINGS[i].operation
            head.is_head = BEGINNINGS[i].is_head
            break
    if result != COMPLETE:
        return result
    result = _part(at, end, &head.space, IN_NAMESPACE, MOST_OF_NAMESPACE)
    if result != COMPLETE:
        return result
    result = _expect(at, end, b"/", 1)
    if result != COMPLETE:
        return result
    result = _part(at, end, &head.key, IN_KEY, MOST_OF_KEY)
    if result != COMPLETE:
        return result
    head.is_escaped = memchr(head.key.at, c'%', head.key.size) != NULL
    if at[0][0] == c'?':
        at[0] += 1
        head.query.at = at[0]
        head.query.size = _run(at[0], end, IN_QUERY)
        at[0] += head.query.size
        if head.query.size > MOST_OF_QUERY:
            return UNUSUAL
    return _expect(at, end, b" HTTP/1.1\r\n", 11)


cdef Result _read_header(const char** at, const char* end, Head* head) noexcept nogil:
    """Read one header, with the end of its line."""
    cdef Span name
    cdef Span value
    cdef Result result
    name.at = at[0]
    name.size = _run(at[0], end, IN_NAME)
    at[0] += name.size
    result = _expect(at, end, b":", 1)
    if result != COMPLETE:
        return result
    if not name.size:
        return UNUSUAL
    while at[0] < end and (at[0][0] == c' ' or at[0][0] == c'\t'):
        at[0] += 1
    value.at = at[0]
    value.size = _run(at[0], end, IN_VALUE)
    at[0] += value.size
    result = _expect(at, end, b"\r\n", 2)
    if result != COMPLETE:
        return result
    return _take_header(head, _field(name.at, name.size), &value)


cdef Result _take_header(Head* head, Field field, Span* value) noexcept nogil:
    """Note what a header says. What is given twice is for others; a trace given twice is none."""
    cdef Py_ssize_t sent = value.size
    if field == OTHER:
        return COMPLETE
    while value.size and (value.at[value.size - 1] == c' ' or value.at[value.size - 1] == c'\t'):
        value.size -= 1
    if field == TRACEPARENT:
        head.seen |= TRACED_TWICE if head.seen & TRACEPARENT else TRACEPARENT
        head.traceparent = value[0]
        if head.seen & TRACED_TWICE:
            head.traceparent.size = 0
        return COMPLETE
    if field == FOR_OTHERS or head.seen & field:
        return UNUSUAL
    head.seen |= field
    if field == CONTENT_LENGTH:
        # Of blanks behind it, parsers think differently.
        if value.size != sent or value.size > 18 or not is_digits(value.at, value.size):
            return UNUSUAL
        for i in range(value.size):
            head.body = 10 * head.body + value.at[i] - c'0'
    elif field == CONNECTION:
        if sent != 10 or not _is(value.at, b"keep-alive", 10):
            return UNUSUAL
    elif field == CONTENT_TYPE:
        head.content_type = value[0]
    elif field == IF_MATCH:
        head.if_match = value[0]
    elif field == IF_NONE_MATCH:
        head.if_none_match = value[0]
    elif field == AUTHORIZATION:
        head.authorization = value[0]
    return COMPLETE


cdef Result _read_all(const char** at, const char* end, Head* head) noexcept nogil:
    cdef Result result = _read_line(at, end, head)
    while result == COMPLETE:
        if at[0] < end and at[0][0] == c'\r':
            result = _expect(at, end, b"\r\n", 2)
            if result == COMPLETE and not head.seen & HOST:
                return UNUSUAL
            return result
        result = _read_header(at, end, head)
    return result


cdef Result read_head(const char* at, Py_ssize_t received, Head* head) noexcept nogil:
    """Read the head that begins at `at`, where so many bytes were received.

    COMPLETE: `head` says it all, its parts point into what was received; those that are not there
    have no address. PARTIAL: what was received is the beginning of such a head.
    """
    cdef const char* here = at
    cdef Result result
    memset(head, 0, sizeof(Head))
    result = _read_all(&here, at + min(received, MOST), head)
    if result == PARTIAL and received >= MOST:
        return UNUSUAL
    head.size = here - at
    return result
