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

import itertools
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Final, NamedTuple

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
from cacheserver.store.outcomes import Condition, Missing, Written
from cacheserver.store.store import Store

type RawHeaders = Sequence[tuple[bytes, bytes]]
type Target = tuple[str, str, str, float | None, Condition | None]
"""(method, namespace, key, ttl, what `?cas=` asks for)."""

MAX_KNOWN: Final = 128
"""Different header lines, and different content types, that are remembered; then all are forgotten."""
MAX_LINES: Final = 2048
"""Bytes of header lines that are remembered."""
MAX_SEEN: Final = 1024
"""Different header lines that are remembered to have come once."""
ENOUGH: Final = 256 << 10
"""Bytes of answers after which the client must take some before more are made."""

# Of printable ASCII, # belongs in no request line and ? ends the path.
_TARGET: Final = rb'/v1/kv/([A-Za-z0-9._-]{1,64})/([!"$->@-~]{1,1024})(?:\?([!"$-~]*))?'
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


class FastPath:
    """What the connections of one loop need to answer plain requests."""

    def __init__(self, store: Store, tokens: Tokens | None, recorder: Recorder) -> None:
        self._view = store.view()
        self._tokens = tokens
        self._recorder = recorder
        # Patterns of its own, as each match counts a reference to its pattern: comments make them so.
        comment = rb"(?#%d)" % next(_numbers)
        self._match_line = re.compile(_LINE + comment).match
        self._match_target = re.compile(_TARGET + comment).fullmatch
        self._methods = {method.encode(): method for method in _PARAMETERS}
        self._known: dict[bytes, Head] = {}
        self._seen: set[int] = set()  # hashes of header lines that came once
        self._start = b""  # what follows the status line in every answer
        # Answers but for what differs from one to the next:
        self._hits: dict[str, bytes] = {}
        self._replaced = self._created = b""

    def refresh(self, default_headers: RawHeaders) -> None:
        """Have answers begin with these headers from now on."""
        start = b"".join(b"%s: %s\r\n" % header for header in default_headers)
        if start != self._start:
            self._start = start
            self._hits.clear()
            self._replaced = self._template(kv.written(False, b'"\1"'))
            self._created = self._template(kv.written(True, b'"\1"'))

    def answer_all(self, data: bytes, out: list[bytes]) -> tuple[int, bytes]:
        """Answer the plain requests at the beginning of `data`, where a request begins, into `out`.

        Returns where they end, and the header lines of the next one if they are not known. Stops
        early when the answers come to ENOUGH.
        """
        started = perf_counter()
        at, end, weight, number = 0, len(data), 0, 0
        unknown = b""
        while at < end and weight < 262144:  # ENOUGH: names of modules are shared by all threads
            line = self._match_line(data, at)
            if line is None:
                break
            body_at = data.find(b"\r\n\r\n", line.end() - 2) + 4
            lines = data[line.end() : body_at]
            if lines not in self._known:
                unknown = lines
                break
            head = self._known[lines]
            next_at = body_at + head.size
            target = self._read_target(*line.groups())
            if target is None or next_at > end or (head.size and target[0] != "PUT"):
                break
            weight += self.answer(target, head, data[body_at:next_at], out)
            at = next_at
            number += 1
        if number:
            self._recorder.took(perf_counter() - started, number)
        return at, unknown

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
        return Call(target, head, perf_counter(), [])

    def answer_call(self, call: Call, out: list[bytes]) -> int:
        """Answer a call whose body has come whole, as `answer` does, and note the time it took."""
        weight = self.answer(call.target, call.head, b"".join(call.body), out)
        self._recorder.took(perf_counter() - call.started, 1)
        return weight

    def answer(self, target: Target, head: Head, body: bytes, out: list[bytes]) -> int:
        """Do what a request asks for; add the answer to `out` and return how many bytes it has."""
        method, namespace, key, ttl, cas = target
        try:
            if method == "PUT":
                outcome = operations.put(
                    self._view,
                    namespace,
                    key,
                    body,
                    content_type=head.content_type,
                    ttl=ttl,
                    condition=head.condition
                    if cas is None
                    else conditions.all_of(head.condition, cas),
                )
                if isinstance(outcome, Written):
                    return self._give_version(outcome, out)
                answer = kv.answer_put(outcome)
            elif method == "DELETE":
                condition = conditions.all_of(head.condition, cas)
                gone = operations.delete(self._view, namespace, key, condition=condition)
                answer = kv.answer_delete(gone, namespace, key)
            else:
                found = operations.get(self._view, namespace, key)
                if head.condition is None and not isinstance(found, Missing):
                    return self._give_value(method, found, out)
                answer = kv.answer_get(self._view, found, namespace, key, head.wanted, head.news)
        except CacheServerError as error:
            answer = problem(problems.kind_of(error), str(error))
        except Exception:
            _log.exception("a request on the fast path failed")
            answer = problem(problems.INTERNAL, problems.UNEXPECTED)
        return self._give(method, answer, out)

    # Answers

    def _give_value(self, method: str, entry: Entry[bytes], out: list[bytes]) -> int:
        value, version, deadline, content_type = entry
        try:
            template = self._hits[content_type]
        except KeyError:
            template = self._prepare_hit(content_type)
        if deadline:
            caching = kv.cache_control(operations.seconds_left(self._view, entry))
        else:
            caching = b"no-cache"
        size = len(value)
        self._recorder.answered((method, 200), 1)
        if method == "HEAD":
            out.append(template % (version, caching, size, b""))
        elif size < 4096:
            out.append(template % (version, caching, size, value))
        else:  # rather sent apart than copied
            out += (template % (version, caching, size, b""), value)
        return size + 256

    def _prepare_hit(self, content_type: str) -> bytes:
        if len(self._hits) >= MAX_KNOWN:
            self._hits.clear()
        raw = content_type.encode("ascii").replace(b"%", b"%%")
        raw = content_type.encode("ascii")
        template = self._template(kv.value(b'"\1"', b"\2", raw, b""))
        template = (
            template.replace(b"\r\ncontent-length: 0\r\n", b"\r\ncontent-length: %d\r\n") + b"%s"
        )
        self._hits[content_type] = template
        return template

    def _give_version(self, written: Written, out: list[bytes]) -> int:
        version, created = written
        self._recorder.answered(("PUT", 201 if created else 204), 1)
        out.append((self._created if created else self._replaced) % version)
        return 256

    def _give(self, method: str, answer: Answer, out: list[bytes]) -> int:
        self._recorder.answered((method, answer.status_code), 1)
        out.append(self._render(method, answer))
        return len(out[-1])

    def _render(self, method: str, answer: Answer) -> bytes:
        head = b"".join(b"%s: %s\r\n" % header for header in answer.raw_headers)
        body = b"" if method == "HEAD" else answer.body
        return b"".join((STATUS_LINE[answer.status_code], self._start, head, b"\r\n", body))

    def _template(self, answer: Answer) -> bytes:
        """Return an answer in which %d stands for each byte 1 and %s for each byte 2."""
        text = self._render("GET", answer).replace(b"%", b"%%")
        return text.replace(b"\1", b"%d").replace(b"\2", b"%s")

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
        self._known[lines] = head


def _are(lines: bytes, headers: RawHeaders) -> bool:
    """Tell whether these lines are these headers, one a line, and nothing else."""
    *fields, last, rest = lines.split(b"\r\n")
    if last or rest or len(fields) != len(headers):
        return False
    return all(
        line.partition(b":")[0].lower() == name and line.partition(b":")[2].strip(b" \t") == value
        for line, (name, value) in zip(fields, headers, strict=True)
    )
