"""The fast path: requests for keys, answered without a task, a scope or a list of headers.

It answers those of OPERATIONS that are plain: valid, with nothing unusual in the head, and with a body of
a known length. All others it leaves to the ASGI app. Its answers are those of the app, byte for byte:
both take them from `cacheserver.http.kv`.

A request that arrives whole, as nearly all do, is not taken apart by callbacks (`answer_all`). Its first
line is matched. Its header lines are given to httptools to say whether they are HTTP, and searched for
the few that matter; and since a client's lines hardly change, what was found is kept under their very
bytes, so that the next request with the same lines needs a look-up only. A request in pieces comes
through the connection's parser (`recognise`, `answer_call`).

One object a loop, made and used in that loop's thread alone; it relies on no atomicity.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, NamedTuple, Protocol

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from cacheserver import operations
from cacheserver.errors import CacheServerError
from cacheserver.http import bodies, conditions, kv, problems, target
from cacheserver.http.access import Tokens
from cacheserver.http.errors import RequestError
from cacheserver.http.messages import Answer, problem
from cacheserver.http.routes import ROUTES
from cacheserver.http.target import Parameters
from cacheserver.http.timing import TRACEPARENT, trace_id
from cacheserver.metrics import Recorder
from cacheserver.slowlog import SlowLog
from cacheserver.store.entry import Entry
from cacheserver.store.locks import WAITS, WaitLog
from cacheserver.store.names import check_key
from cacheserver.store.outcomes import Condition, Missing, Written
from cacheserver.store.store import Store, StoreView

type _Match = Callable[[bytes, int], re.Match[bytes] | None]
type RawHeaders = Sequence[tuple[bytes, bytes]]
type Target = tuple[str, str, str, str, Parameters]
"""(operation, method, namespace, key, what the query asks for)."""

MAX_KNOWN: Final = 128
"""Different header lines, and different content types, that are remembered; then all are forgotten."""
MAX_LINES: Final = 4096
"""Bytes of header lines that are looked at here; with more the connection's parser has to deal."""
LARGE: Final = 64 << 10
"""Bytes of a value behind which no other is prepared before the client has taken some: what waits in
answers is kept in memory, also when it is written anew meanwhile."""
MAX_SEEN: Final = 1024
"""Different header lines that are remembered to have come once."""

# Of printable ASCII, # belongs in no request line and ? ends the path.
_ADDRESS: Final = rb'([A-Za-z0-9._-]{1,64})/([!"$->@-~]{1,1024})(?:\?([!"$-~]{0,1024}))?'
_SIMPLE: Final = rb'/v1/kv/([A-Za-z0-9._-]{1,64})/([!"$&->@-~]{1,1024}) HTTP/1\.1\r\n'  # no %, no ?
_GET: Final = rb"GET " + _SIMPLE
_PUT: Final = rb"PUT " + _SIMPLE

OPERATIONS: Final = ("get", "put", "delete", "incr", "append", "touch")
_WITH_BODY: Final = ("put", "append")


class Plain(NamedTuple):
    """What a request that begins in a certain way asks for."""

    operation: str
    method: str
    query: tuple[str, ...]
    """The query parameters that it knows."""


def _beginnings() -> dict[bytes, Plain]:
    """Return what is answered here, by what such a request begins with up to the namespace."""
    return {
        f"{method} {route.path.removesuffix('{namespace}/{key}')}".encode(): Plain(
            route.operation, method, route.query
        )
        for route in ROUTES
        if route.operation in OPERATIONS
        for method in ((route.method, "HEAD") if route.method == "GET" else (route.method,))
    }


_REQUEST: Final = rb"(%b)" % b"|".join(map(re.escape, _beginnings())) + _ADDRESS

