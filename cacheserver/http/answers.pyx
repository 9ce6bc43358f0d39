"""Answers on their way: written one behind the other into room that is used again.

What is asked most has a method of its own here, and its headers stand here in the order in which
`cacheserver.http.kv` has them: that is the reference, and the parity suite compares. The words of
problem documents are taken from there, once (`Document`).

An object for each event loop, for its thread alone.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, strlen

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from cacheserver.http import kv
from cacheserver.store.entry import COMMON_CONTENT_TYPES
from cacheserver.store.outcomes import Missing

cdef extern from *:
    """
    #include <sys/socket.h>
    #ifndef MSG_NOSIGNAL /* macOS has none; Python ignores the signal anyway */
    #define MSG_NOSIGNAL 0
    #endif
    """
    enum:
        MSG_DONTWAIT
        MSG_NOSIGNAL
    Py_ssize_t cs_send "send"(int socket, const char* data, size_t size, int flags) noexcept

cdef enum:
    COPIED_UP_TO = 4096  # bytes of a value from which on it is handed to the transport as it is


def _own(text):
    """Return a copy: threads that refer to one object would meet in its count of references."""
    return bytes(bytearray(text))


def _lines(headers):
    return b"".join([b"%b: %b\r\n" % header for header in headers])


def _cut(text, *marks):
    """Return what stands around the marks, which stand there in this order and nowhere else."""
    pieces = []
    if any(text.count(mark) != marks.count(mark) for mark in marks):
        raise ValueError(f"{marks!r} must stand in {text!r}")
    for mark in marks:
        piece, _, text = text.partition(mark)
        pieces.append(piece)
    return [*pieces, text]


cdef class Document:
    """A problem document of which all is known but a few words: what stands around those."""

    def __init__(self, answer, in_head, in_body):
        *headers, (name, _) = answer.raw_headers
        assert name == b"content-length"
        self.status_line = _own(STATUS_LINE[answer.status_code])
        self.head = _cut(_lines(headers) + b"content-length: ", *in_head)
        self.body = _cut(answer.body, *in_body)
        self.size = sum([len(piece) for piece in self.body])


def _value_lines(content_type):
    """Return the headers of a value of this type that follow Cache-Control."""
    headers = kv.value(b"", b"", content_type.encode("ascii"), b"").raw_headers
    return _lines(headers[2 : len(headers) - 1]) + b"content-length: "


cdef int _digits(char* room, int64_t number) noexcept:
    """Write a number to the end of 21 bytes; return how many are left before it."""
    cdef uint64_t left = <uint64_t>number if number >= 0 else -<uint64_t>number
    cdef int at = 21
    while True:
        at -= 1
        room[at] = <char>(c"0" + left % 10)
        left //= 10
        if not left:
            break
    if number < 0:
        at -= 1
        room[at] = c"-"
    return at


cdef int _length(int64_t number) noexcept:
    cdef char[21] room
    return 21 - _digits(room, number)


cdef bint _is_plain(str text):
    """Tell whether `repr` shows it between ' as it is, and JSON that without an escape."""
    quotes = "'" in text or '"' in text or "\\" in text
    return text.isascii() and text.isprintable() and not quotes


