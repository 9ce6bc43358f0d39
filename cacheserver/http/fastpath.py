"""The fast path: requests for keys, answered without a task, a scope or a list of headers.

It answers GET, HEAD, PUT and DELETE below /v1/kv/ that are plain: valid, with nothing unusual in the
head, and with a body of a known length. All others it leaves to the ASGI app. Its answers are those of
the app, byte for byte: both take them from `cacheserver.http.kv`.

The header lines of a client hardly change from request to request. So what the parser made of them is
kept, under their very bytes, and a request with the same lines needs no parser: its first line is
matched, its header lines are looked up (`answer_all`). A request whose lines are not known goes through
the parser (`recognise`, `answer`), and lines that come again are learnt.

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

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from cacheserver import operations
from cacheserver.errors import CacheServerError
from cacheserver.http import bodies, conditions, kv, problems, target
from cacheserver.http.access import Tokens
from cacheserver.http.errors import RequestError
from cacheserver.http.messages import Answer, problem
from cacheserver.http.routes import KV, ROUTES
from cacheserver.metrics import Recorder
from cacheserver.store.entry import Entry
from cacheserver.store.names import check_key
from cacheserver.store.outcomes import Condition, Missing
from cacheserver.store.store import Store, StoreView

type _Match = Callable[[bytes, int], re.Match[bytes] | None]
type RawHeaders = Sequence[tuple[bytes, bytes]]
type Target = tuple[str, str, str, float | None, Condition | None]
"""(method, namespace, key, ttl, what `?cas=` asks for)."""

MAX_KNOWN: Final = 128
"""Different header lines, and different content types, that are remembered; then all are forgotten."""
MAX_LINES: Final = 2048
"""Bytes of header lines that are remembered."""
MAX_SEEN: Final = 1024
"""Different header lines that are remembered to have come once."""

# Of printable ASCII, # belongs in no request line and ? ends the path.
_TARGET: Final = rb'/v1/kv/([A-Za-z0-9._-]{1,64})/([!"$->@-~]{1,1024})(?:\?([!"$-~]*))?'
_SIMPLE: Final = rb'/v1/kv/([A-Za-z0-9._-]{1,64})/([!"$&->@-~]{1,1024}) HTTP/1\.1\r\n'  # no %, no ?
_GET: Final = rb"GET " + _SIMPLE
_PUT: Final = rb"PUT " + _SIMPLE
_LINE: Final = rb"(GET|PUT|HEAD|DELETE) " + _TARGET + rb" HTTP/1\.1\r\n"

_UNUSUAL: Final = frozenset(
    (
        b"content-encoding",
        b"content-range",
        b"expect",
        b"proxy-connection",
        b"transfer-encoding",
        b"upgrade",
    )
)
"""Headers whose requests are left to the app."""
_PARAMETERS: Final = {route.method: route.query for route in ROUTES if route.path == KV}
_PARAMETERS["HEAD"] = _PARAMETERS["GET"]

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
    unknown_lines: bytes
    """Header lines that were met and are not known."""


class FastPath:
    """What the connections of one loop need to answer plain requests."""

    def __init__(self, store: Store, tokens: Tokens | None, recorder: Recorder) -> None:
        self._view = store.view()
        self._tokens = tokens
        self._recorder = recorder
        self._match_line = _own_pattern(_LINE).match
        self._match_target = _own_pattern(_TARGET).fullmatch
        self._methods = {method.encode(): method for method in _PARAMETERS}
        # What is known of header lines: of all, and of those without a condition the size of the body
        # and its content type, by whether there is a body.
        self._known: dict[bytes, Head] = {}
        self._bodiless: set[bytes] = set()
        self._bodies: dict[bytes, tuple[int, str]] = {}
        self._seen: set[int] = set()  # hashes of lines that came once
        # Answers, but for what differs from one to the next:
        self._start = b""  # what follows the status line
        self._hits: dict[str, bytes] = {}  # by content type
        self._written: dict[bool, bytes] = {}  # by whether the key was not there
        self.answer_all: Final = self._make_answer_all()
        """Answer the plain requests at the beginning of some bytes, and return the rest.

        `answer_all(data, connection)` is for bytes that begin where a request does. It writes the
        answers to the connection's transport, all at once, and stops after 64 of them: call it again
        with the rest, unless the connection is full.
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
            buckets: list[int] = recorder.buckets,
            seconds: list[float] = recorder.seconds,
            now: Callable[[], float] = monotonic,
            size_of: Callable[[bytes | list[bytes]], int] = len,
            type_of: Callable[[object], type] = type,
            plain: type = tuple,
        ) -> bytes:
            started = now()
            at, end, number = 0, size_of(data), 0
            out: list[bytes] = []
            while True:
                next_at = 0
                line = match_get(data, at)
                if line is not None:
                    lines_at = line.end()
                    if not number and data[lines_at:] in bodiless:
                        next_at = end
                    else:
                        body_at = data.find(b"\r\n\r\n", lines_at - 2) + 4
                        if data[lines_at:body_at] in bodiless:
                            next_at = body_at
                    if next_at:
                        namespace, key = line.groups()
                        try:
                            found = get(view, namespace.decode(), key.decode())
                            if type_of(found) is plain:
                                value, version, deadline, content_type = found
                                try:
                                    template = hits[content_type]
                                except KeyError:
                                    template = self._prepare(content_type)
                                age = self._caching(found) if deadline else b"no-cache"
                                size = size_of(value)
                                got[0] += 1
                                if size < 4096:
                                    answer = template % (version, age, size, value)
                                    if next_at == end and not number:
                                        connection.send(answer)  # a request by itself, as most are
                                    else:
                                        out.append(answer)
                                else:  # rather sent apart than copied
                                    out.append(template % (version, age, size, b""))
                                    out.append(value)
                            else:
                                self._answer_miss(found, namespace, key, out)
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
                    next_at = self._answer_other(data, at, out, connection)
                    if not next_at:
                        break
                at = next_at
                number += 1
                if at == end or number == 64:
                    break
            if number:
                if out:
                    if size_of(out) == 1:
                        connection.send(out[0])
                    else:
                        connection.transport.writelines(out)
                connection.answered_at = started
                spent = now() - started
                if spent <= 16e-6:  # as most
                    buckets[0] += number
                    seconds[0] += spent * number
                else:
                    recorder.took(spent, number)
            return data[at:] if at < end else b""

        return answer_all

    def _answer_other(self, data: bytes, at: int, out: list[bytes], connection: Connection) -> int:
        """Answer the request at `at` if it is plain and whole; return where it ends, 0 where it isn't."""
        line = self._match_line(data, at)
        if line is None:
            return 0
        body_at = data.find(b"\r\n\r\n", line.end() - 2) + 4
        lines = data[line.end() : body_at]
        if lines not in self._known:
            connection.unknown_lines = lines
            return 0
        head = self._known[lines]
        end = body_at + head.size
        target = self._read_target(*line.groups())
        if target is None or end > len(data) or (head.size and target[0] != "PUT"):
            return 0
        self.answer(target, head, data[body_at:end], out)
        return end

    def recognise(
        self, method: bytes, url: bytes, headers: RawHeaders, lines: bytes
    ) -> Call | None:
        """Return what an HTTP/1.1 request asks for, None where it is one for the app.

        `headers` are what the parser found in `lines`, which may be empty where they are unknown.
        """
        head = self._read_head(headers)
        found = self._match_target(url)
        if head is None or found is None or method not in self._methods:
            return None
        self._learn(lines, headers, head)
        target = self._read_target(method, *found.groups())
        if target is None or (head.size and method != b"PUT"):
            return None
        return Call(target, head, monotonic(), [])

    def answer_call(self, call: Call, out: list[bytes]) -> None:
        """Answer a call whose body has come whole, as `answer` does, and note the time it took."""
        self.answer(call.target, call.head, b"".join(call.body), out)
        self._recorder.took(monotonic() - call.started)

    def answer(self, target: Target, head: Head, body: bytes, out: list[bytes]) -> None:
        """Do what a request asks for and add the answer to `out`."""
        method, namespace, key, ttl, cas = target
        condition = head.condition if cas is None else conditions.all_of(head.condition, cas)
        view = self._view
        try:
            if method == "PUT":
                outcome = operations.put(
                    view,
                    namespace,
                    key,
                    body,
                    content_type=head.content_type,
                    ttl=ttl,
                    condition=condition,
                )
                answer = kv.answer_put(outcome)
            elif method == "DELETE":
                gone = operations.delete(view, namespace, key, condition=condition)
                answer = kv.answer_delete(gone, namespace, key)
            else:
                found = operations.get(view, namespace, key)
                answer = kv.answer_get(view, found, namespace, key, head.wanted, head.news)
        except Exception as error:
            self._fail(method, error, out)
        else:
            self._give(method, answer, out)

    # Answers

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

    def _answer_miss(
        self, found: Entry[bytes] | Missing, namespace: bytes, key: bytes, out: list[bytes]
    ) -> None:
        answer = kv.answer_get(self._view, found, namespace.decode(), key.decode(), None, None)
        self._give("GET", answer, out)

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
        self, method: bytes, namespace: bytes, key: bytes, query: bytes | None
    ) -> Target | None:
        """Return what a matched target asks for, None where it is not valid."""
        ttl = cas = None
        verb = self._methods[method]
        try:
            if 37 in key:  # %
                text = target.decode(key)
                check_key(text)
            else:
                text = key.decode()
            if query:
                parameters = target.parse_query(query, _PARAMETERS[verb])
                if "ttl" in parameters:
                    ttl = target.parse_ttl(parameters["ttl"])
                if "cas" in parameters:
                    cas = Condition.version(target.parse_cas(parameters["cas"]))
        except CacheServerError:
            return None
        return verb, namespace.decode(), text, ttl, cas

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
        try:
            wanted = conditions.if_match(fields.get(b"if-match"))
            news = conditions.if_none_match(fields.get(b"if-none-match"))
            content_type = bodies.parse_content_type(fields.get(b"content-type"))
        except RequestError:
            return None
        condition = conditions.all_of(wanted, news)
        return Head(int(size), wanted, news, condition, content_type)

    def _learn(self, lines: bytes, headers: RawHeaders, head: Head) -> None:
        """Remember what these lines say, if it is not the first time that they come."""
        if not lines or len(lines) > MAX_LINES or not _are(lines, headers):
            return
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


def _own_pattern(pattern: bytes) -> re.Pattern[bytes]:
    """Return a pattern that no other thread uses, for each match counts a reference to its pattern."""
    return re.compile(pattern + rb"(?#%d)" % next(_numbers))


def _are(lines: bytes, headers: RawHeaders) -> bool:
    """Tell whether these lines are these headers, one a line, and nothing else."""
    *fields, last, rest = lines.split(b"\r\n")
    if last or rest or len(fields) != len(headers):
        return False
    return all(
        line.partition(b":")[0].lower() == name and line.partition(b":")[2].strip(b" \t") == value
        for line, (name, value) in zip(fields, headers, strict=True)
    )