_MATTERS: Final = (
    rb"(?i)\r\n(host|content-length|content-type|if-match|if-none-match|authorization|connection|expect"
    rb"|transfer-encoding|upgrade|proxy-connection|content-encoding|content-range|origin|sec-fetch-site)"
    rb"[ \t]*:[ \t]*"
    rb"([^\r\n]*)"
)
"""A header line that says something about how to answer, behind the end of the line before."""
_UNUSUAL: Final = frozenset(
    (
        b"content-encoding",
        b"content-range",
        b"expect",
        b"origin",
        b"proxy-connection",
        b"sec-fetch-site",
        b"transfer-encoding",
        b"upgrade",
    )
)
"""Headers whose requests are left to the app."""
_TRACE: Final = re.compile(rb"(?i)\r\ntraceparent[ \t]*:[ \t]*([^\r\n]*)")

_log: Final = logging.getLogger(__name__)
_numbers: Final = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Head:
    """What the header lines of a plain request say."""

    size: int
    """Bytes of the body."""
    wanted: Condition | None
    """What `If-Match` asks for."""
    news: Condition | None
    """What `If-None-Match` asks for."""
    condition: Condition | None
    """Both together."""
    content_type: str


class Call(NamedTuple):
    """A plain request whose body is arriving, or whose turn has not come."""

    target: Target
    head: Head
    headers: RawHeaders
    started: float
    body: list[bytes]
    """The pieces that have come."""


class Connection(Protocol):
    """What the fast path needs of a connection."""

    transport: asyncio.Transport
    send: Callable[[bytes], object]
    """The transport's `write`."""
    answered_at: float
    """The monotonic second of its last answer from here."""


