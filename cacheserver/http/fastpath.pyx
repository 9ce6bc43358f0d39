"""The way in: requests for one key, from the bytes that came to the bytes that go, compiled.

It answers what `read_head` understands and what is valid; all else it leaves to the connection's
parser and the ASGI app, on the same connection. Its answers are those of the app, byte for byte:
what is asked most is written by `Answers`, the rest is asked of `cacheserver.operations` and
answered by `cacheserver.http.kv`, as the app does.

One `FastPath` for each event loop, made and used in that loop's thread alone, with the connections
of that loop: they rely on no atomicity, and on no GIL. What other threads change, namespaces and
records, is the store's, which says so itself; a record is owned here while its fields are read.
"""

import logging
import sys

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcmp, memcpy

from cacheserver.http.answers cimport Answers
from cacheserver.http.head cimport (
    APPEND,
    COMPLETE,
    DELETE,
    GET,
    INCR,
    PARTIAL,
    PUT,
    TOUCH,
    UNUSUAL,
    Head,
    Operation,
    Result,
    Span,
    is_digits,
    read_head,
)
from cacheserver.recording cimport RequestCounts, index_of
from cacheserver.store.atomic cimport clock_ns, tuple_of
from cacheserver.store.latch cimport WaitCount
from cacheserver.store.record cimport Fields, content_type_of, entry_of, put_item, read_fields
from cacheserver.store.view cimport NamespaceView
from cacheserver.store.way cimport Done

from cacheserver import operations
from cacheserver.errors import CacheServerError, NamespaceGone
from cacheserver.http import bodies, conditions, kv, problems, target
from cacheserver.http.messages import problem
from cacheserver.http.routes import ROUTES
from cacheserver.http.timing import trace_id
from cacheserver.store.entry import COMMON_CONTENT_TYPES, DEFAULT_CONTENT_TYPE, KEEP
from cacheserver.store.locks import WAITS, WaitLog
from cacheserver.store.names import MAX_TTL, check_key
from cacheserver.store.outcomes import Condition, Deleted

cdef enum:
    TOGETHER = 64  # requests that are answered before anything is sent
    LARGE_VALUE = 65536

LARGE = LARGE_VALUE
"""Bytes of a value behind which no other is prepared before the client has taken some: what waits
in answers is kept in memory, also when it is written anew meanwhile."""

OPERATIONS = ("get", "put", "delete", "incr", "append", "touch")
"""What is answered here, in the order of `Operation`."""

_log = logging.getLogger(__name__)

cdef tuple _METHODS = ("GET", "PUT", "DELETE", "POST", "POST", "POST")
cdef tuple _QUERIES = tuple([
    next(route.query for route in ROUTES if route.operation == each) for each in OPERATIONS
])
cdef int[6] _NUMBERS
for _each in range(6):
    _NUMBERS[_each] = index_of(_METHODS[_each])
cdef int _HEAD = index_of("HEAD")

# Interned text is immortal where there is no GIL: no reference to it is counted.
cdef tuple _types = tuple([sys.intern(text) for text in COMMON_CONTENT_TYPES])
cdef tuple _raw_types = tuple([text.encode() for text in _types])
cdef enum:
    COMMON = 7  # content types
assert len(_types) == COMMON and COMMON_CONTENT_TYPES[0] == DEFAULT_CONTENT_TYPE
cdef PyObject* _type[COMMON]
cdef Span[COMMON] _type_text
for _each in range(COMMON):
    _type[_each] = <PyObject*>_types[_each]
    _type_text[_each].at = PyBytes_AS_STRING(<bytes>_raw_types[_each])
    _type_text[_each].size = len(_raw_types[_each])

cdef object _Condition = Condition
cdef double _LONGEST = MAX_TTL
cdef uint64_t _MAX_VERSION = target.MAX_VERSION


# What a request asks for.

cdef enum Tagging:
    ABSENT
    ANY
    VERSION
    SPECIAL

cdef struct Tag:
    Tagging kind
    uint64_t version