@cython.final
cdef class Answers:
    """Answers that wait to be sent together."""

    def __cinit__(self):
        self._room = NULL
        self._capacity = self._size = 0
        self._pieces = []
        self._start = b""

    def __init__(self):
        self._ok, self._created = _own(STATUS_LINE[200]), _own(STATUS_LINE[201])
        self._no_content, self._not_modified = _own(STATUS_LINE[204]), _own(STATUS_LINE[304])
        self._common_types = [_value_lines(text) for text in COMMON_CONTENT_TYPES]
        version = 9007199254740881  # stands nowhere else
        mark = b"%d" % version
        conflict = kv.conflict((b"", version, 0, "", 0))
        self._conflict = Document(conflict, [mark], [mark, mark])
        missing = kv.missing(Missing(), "<namespace>", "<key>")
        self._missing = Document(missing, [], [b"<key>", b"<namespace>"])

    def __dealloc__(self):
        free(self._room)

    def refresh(self, default_headers):
        """Have answers begin with these headers from now on."""
        self._start = _lines(default_headers)

    # Pieces

    cdef int put(self, const char* at, Py_ssize_t size) except -1:
        """Add some bytes."""
        cdef Py_ssize_t needed = self._size + size
        if needed > self._capacity:
            self._grow(needed)
        memcpy(self._room + self._size, at, size)
        self._size = needed
        return 0

    cdef int _grow(self, Py_ssize_t needed) except -1:
        cdef Py_ssize_t capacity = max(2 * self._capacity, needed, 4096)
        cdef char* room = <char*>realloc(self._room, capacity)
        if room == NULL:
            raise MemoryError
        self._room = room
        self._capacity = capacity
        return 0

    cdef int put_bytes(self, bytes text) except -1:
        """Add some bytes."""
        return self.put(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))

    cdef int put_number(self, int64_t number) except -1:
        """Add a number in decimal digits."""
        cdef char[21] room
        cdef int at = _digits(room, number)
        return self.put(room + at, 21 - at)

    cdef int _text(self, const char* text) except -1:
        return self.put(text, <Py_ssize_t>strlen(text))

    cdef int begin(self, bytes status_line) except -1:
        """Begin an answer: its status line, and what all have."""
        self.put_bytes(status_line)
        return self.put_bytes(self._start)

    cdef int _tag(self, uint64_t version) except -1:
        self._text(b'etag: "')
        self.put_number(<int64_t>version)
        return self._text(b'"\r\n')

    cdef int _caching(self, double seconds_left) except -1:
        if seconds_left < 0:
            return self._text(b"cache-control: no-cache\r\n")
        self._text(b"cache-control: max-age=")
        self.put_number(<int64_t>seconds_left)
        return self._text(b"\r\n")

    # Answers

    cdef int put_value(
        self,
        bint is_head,
        const char* value,
        Py_ssize_t size,
        object whole,
        uint64_t version,
        int code,
        double seconds_left,
    ) except -1:
        """Give a value of a common content type.

        `whole` is that value as bytes, if it is there as such. `seconds_left` is below 0 for one
        that stays.
        """
        self.begin(self._ok)
        self._tag(version)
        self._caching(seconds_left)
        self.put_bytes(<bytes>self._common_types[code])
        self.put_number(size)
        self._text(b"\r\n\r\n")
        if is_head:
            return 0
        if size < COPIED_UP_TO:
            return self.put(value, size)
        return self._put_whole(PyBytes_FromStringAndSize(value, size) if whole is None else whole)

    cdef int _put_whole(self, bytes value) except -1:
        self._pieces += (PyBytes_FromStringAndSize(self._room, self._size), value)
        self._size = 0
        return 0

    cdef int put_unchanged(self, uint64_t version, double seconds_left) except -1:
        """Tell that the value is still of this version."""
        self.begin(self._not_modified)
        self._tag(version)
        self._caching(seconds_left)
        return self._text(b"\r\n")

    cdef int put_written(self, bint created, uint64_t version) except -1:
        """Tell the new version."""
        self.begin(self._created if created else self._no_content)
        self._tag(version)
        return self._text(b"content-length: 0\r\n\r\n" if created else b"\r\n")

    cdef int put_deleted(self) except -1:
        """Tell that the key is gone."""
        self.begin(self._no_content)
        return self._text(b"\r\n")

    cdef int put_changed(self, const char* what, int64_t number, uint64_t version) except -1:
        """Tell what a number, or a length, is now."""
        self.begin(self._ok)
        self._text(b"content-type: application/json\r\n")
        self._tag(version)
        self._text(b"content-length: ")
        self.put_number(16 + <int64_t>strlen(what) + _length(number) + _length(<int64_t>version))
        self._text(b'\r\n\r\n{"')
        self._text(what)
        self._text(b'":')
        self.put_number(number)
        self._text(b',"version":')
        self.put_number(<int64_t>version)
        return self._text(b"}")

    cdef int put_missing(self, bint is_head, str space, str key) except -1:
        """Tell that the key is not there."""
        cdef Document document = self._missing
        if not _is_plain(key):
            return self.put_answer(is_head, kv.missing(Missing(), space, key))
        self.begin(document.status_line)
        self.put_bytes(<bytes>document.head[0])
        self.put_number(document.size + len(key) + len(space))
        self._text(b"\r\n\r\n")
        if not is_head:
            self.put_bytes(<bytes>document.body[0])
            self.put_bytes(key.encode("ascii"))
            self.put_bytes(<bytes>document.body[1])
            self.put_bytes(space.encode("ascii"))
            self.put_bytes(<bytes>document.body[2])
        return 0

    cdef int put_conflict(self, bint is_head, uint64_t version) except -1:
        """Tell that the condition doesn't hold, as the key has this version."""
        cdef Document document = self._conflict
        self.begin(document.status_line)
        self.put_bytes(<bytes>document.head[0])
        self.put_number(<int64_t>version)
        self.put_bytes(<bytes>document.head[1])
        self.put_number(document.size + 2 * _length(<int64_t>version))
        self._text(b"\r\n\r\n")
        if not is_head:
            self.put_bytes(<bytes>document.body[0])
            self.put_number(<int64_t>version)
            self.put_bytes(<bytes>document.body[1])
            self.put_number(<int64_t>version)
            self.put_bytes(<bytes>document.body[2])
        return 0

    cdef int put_answer(self, bint is_head, object answer) except -1:
        """Add an `Answer`, whatever it says."""
        lines = _lines(answer.raw_headers)
        self.begin(STATUS_LINE[answer.status_code])
        self.put_bytes(lines)
        self._text(b"\r\n")
        if is_head:
            return 0
        if len(answer.body) < COPIED_UP_TO:
            return self.put_bytes(answer.body)
        return self._put_whole(answer.body)

    cdef int clear(self) except -1:
        """Forget what is not sent: where a batch failed midway, it was for somebody else."""
        self._size = 0
        if self._pieces:
            self._pieces = []
        return 0

    cdef Py_ssize_t mark(self) noexcept:
        """Return where the next answer begins, for `rewind`."""
        return self._size

    cdef void rewind(self, Py_ssize_t mark) noexcept:
        """Take back what was written of an answer that failed. What a large value ends is whole."""
        if self._size > mark:
            self._size = mark

    cdef int send(self, int socket, object write, object transport) except -1:
        """Send all at once: by the socket, unless that is -1; what it leaves by the transport.

        `write` is the method of that name, which takes longer than the socket. A transport that is
        closing gets nothing: asyncio's would ask for a closed socket to be watched.
        """
        cdef Py_ssize_t size = self._size
        cdef Py_ssize_t sent = 0
        cdef list pieces = self._pieces
        self._size = 0
        if transport.is_closing():
            self._pieces = []
            return 0
        if pieces:
            self._pieces = []
            if size:
                pieces.append(PyBytes_FromStringAndSize(self._room, size))
            transport.writelines(pieces)
            return 0
        if socket >= 0 and not transport.get_write_buffer_size():
            # An error is the transport's, which meets it again.
            sent = max(0, cs_send(socket, self._room, size, MSG_DONTWAIT | MSG_NOSIGNAL))
        if sent < size:
            write(PyBytes_FromStringAndSize(self._room + sent, size - sent))
        return 0