class FastPath:
    """What the connections of one loop need to answer plain requests.

    What they wait for is noted in the log that `WAITS` has where this is made. It must be the same where
    requests are answered.
    """

    def __init__(
        self, store: Store, tokens: Tokens | None, recorder: Recorder, slowlog: SlowLog
    ) -> None:
        self._view = store.view()
        self._tokens = tokens
        self._recorder = recorder
        self._slowlog = slowlog
        self._waits = WAITS.get() or WaitLog()
        self._match_line = _own_pattern(_REQUEST + rb" HTTP/1\.1\r\n").match
        self._match_target = _own_pattern(_REQUEST).fullmatch
        self._find_fields = _own_pattern(_MATTERS).findall
        self._beginnings = _beginnings()
        self._no_parameters = Parameters()
        # What is known of header lines: of all, and of those without a condition the size of the body
        # and its content type, by whether there is a body.
        self._known: dict[bytes, Head] = {}
        self._bodiless: set[bytes] = set()
        self._bodies: dict[bytes, tuple[int, str]] = {}
        self._queries: dict[tuple[str, bytes], Parameters] = {}  # by operation; those without cas
        self._seen: set[int] = set()  # hashes of lines that came once
        # Answers, but for what differs from one to the next:
        self._start = b""  # what follows the status line
        self._hits: dict[str, bytes] = {}  # by content type
        self._written: dict[bool, bytes] = {}  # by whether the key was not there
        self.answer_all: Final = self._make_answer_all()
        """Answer the plain requests at the beginning of some bytes, and return the rest.

        `answer_all(data, connection)` is for bytes that begin where a request does. It writes the
        answers to the connection's transport, all at once, and stops after 64 of them or a LARGE one:
        call it again with the rest, unless the connection is full.
        """

    def refresh(self, default_headers: RawHeaders) -> None:
        """Have answers begin with these headers from now on."""
        start = b"".join(b"%s: %s\r\n" % header for header in default_headers)
        if start != self._start:
            self._start = start
            self._hits.clear()
            for created in (False, True):
                self._written[created] = self._template(kv.written(created, b'"\1"'))

    def _make_answer_all(self) -> Callable[[bytes, Connection], bytes]:
        """Return one function that has all it needs in its own locals.

        For free-threaded 3.13 has no specializing interpreter, so that each attribute and each global
        costs a lookup or two there, and what a closure holds costs a lock. And it does by itself what
        `answer` would do for the GETs and PUTs that are most of all requests.
        """
        recorder = self._recorder
        match_get, match_put = _own_pattern(_GET).match, _own_pattern(_PUT).match
        got = recorder.counter("GET", 200)
        put_counts = recorder.counter("PUT", 204), recorder.counter("PUT", 201)
        threshold = self._slowlog.threshold

        def answer_all(
            data: bytes,
            connection: Connection,
            view: StoreView = self._view,
            get: Callable[..., Any] = operations.get,
            put: Callable[..., Any] = operations.put,
            match_get: _Match = match_get,
            match_put: _Match = match_put,
            bodiless: set[bytes] = self._bodiless,
            bodies_of: dict[bytes, tuple[int, str]] = self._bodies,
            hits: dict[str, bytes] = self._hits,
            written: dict[bool, bytes] = self._written,
            got: list[int] = got,
            put_counts: tuple[list[int], list[int]] = put_counts,
            quick: Callable[[float], None] = recorder.quick,
            # The first of REQUEST_BOUNDS; less than any time where even such a request is slow.
            quick_bound: float = 16e-6 if threshold > 16e-6 else -1.0,
            threshold: float = threshold,
            waits: WaitLog = self._waits,
            now: Callable[[], float] = monotonic,
            size_of: Callable[[bytes | list[bytes]], int] = len,
            type_of: Callable[[object], type] = type,
            plain: type = tuple,
        ) -> bytes:
            started = now()
            out: list[bytes] = []
            at, number = 0, 0
            line = match_get(data, 0)
            if line is not None and data[line.end() :] in bodiless:
                # A GET by itself, as most requests are.
                namespace, key = line.groups()
                try:
                    found = get(view, namespace.decode(), key.decode())
                    if type_of(found) is plain:
                        value, version, deadline, content_type, _slot = found
                        if size_of(value) < 2048 and not deadline and content_type in hits:
                            connection.send(
                                hits[content_type] % (version, b"no-cache", size_of(value), value)
                            )
                            connection.answered_at = started
                            spent = now() - started
                            if spent <= quick_bound:
                                quick(spent)
                            else:
                                got[0] += 1
                                recorder.took(spent)
                                if spent >= threshold or waits.count:
                                    self._settle(data, 200, 1, spent)
                            return b""
                    self._answer_get(found, namespace, key, out)
                except Exception as error:
                    self._fail("GET", error, out)
                at = size_of(data)
                number = 1
            end, full = size_of(data), False
            while at < end and number < 64 and not full:
                next_at = 0
                line = match_get(data, at)
                if line is not None:
                    lines_at = line.end()
                    body_at = data.find(b"\r\n\r\n", lines_at - 2) + 4
                    if data[lines_at:body_at] in bodiless:
                        next_at = body_at
                        namespace, key = line.groups()
                        try:
                            found = get(view, namespace.decode(), key.decode())
                            if type_of(found) is plain:
                                value, version, deadline, content_type, _slot = found
                                size = size_of(value)
                                if size < 2048 and not deadline and content_type in hits:
                                    answer = hits[content_type] % (
                                        version,
                                        b"no-cache",
                                        size,
                                        value,
                                    )
                                    out.append(answer)
                                    got[0] += 1
                                else:
                                    self._answer_get(found, namespace, key, out)
                                    full = size_of(out[-1]) >= 65536  # LARGE
                            else:
                                self._answer_get(found, namespace, key, out)
                        except Exception as error:
                            self._fail("GET", error, out)
                else:
                    line = match_put(data, at)
                    if line is not None:
                        lines_at = line.end()
                        body_at = data.find(b"\r\n\r\n", lines_at - 2) + 4
                        lines = data[lines_at:body_at]
                        if lines in bodies_of:
                            size, content_type = bodies_of[lines]
                            next_at = body_at + size
                            if next_at > end:
                                break
                            namespace, key = line.groups()
                            value = data[body_at:next_at]
                            try:
                                version, created = put(  # no conflict, as there is no condition
                                    view,
                                    namespace.decode(),
                                    key.decode(),
                                    value,
                                    content_type=content_type,
                                )
                                out.append(written[created] % version)
                                put_counts[created][0] += 1
                            except Exception as error:
                                self._fail("PUT", error, out)
                if not next_at:
                    next_at = self._answer_other(data, at, out)
                    if not next_at:
                        break
                    full = size_of(out[-1]) >= 65536
                at = next_at
                number += 1
            if number:
                self._send(out, connection)
                connection.answered_at = started
                spent = now() - started
                recorder.took(spent, number)
                if spent >= threshold or waits.count:
                    self._settle(data, int(out[0][9:12]), number, spent)
            return data[at:] if at < end else b""

        return answer_all

    def _answer_other(self, data: bytes, at: int, out: list[bytes]) -> int:
        """Answer the request at `at` if it is plain and whole; return where it ends, 0 where it isn't."""
        line = self._match_line(data, at)
        if line is None:
            return 0
        body_at = data.find(b"\r\n\r\n", line.end() - 2) + 4
        lines = data[line.end() : body_at]
        try:
            head = self._known[lines]
        except KeyError:
            found = self._read_lines(lines)
            if found is None:
                return 0
            head = found
        end = body_at + head.size
        target = self._read_target(*line.groups())
        if target is None or end > len(data) or (head.size and target[0] not in _WITH_BODY):
            return 0
        self.answer(target, head, data[body_at:end], out)
        return end

    def recognise(self, method: bytes, url: bytes, headers: RawHeaders) -> Call | None:
        """Return what an HTTP/1.1 request asks for, None where it is one for the app."""
        head = self._read_head(headers)
        found = self._match_target(b"%b %b" % (method, url))
        if head is None or found is None:
            return None
        target = self._read_target(*found.groups())
        if target is None or (head.size and target[0] not in _WITH_BODY):
            return None
        return Call(target, head, headers, monotonic(), [])

    def answer_call(self, call: Call, out: list[bytes]) -> None:
        """Answer a call whose body has come whole, as `answer` does, and note the time it took."""
        begun, at = monotonic(), len(out)
        self.answer(call.target, call.head, b"".join(call.body), out)
        ended = monotonic()
        self._recorder.took(ended - call.started)
        if ended - begun >= self._slowlog.threshold:
            given = [value for name, value in call.headers if name == TRACEPARENT]
            status = int(out[at][9:12])
            self._note_slow(call.target, status, 1, ended - begun, given)
        self._waits.clear()

    def _settle(self, data: bytes, status: int, number: int, seconds: float) -> None:
        """Note that `number` requests, of which these bytes begin with the first, took long.

        If they did. What was waited for is forgotten in any case: it was for them.
        """
        if seconds >= self._slowlog.threshold:
            line = self._match_line(data)
            assert line is not None
            target = self._read_target(*line.groups())
            assert target is not None
            end = line.end() - 2
            given = _TRACE.findall(data, end, data.find(b"\r\n\r\n", end))
            self._note_slow(target, status, number, seconds, given)
        self._waits.clear()

    def _note_slow(
        self, target: Target, status: int, number: int, seconds: float, given: list[bytes]
    ) -> None:
        operation, method, namespace, key, _ = target
        self._slowlog.note(
            operation=operation,
            method=method,
            namespace=namespace,
            key=key,
            status=status,
            seconds=seconds,
            requests=number,
            lock_wait_seconds=self._waits.nanoseconds / 1e9,
            waits=tuple(self._waits.waits),
            trace_id=trace_id(given[0]) if len(given) == 1 else "",
        )

    def answer(self, target: Target, head: Head, body: bytes, out: list[bytes]) -> None:
        """Do what a request asks for and add the answer to `out`."""
        operation, method, namespace, key, query = target
        condition = head.condition
        if query.cas is not None:
            condition = conditions.all_of(condition, Condition.version(query.cas))
        view = self._view
        try:
            if operation == "put":
                outcome = operations.put(
                    view,
                    namespace,
                    key,
                    body,
                    content_type=head.content_type,
                    ttl=query.ttl,
                    condition=condition,
                )
                if isinstance(outcome, Written):
                    status = 201 if outcome.created else 204
                    self._recorder.counter("PUT", status)[0] += 1
                    out.append(self._written[outcome.created] % outcome.version)
                    return
                answer = kv.answer_put(outcome)
            elif operation == "get":
                found = operations.get(view, namespace, key)
                if head.condition is None and not isinstance(found, Missing):
                    self._give_value(method, found, out)
                    return
                answer = kv.answer_get(view, found, namespace, key, head.wanted, head.news)
            else:
                answer = self._change(target, condition, head.content_type, body)
        except Exception as error:
            self._fail(method, error, out)
        else:
            self._give(method, answer, out)

    def _change(
        self, target: Target, condition: Condition | None, content_type: str, body: bytes
    ) -> Answer:
        """Do what is neither GET nor PUT."""
        operation, _, namespace, key, query = target
        view = self._view
        if operation == "delete":
            gone = operations.delete(view, namespace, key, condition=condition)
            return kv.answer_delete(gone, namespace, key)
        if operation == "touch":
            touched = operations.touch(view, namespace, key, ttl=query.ttl, condition=condition)
            return kv.answer_touch(touched, namespace, key)
        if operation == "append":
            appended = operations.append(
                view,
                namespace,
                key,
                body,
                content_type=content_type,
                ttl=query.ttl,
                condition=condition,
            )
            return kv.answer_append(appended)
        counted = operations.incr(
            view,
            namespace,
            key,
            by=query.by,
            initial=query.initial,
            ttl=query.ttl,
            condition=condition,
        )
        return kv.answer_incr(counted)

    # Answers

    def _give_value(self, method: str, entry: Entry[bytes], out: list[bytes]) -> None:
        value, version, deadline, content_type, _slot = entry
        template = self._hits.get(content_type) or self._prepare(content_type)
        age = self._caching(entry) if deadline else b"no-cache"
        body = b"" if method == "HEAD" else value
        self._recorder.counter(method, 200)[0] += 1
        if len(body) < 2048:
            out.append(template % (version, age, len(value), body))
        else:
            out += (template % (version, age, len(value), b""), body)

    def _prepare(self, content_type: str) -> bytes:
        """Make and return the template of the answers with this content type."""
        if len(self._hits) >= MAX_KNOWN:
            self._hits.clear()
        empty = kv.value(b'"\1"', b"\2", content_type.encode("ascii"), b"")
        template = self._template(empty).removesuffix(b"0\r\n\r\n") + b"%d\r\n\r\n%s"
        self._hits[content_type] = template
        return template

    def _template(self, answer: Answer) -> bytes:
        """Return an answer in which %d stands for each byte 1 and %s for each byte 2."""
        text = self._render("GET", answer).replace(b"%", b"%%")
        return text.replace(b"\1", b"%d").replace(b"\2", b"%s")

    def _caching(self, entry: Entry[bytes]) -> bytes:
        return kv.cache_control(operations.seconds_left(self._view, entry))

    def _answer_get(
        self, found: Entry[bytes] | Missing, namespace: bytes, key: bytes, out: list[bytes]
    ) -> None:
        """Answer a GET without conditions."""
        if isinstance(found, Missing):
            names = namespace.decode(), key.decode()
            self._give("GET", kv.answer_get(self._view, found, *names, None, None), out)
        else:
            self._give_value("GET", found, out)

    def _send(self, out: list[bytes], connection: Connection) -> None:
        """Write all answers at once; large values as they are, instead of copying them."""
        if len(out) == 1:
            connection.send(out[0])
        elif max(map(len, out)) < 4096:
            connection.send(b"".join(out))
        else:
            connection.transport.writelines(out)

    def _fail(self, method: str, error: Exception, out: list[bytes]) -> None:
        if isinstance(error, CacheServerError):
            answer = problem(problems.kind_of(error), str(error))
        else:
            _log.error("a request on the fast path failed", exc_info=error)
            answer = problem(problems.INTERNAL, problems.UNEXPECTED)
        self._give(method, answer, out)

    def _give(self, method: str, answer: Answer, out: list[bytes]) -> None:
        self._recorder.counter(method, answer.status_code)[0] += 1
        out.append(self._render(method, answer))

    def _render(self, method: str, answer: Answer) -> bytes:
        head = b"".join(b"%s: %s\r\n" % header for header in answer.raw_headers)
        body = b"" if method == "HEAD" else answer.body
        return b"".join((STATUS_LINE[answer.status_code], self._start, head, b"\r\n", body))

    # Requests

    def _read_target(
        self, beginning: bytes, namespace: bytes, key: bytes, query: bytes | None
    ) -> Target | None:
        """Return what a matched request asks for, None where it is not valid."""
        operation, method, known = self._beginnings[beginning]
        parameters = self._no_parameters
        try:
            if 37 in key:  # %
                text = target.decode(key)
                check_key(text)
            else:
                text = key.decode()
            if query:
                parameters = self._read_query(operation, query, known)
        except CacheServerError:
            return None
        return operation, method, namespace.decode(), text, parameters

    def _read_query(self, operation: str, query: bytes, known: tuple[str, ...]) -> Parameters:
        """Return what a query asks for. What has no cas is often the same, and remembered."""
        if (operation, query) in self._queries:
            return self._queries[operation, query]
        parameters = target.parse_parameters(query, known)
        if parameters.cas is None:
            if len(self._queries) >= MAX_KNOWN:
                self._queries.clear()
            self._queries[operation, query] = parameters
        return parameters

    def _read_head(self, headers: RawHeaders) -> Head | None:
        """Return what headers say, None where the app has to look at them."""
        fields: dict[bytes, bytes] = {}
        for name, value in headers:
            if name in _UNUSUAL:
                return None
            fields[name] = fields[name] + b", " + value if name in fields else value
        size = fields.get(b"content-length", b"0")
        if not size.isdigit() or len(size) > 18 or int(size) > self._view.max_value_size:
            return None
        if fields.get(b"connection", b"keep-alive").lower() != b"keep-alive":
            return None
        if self._tokens is not None and not self._tokens.admit(headers):
            return None
        wanted = news = condition = None
        try:
            if b"if-match" in fields or b"if-none-match" in fields:
                wanted = conditions.if_match(fields.get(b"if-match"))
                news = conditions.if_none_match(fields.get(b"if-none-match"))
                condition = conditions.all_of(wanted, news)
            content_type = bodies.parse_content_type(fields.get(b"content-type"))
        except RequestError:
            return None
        return Head(int(size), wanted, news, condition, content_type)

    def _read_lines(self, lines: bytes) -> Head | None:
        """Return what header lines say, None where they are not plain, or not HTTP at all."""
        # Line ends that are none, and lines that go on in the next one, are for the parser.
        if len(lines) > MAX_LINES:
            return None
        if lines.count(b"\n") != lines.count(b"\r\n") or b"\r\n " in lines or b"\r\n\t" in lines:
            return None
        if not _is_head(lines):
            return None
        fields = self._find_fields(b"\r\n" + lines)
        headers = [(name.lower(), value.rstrip(b" \t")) for name, value in fields]
        if [name for name, _ in headers].count(b"host") != 1:
            return None
        head = self._read_head(headers)
        if head is not None:
            self._learn(lines, head)
        return head

    def _learn(self, lines: bytes, head: Head) -> None:
        """Remember what these lines say, if it is not the first time that they come."""
        mark = hash(lines)
        if mark not in self._seen:
            if len(self._seen) >= MAX_SEEN:
                self._seen.clear()
            self._seen.add(mark)
            return
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
            self._bodiless.clear()
            self._bodies.clear()
        self._known[lines] = head
        if head.condition is None:
            self._bodies[lines] = (head.size, head.content_type)
            if not head.size:
                self._bodiless.add(lines)


class _Counter:
    """Parser callbacks that count heads. Without one for headers the parser only checks those."""

    def __init__(self) -> None:
        self.heads = 0

    def on_headers_complete(self) -> None:
        self.heads += 1


def _is_head(lines: bytes) -> bool:
    """Tell whether the parser takes these lines for the header lines of one request."""
    counter = _Counter()
    try:
        httptools.HttpRequestParser(counter).feed_data(b"PUT / HTTP/1.1\r\n" + lines)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return False
    return counter.heads == 1


def _own_pattern(pattern: bytes) -> re.Pattern[bytes]:
    """Return a pattern that no other thread uses, for each match counts a reference to its pattern."""
    return re.compile(pattern + rb"(?#%d)" % next(_numbers))