cdef inline bytes _bytes(Span* span):
    return PyBytes_FromStringAndSize(span.at, span.size)


cdef bint _read_version(const char* at, Py_ssize_t size, uint64_t* version) noexcept:
    """Read a version of a tag as we write them; tell whether it is one."""
    if not is_digits(at, size) or size > 16 or at[0] == c"0":
        return False
    version[0] = 0
    for i in range(size):
        version[0] = 10 * version[0] + <uint64_t>(at[i] - c"0")
    return True


cdef bint _read_tag(Span* field, Tag* tag) noexcept:
    """Read a condition that is not there or has a plain form; tell whether that was so."""
    cdef const char* at = field.at
    cdef Py_ssize_t size = field.size
    tag.kind = ABSENT
    if at == NULL:
        return True
    if size == 1 and at[0] == c"*":
        tag.kind = ANY
        return True
    tag.kind = VERSION
    return (
        size > 2
        and at[0] == c'"'
        and at[size - 1] == c'"'
        and _read_version(at + 1, size - 2, &tag.version)
    )


cdef class Wish:
    """What a request asks for. One object serves all requests of a loop, in turn."""

    cdef str space
    cdef str key
    cdef Tag wanted
    cdef Tag news
    cdef object special_wanted
    cdef object special_news
    cdef object cas
    cdef object ttl
    cdef int64_t by
    cdef int64_t initial
    cdef str content_type

    cdef int read(self, Head* head) except -1:
        """Take what stands in a head. Raises what `target`, `conditions` and `bodies` raise."""
        self.space = PyUnicode_DecodeASCII(head.space.at, head.space.size, NULL)
        if head.is_escaped:
            self.key = target.decode(_bytes(&head.key))
            check_key(self.key)
        else:
            self.key = PyUnicode_DecodeASCII(head.key.at, head.key.size, NULL)
        if not _read_tag(&head.if_match, &self.wanted):
            self.wanted.kind = SPECIAL
            self.special_wanted = conditions.if_match(_bytes(&head.if_match))
        if not _read_tag(&head.if_none_match, &self.news):
            self.news.kind = SPECIAL
            self.special_news = conditions.if_none_match(_bytes(&head.if_none_match))
        self.cas = self.ttl = None
        self.by, self.initial = 1, 0
        if head.query.size and not self._read_quick_query(head):
            query = target.parse_parameters(_bytes(&head.query), _QUERIES[<int>head.operation])
            self.cas, self.ttl = query.cas, query.ttl
            self.by, self.initial = query.by, query.initial
        self.content_type = <str>_type[0]
        if head.content_type.size:
            self._read_content_type(&head.content_type)
        return 0

    cdef int _read_content_type(self, Span* given) except -1:
        for code in range(COMMON):
            if (
                given.size == _type_text[code].size
                and memcmp(given.at, _type_text[code].at, given.size) == 0
            ):
                self.content_type = <str>_type[code]
                return 0
        self.content_type = bodies.parse_content_type(_bytes(given))
        return 0

    cdef bint _read_quick_query(self, Head* head) except -1:
        """Read a query of `cas` or `ttl` alone, in digits; tell whether it was that."""
        cdef const char* at = head.query.at
        cdef Py_ssize_t size = head.query.size - 4
        cdef uint64_t number = 0
        if head.operation == GET or size > 16 or not is_digits(at + 4, size):
            return False
        for i in range(4, 4 + size):
            number = 10 * number + <uint64_t>(at[i] - c"0")
        if memcmp(at, b"cas=", 4) == 0 and number <= _MAX_VERSION:
            self.cas = number
            return True
        if memcmp(at, b"ttl=", 4) == 0 and head.operation != DELETE:
            self.ttl = <double>number
            return True
        return False

    cdef object condition_wanted(self):
        """Return what `If-Match` asks for, as a `Condition`."""
        if self.wanted.kind == VERSION:
            return _condition(frozenset((self.wanted.version,)), None, False, False)
        if self.wanted.kind == ANY:
            return _condition(None, None, True, False)
        return self.special_wanted if self.wanted.kind == SPECIAL else None

    cdef object condition_news(self):
        """Return what `If-None-Match` asks for, as a `Condition`."""
        if self.news.kind == VERSION:
            return _condition(None, frozenset((self.news.version,)), False, False)
        if self.news.kind == ANY:
            return _condition(None, None, False, True)
        return self.special_news if self.news.kind == SPECIAL else None

    cdef object condition(self):
        """Return all conditions of a write as one."""
        if self.cas is None and self.news.kind == ABSENT:
            return self.condition_wanted()
        expected = None
        if self.cas is not None:
            expected = (
                _condition(frozenset((self.cas,)), None, False, False)
                if self.cas
                else _condition(None, None, False, True)
            )
            if self.wanted.kind == ABSENT and self.news.kind == ABSENT:
                return expected
        return conditions.all_of(self.condition_wanted(), self.condition_news(), expected)


cdef object _condition(object match, object none_match, bint exists, bint absent):
    """Return a `Condition`; None for `none_match` stands for an empty set."""
    new = tuple_of(<PyObject*>_Condition, 4)
    put_item(new, 0, match)
    put_item(new, 1, frozenset() if none_match is None else none_match)
    put_item(new, 2, exists)
    put_item(new, 3, absent)
    return new


cdef bint _holds(Tag* wanted, object special, uint64_t version) except -1:
    """Tell whether `If-Match` holds for a version that is there."""
    if wanted.kind == SPECIAL:
        return special.holds(version)
    return wanted.kind != VERSION or wanted.version == version


cdef bint _is_news(Tag* news, object special, uint64_t version) except -1:
    """Tell whether `If-None-Match` holds for a version that is there."""
    if news.kind == SPECIAL:
        return special.holds(version)
    return news.kind == ABSENT or (news.kind == VERSION and news.version != version)


# Tokens.

cdef bint _is_same(const char* given, Py_ssize_t size, bytes known) noexcept:
    """Tell whether a token is the known one, in a time that tells nothing of that one."""
    cdef const char* right = PyBytes_AS_STRING(known)
    cdef unsigned char differs = 0
    if PyBytes_GET_SIZE(known) != size:
        right = given
        differs = 1
    for i in range(size):
        differs |= <unsigned char>(given[i] ^ right[i])
    return not differs


cdef bint _admits(tuple tokens, Span* given) noexcept:
    """Tell whether an `Authorization` shows one of these tokens; each is compared."""
    cdef const char* at = given.at
    cdef Py_ssize_t size = given.size
    cdef bint found = False
    if size < 7 or at[6] != c" ":
        return False
    for i in range(6):
        if at[i] | 0x20 != b"bearer"[i]:
            return False
    at += 7
    size -= 7
    while size and at[0] == c" ":
        at += 1
        size -= 1
    for known in tokens:
        found |= _is_same(at, size, <bytes>known)
    return found


# Numbers.

cdef extern from *:
    """
    static inline int cs_overflows(int64_t a, int64_t b, int64_t *sum) {
        return __builtin_add_overflow(a, b, sum);
    }
    """
    bint cs_overflows(int64_t a, int64_t b, int64_t* sum_) noexcept


cdef bint _read_number(Fields* fields, int64_t* number) noexcept:
    """Read a counter's value; tell whether it is a number of at most 18 digits."""
    cdef const char* at = fields.value
    cdef Py_ssize_t size = fields.size
    cdef bint is_negative = size > 0 and at[0] == c"-"
    if is_negative:
        at += 1
        size -= 1
    if size > 18 or not is_digits(at, size) or (at[0] == c"0" and (size > 1 or is_negative)):
        return False
    number[0] = 0
    for i in range(size):
        number[0] = 10 * number[0] + at[i] - c"0"
    if is_negative:
        number[0] = -number[0]
    return True


# Connections.

cdef class Connection:
    """A connection's first half: it hands what comes to its `FastPath` while that is `ready`.

    What is left, it hands to `accept`, which the other half has. A request of which only a part has
    come is kept here, its body in bytes of the size that it will have: a body in tiny pieces takes
    no more memory than one in a piece.
    """

    cdef public object transport
    cdef public object now
    """Tells the time by the clock of the loop, in seconds."""
    cdef public object send
    """The transport's `write`."""
    cdef public int socket
    """The descriptor of the transport's socket, if that takes answers as they are; or -1."""
    cdef public double answered_at
    """When by `now` its last answer from here was sent."""
    cdef public bint ready
    """Whether what comes next begins where a request does, or goes on with the one that is kept."""
    cdef public FastPath fast_path
    cdef readonly double kept_since
    """When by `now` the first byte of what is kept came, 0.0 where nothing is."""
    cdef bytes _head
    cdef bytes _body
    cdef Py_ssize_t _filled
    cdef int64_t _body_since

    def __cinit__(self, *_, **__):
        self.socket = -1

    def data_received(self, bytes data not None):
        """Take what has come."""
        if self.ready and self.fast_path is not None:
            self.fast_path.take(self, data)
        else:
            self.accept(data)

    def accept(self, data):
        """Take what is not for the fast path, or comes at the wrong time for it."""
        raise NotImplementedError

    def take_kept(self):
        """Return what is kept of a request, its head and its body so far, and keep it no more."""
        head, body = self._head or b"", self._body or b""
        kept = head, memoryview(body)[: self._filled]
        self._forget()
        return kept

    cdef void _forget(self):
        self._head = self._body = None
        self._filled = 0
        self.kept_since = 0.0

    cdef int _keep(self, bytes rest, double since) except -1:
        """Keep the beginning of a head."""
        self._head = rest
        self.kept_since = since
        return 0

    cdef int _keep_body(self, bytes rest, Head* head, double since) except -1:
        """Keep a head and the beginning of its body."""
        self._head = rest[: head.size]
        self._body = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>head.body)
        self._filled = 0
        self._body_since = clock_ns()
        self.kept_since = since
        return self._fill(PyBytes_AS_STRING(rest) + head.size, len(rest) - head.size)

    cdef Py_ssize_t _fill(self, const char* more, Py_ssize_t size) except -1:
        """Add to the body; return how many bytes of `more` belonged to it.

        Nobody else has seen the object yet, so it may still be written to.
        """
        cdef Py_ssize_t taken = min(size, PyBytes_GET_SIZE(self._body) - self._filled)
        memcpy(PyBytes_AS_STRING(self._body) + self._filled, more, taken)
        self._filled += taken
        return taken


cdef class FastPath:
    """What the connections of one loop need to answer plain requests.

    What they wait for is noted in the log that `WAITS` has where this is made. It must be the same
    where requests are answered.
    """

    cdef object _view
    cdef object _find
    cdef object _clock
    cdef int64_t _max_value_size
    cdef tuple _tokens
    cdef RequestCounts _counts
    cdef object _slowlog
    cdef int64_t _threshold
    cdef WaitCount _waits
    cdef Wish _wish
    cdef Answers _answers
    cdef int _first
    cdef bint _is_full

    def __init__(self, store, tokens, recorder, slowlog):
        self._view = store.view()
        self._find = self._view.find
        self._clock = store.clock.monotonic
        self._max_value_size = store.max_value_size
        # Copies: threads that refer to the same object would meet in its count of references.
        if tokens is not None:
            self._tokens = tuple([bytes(bytearray(token)) for token in tokens])
        self._counts = recorder
        self._slowlog = slowlog
        self._threshold = <int64_t>min(slowlog.threshold * 1e9, 9e18)
        self._waits = WAITS.get() or WaitLog()
        self._wish = Wish()
        self._answers = Answers()

    def refresh(self, default_headers):
        """Have answers begin with these headers from now on."""
        self._answers.refresh(default_headers)

    # What comes

    cdef int take(self, Connection connection, bytes data) except -1:
        """Answer what is plain and whole, keep what may become so, and hand on the rest."""
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t before
        cdef double since = connection.kept_since
        cdef Result result
        cdef Head head
        if connection._body is not None:
            at = connection._fill(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
            if connection._filled < PyBytes_GET_SIZE(connection._body):
                return 0
            since = 0.0
            self._answer_kept(connection)
        elif connection._head is not None:
            data = connection._head + data
            connection._forget()
        while at < PyBytes_GET_SIZE(data):
            if not connection.ready:
                connection.accept(data[at:])
                return 0
            before = at
            result = self._answer_some(connection, data, &at, &head)
            if at > before:
                since = 0.0  # what is left has begun to come now
            if result == UNUSUAL:
                if connection.ready:
                    connection.ready = False
                    connection.accept(data[at:])
                    return 0
            elif result == PARTIAL and connection.ready:
                since = since or connection.now()
                if head.body:
                    return connection._keep_body(data[at:], &head, since)
                return connection._keep(data[at:], since)
        return 0

    cdef Result _answer_some(
        self, Connection connection, bytes data, Py_ssize_t* at, Head* head
    ) except? UNUSUAL:
        """Answer requests from `at` on, and send the answers.

        COMPLETE: there may be more. PARTIAL: at `at` is the beginning of one, which has `head.body`
        only if its head is whole. UNUSUAL: what is at `at` is for others.
        """
        cdef const char* text = PyBytes_AS_STRING(data)
        cdef Py_ssize_t begin = at[0]
        cdef Py_ssize_t end = PyBytes_GET_SIZE(data)
        cdef Result result = COMPLETE
        cdef int number = 0
        cdef int64_t started = clock_ns()
        self._first = 0
        self._is_full = False
        self._answers.clear()
        while at[0] < end and number < TOGETHER and not self._is_full:
            result = read_head(text + at[0], end - at[0], head)
            if result == PARTIAL:
                head.body = 0
            elif result == COMPLETE:
                if not self._understand(head):
                    result = UNUSUAL
                elif head.body > end - at[0] - head.size:
                    result = PARTIAL
            if result != COMPLETE:
                break
            self._answer(head, PyBytes_FromStringAndSize(text + at[0] + head.size, head.body))
            at[0] += head.size + head.body
            number += 1
        if number:
            self._send(connection)
            self._note(text + begin, end - begin, started, started, number)
        return result

    cdef int _answer_kept(self, Connection connection) except -1:
        """Answer a request whose body has come whole."""
        cdef bytes lines = connection._head
        cdef bytes body = connection._body
        cdef const char* text = PyBytes_AS_STRING(lines)
        cdef int64_t since = connection._body_since
        cdef int64_t started = clock_ns()
        cdef Head head
        connection._forget()
        self._first = 0
        self._answers.clear()
        read_head(text, PyBytes_GET_SIZE(lines), &head)
        self._understand(&head)
        self._answer(&head, body)
        self._send(connection)
        self._note(text, PyBytes_GET_SIZE(lines), since, started, 1)
        return 0

    cdef int _send(self, Connection connection) except -1:
        connection.answered_at = connection.now()
        return self._answers.send(connection.socket, connection.send, connection.transport)

    cdef bint _understand(self, Head* head) except -1:
        """Take what a request asks for; tell whether it is valid, and one for the fast path."""
        if head.body and head.operation != PUT and head.operation != APPEND:
            return False
        if head.body > self._max_value_size:
            return False
        if self._tokens is not None and not _admits(self._tokens, &head.authorization):
            return False
        try:
            self._wish.read(head)
        except CacheServerError:
            return False
        return True

    # Answers

    cdef int _answer(self, Head* head, bytes body) except -1:
        """Do what a request asks for and write the answer."""
        cdef Py_ssize_t mark = self._answers.mark()
        try:
            if not self._answer_quickly(head, body):
                self._give(head, self._ask(head, body))
        except CacheServerError as error:
            self._answers.rewind(mark)
            self._give(head, problem(problems.kind_of(error), str(error)))
        except Exception as error:
            self._answers.rewind(mark)
            _log.error("a request on the fast path failed", exc_info=error)
            self._give(head, problem(problems.INTERNAL, problems.UNEXPECTED))
        return 0

    cdef bint _answer_quickly(self, Head* head, bytes body) except -1:
        """Answer what most requests ask for; tell whether that is done.

        Where it is not, nothing was changed. A number that somebody else was quicker to change is
        read once more by `_ask`, and so counted once more as read than by the app.
        """
        cdef Operation operation = head.operation
        cdef NamespaceView view = self._find(self._wish.space)
        if view is None:
            return False
        try:
            if operation == GET:
                return self._get(head, view)
            if operation == PUT:
                return self._put(head, view, body)
            if operation == DELETE:
                return self._delete(head, view)
            if operation == INCR:
                return self._incr(head, view)
        except NamespaceGone:
            pass  # who is asked next forgets it
        return False

    cdef bint _get(self, Head* head, NamespaceView view) except -1:
        cdef Wish wish = self._wish
        cdef Fields fields
        cdef double left = -1.0
        record = view.find(wish.key)
        if record is None:
            if wish.wanted.kind != ABSENT:
                self._give(head, kv.conflict(None))
                return True
            self._answers.put_missing(head.is_head, wish.space, wish.key)
            self._count(head, 404)
            return True
        read_fields(record, &fields)
        if not _holds(&wish.wanted, wish.special_wanted, fields.version):
            self._answers.put_conflict(head.is_head, fields.version)
            self._count(head, 412)
            return True
        if fields.deadline:
            left = max(0.0, fields.deadline - <double>self._clock())
        if not _is_news(&wish.news, wish.special_news, fields.version):
            self._answers.put_unchanged(fields.version, left)
            self._count(head, 304)
            return True
        if fields.size >= LARGE_VALUE and not head.is_head:
            self._is_full = True
        if fields.code < 0:
            self._give(head, self._value(record))
            return True
        self._answers.put_value(
            head.is_head,
            fields.value,
            fields.size,
            record[0] if type(record) is tuple else None,
            fields.version,
            fields.code,
            left,
        )
        self._count(head, 200)
        return True

    cdef object _value(self, object record):
        """Return the answer that gives a value of a content type which is not a common one."""
        entry = entry_of(record)
        return kv.answer_get(self._view, entry, self._wish.space, self._wish.key, None, None)

    cdef bint _put(self, Head* head, NamespaceView view, bytes body) except -1:
        cdef Wish wish = self._wish
        cdef Done done
        if wish.ttl is not None and not 0 <= <double>wish.ttl <= _LONGEST:
            return False
        conflict = view.write(
            wish.key, body, wish.ttl, wish.content_type, wish.condition(), &done
        )
        if conflict is not None:
            self._refuse(head, conflict)
            return True
        self._answers.put_written(done.created, done.version)
        self._count(head, 201 if done.created else 204)
        return True

    cdef bint _delete(self, Head* head, NamespaceView view) except -1:
        cdef Wish wish = self._wish
        outcome = view.delete(wish.key, wish.condition())
        if type(outcome) is Deleted:
            self._answers.put_deleted()
            self._count(head, 204)
        else:
            self._give(head, kv.answer_delete(outcome, wish.space, wish.key))
        return True

    cdef bint _incr(self, Head* head, NamespaceView view) except -1:
        """Add to a number, where nobody is quicker and nothing special is asked for."""
        cdef Wish wish = self._wish
        cdef Fields fields
        cdef Done done
        cdef int64_t number = 0
        cdef int64_t total = 0
        if wish.ttl is not None or wish.condition() is not None:
            return False
        view.check_condition(None)
        record = view.find(wish.key)
        if record is None:
            total = operations.summed(None, wish.by, wish.initial)
            expected = _condition(None, None, False, True)
            content_type, ttl = operations.COUNTER_CONTENT_TYPE, None
        else:
            read_fields(record, &fields)
            if not _read_number(&fields, &number) or cs_overflows(number, wish.by, &total):
                text = PyBytes_FromStringAndSize(fields.value, fields.size)
                total = operations.summed(text, wish.by, wish.initial)
            expected = _condition(frozenset((fields.version,)), None, False, False)
            content_type, ttl = content_type_of(record), KEEP
        digits = b"%d" % total
        if PyBytes_GET_SIZE(digits) > self._max_value_size:
            return False
        if view.write(wish.key, digits, ttl, content_type, expected, &done) is not None:
            return False  # somebody was quicker
        self._answers.put_changed(b"value", total, done.version)
        self._count(head, 200)
        return True

    cdef object _ask(self, Head* head, bytes body):
        """Have done what a request asks for, and return the answer, as the app's handlers do."""
        cdef Wish wish = self._wish
        cdef Operation operation = head.operation
        view, space, key = self._view, wish.space, wish.key
        condition = None if operation == GET else wish.condition()
        if operation == GET:
            found = operations.get(view, space, key)
            wanted, news = wish.condition_wanted(), wish.condition_news()
            return kv.answer_get(view, found, space, key, wanted, news)
        if operation == DELETE:
            gone = operations.delete(view, space, key, condition=condition)
            return kv.answer_delete(gone, space, key)
        if operation == TOUCH:
            touched = operations.touch(view, space, key, ttl=wish.ttl, condition=condition)
            return kv.answer_touch(touched, space, key)
        if operation == INCR:
            counted = operations.incr(
                view,
                space,
                key,
                by=wish.by,
                initial=wish.initial,
                ttl=wish.ttl,
                condition=condition,
            )
            return kv.answer_incr(counted)
        write = operations.put if operation == PUT else operations.append
        outcome = write(
            view,
            space,
            key,
            body,
            content_type=wish.content_type,
            ttl=wish.ttl,
            condition=condition,
        )
        return kv.answer_put(outcome) if operation == PUT else kv.answer_append(outcome)

    cdef int _refuse(self, Head* head, object conflict) except -1:
        """Tell what is there instead."""
        if conflict.current is None:
            return self._give(head, kv.conflict(None))
        self._answers.put_conflict(head.is_head, conflict.current[1])
        self._count(head, 412)
        return 0

    cdef int _give(self, Head* head, object answer) except -1:
        self._answers.put_answer(head.is_head, answer)
        self._count(head, answer.status_code)
        return 0

    # What is noted

    cdef void _count(self, Head* head, int status):
        cdef int method = _HEAD if head.is_head else _NUMBERS[<int>head.operation]
        if not self._first:
            self._first = status
        self._counts.count(method, status)  # metering

    cdef int _note(
        self, const char* text, Py_ssize_t size, int64_t since, int64_t started, int number
    ) except -1:
        """Note that requests, of which the first is at `text`, are answered.

        `since` is when they had come, `started` when the work began. What was waited for is
        forgotten: it was for them.
        """
        cdef int64_t ended = clock_ns()  # metering
        self._counts.time(ended - since, number)  # metering
        if ended - started >= self._threshold:  # metering
            self._note_slow(text, size, ended - started, number)  # metering
        if self._waits.count:  # metering
            self._waits.clear()  # metering
        return 0

    cdef int _note_slow(
        self, const char* text, Py_ssize_t size, int64_t nanoseconds, int number
    ) except -1:
        cdef Head head
        cdef Wish wish = self._wish
        cdef int status = self._first
        read_head(text, size, &head)
        self._understand(&head)
        self._slowlog.note(
            operation=OPERATIONS[<int>head.operation],
            method="HEAD" if head.is_head else _METHODS[<int>head.operation],
            namespace=wish.space,
            key=wish.key,
            status=status,
            seconds=nanoseconds / 1e9,
            requests=number,
            lock_wait_seconds=self._waits.nanoseconds / 1e9,
            waits=tuple(self._waits.waits),
            trace_id=trace_id(_bytes(&head.traceparent)) if head.traceparent.size else "",
        )
        return 0
