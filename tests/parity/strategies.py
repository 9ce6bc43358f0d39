"""Sequences of requests as clients send them and as they should not, cut into pieces at random.

Versions aren't known before a server is asked, so requests hold marks of their length: the mark
`version(n)` stands for the version that lies `n` above the one with which the namespace began.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from hypothesis import strategies as st

from tests.parity.conftest import MAX_VALUE_SIZE, NAMESPACE
from tests.server.test_protocol import MALFORMED

_MARK: Final = re.compile(rb"100000000000000([0-9])")


def version(above: int) -> str:
    """The mark of a version."""
    return f"100000000000000{above}"


def with_versions(raw: bytes, first: int) -> bytes:
    """Put versions in the place of their marks; `first` is that with which the namespace began."""
    return _MARK.sub(lambda match: b"%d" % (first + int(match[1])), raw)


class Spelling(NamedTuple):
    """How a client writes a header line: all that may be otherwise and means the same."""

    case: Callable[[str], str]
    before: str
    """What stands before the value."""
    behind: str
    """What stands behind it."""

    def of(self, line: str) -> str:
        name, _, value = line.partition(":")
        return f"{self.case(name)}:{self.before}{value.strip(' \t')}{self.behind}"


@dataclass(frozen=True)
class Request:
    """A request, in the parts that tests vary."""

    method: str
    target: str
    lines: tuple[str, ...]
    """Header lines."""
    body: bytes | None
    chunks: int = 0
    """In how many chunks the body goes; 0: with its length."""
    http: str = "1.1"
    before: str = ""
    """An empty line, as some clients send one behind a body."""
    framing_at: int = 99
    """Before which header line stands the one that tells how the body is framed; 99: behind them."""
    framing: Spelling | None = None

    def __bytes__(self) -> bytes:
        lines = [*self.lines]
        body = self.body or b""
        framing = f"Content-Length: {len(body)}" if self.body is not None else ""
        if self.chunks:
            framing = "Transfer-Encoding: chunked"
            body = _in_chunks(body, self.chunks)
        if framing:
            line = framing if self.framing is None else self.framing.of(framing)
            lines.insert(self.framing_at, line)
        head = [f"{self.method} {self.target} HTTP/{self.http}", *lines, "", ""]
        return (self.before + "\r\n".join(head)).encode("latin-1") + body

    @property
    def has_body(self) -> bool:
        return bool(self.body) or self.chunks > 0


def _in_chunks(body: bytes, count: int) -> bytes:
    size = len(body) // count + 1
    pieces = (body[at : at + size] for at in range(0, len(body), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


class Write(NamedTuple):
    """What is handed to the kernel at once."""

    data: bytes
    pause: float
    """Seconds to wait after it."""


BEHIND_HEAD: Final = -1


class Cut(NamedTuple):
    """Where a write ends and the next one begins."""

    number: int
    """Of the request."""
    thousandth: int
    """Of that request; 0: right before it; BEHIND_HEAD: between head and body."""
    pauses: bool
    """Whether there is a pause."""


@dataclass(frozen=True)
class Conversation:
    """All that is sent on one connection. The last request asks for its end."""

    requests: tuple[Request | bytes, ...]
    """Bytes are no request: what they are answered with is the last answer."""
    cuts: tuple[Cut, ...] = ()

    def pieces(self) -> list[bytes]:
        return [*map(bytes, self.requests), bytes(_LAST)]

    def writes(self, raw: bytes) -> list[Write]:
        """Cut `raw`, which is as long as all pieces together."""
        writes, start = [], 0
        for end, pauses in sorted((self._offset(cut), cut.pauses) for cut in self.cuts):
            writes.append(Write(raw[start:end], 0.001 if pauses else 0.0))
            start = end
        return [*filter(lambda write: write.data, writes), Write(raw[start:], 0.0)]

    def _offset(self, cut: Cut) -> int:
        *before, piece = self.pieces()[: cut.number + 1]
        within = len(piece) * cut.thousandth // 1000
        if cut.thousandth == BEHIND_HEAD:
            within = piece.find(b"\r\n\r\n", 2) + 4
        return sum(map(len, before)) + within

    def may_arrive_in_part(self, number: int) -> bool:
        """Tell whether a server may have a part of this request, its head included, and no more."""
        pieces = self.pieces()
        start = sum(map(len, pieces[:number]))
        end = start + len(pieces[number])
        if end > _WITHIN_BUFFERS:
            return True
        at = 0
        for write in self.writes(b"".join(pieces)):
            if at <= start and end <= at + len(write.data):
                return len(write.data) > _ONE_PACKET
            at += len(write.data)
        return True

    def __repr__(self) -> str:
        lines = [f"  {_shortened(bytes(request))!r}" for request in self.requests]
        return "\n".join(["Conversation of", *lines, f"  {self.cuts}"])


_ONE_PACKET: Final = 16_384
"""What is no longer than this arrives at once, if it is sent at once."""
_WITHIN_BUFFERS: Final = 65_536
"""What goes beyond this may fill a buffer on its way, and be cut there."""
_LAST: Final = Request("GET", "/healthz", ("Host: test", "Connection: close"), None)


def _shortened(raw: bytes) -> bytes:
    return raw if len(raw) < 600 else raw[:500] + b"... (%d bytes)" % len(raw)


# What requests are made of. Simple things come first: that is where a failure is shrunk to.

_KV: Final = f"/v1/kv/{NAMESPACE}/"
_NAMESPACE: Final = f"/v1/namespaces/{NAMESPACE}"
KEYS: Final = ("a", "b", "%61", "b%2Fc", "b/c", "%C3%A4", "", "%zz", "%FF", "k" * 1025, "..", "a?b")
TARGETS: Final = (
    *("/healthz", "/metrics", "/v1/info", "/nothing", "/v1/kv/a:b/k", f"/v1/kv/{NAMESPACE}"),
    *(f"/v1/cas/{NAMESPACE}/a", f"http://test{_KV}a", f"HTTP://x:1{_KV}a?", f"/{_KV}a", "*"),
    *(f"/v1/incr/{NAMESPACE}/a", f"/v1/append/{NAMESPACE}/a", f"/v1/touch/{NAMESPACE}/a?ttl=9"),
    *(
        f"/v1/incr/{NAMESPACE}/n?by=x",
        "/v1/incr/a:b/k",
        f"/v1/incr/{NAMESPACE}",
        f"{_NAMESPACE}/clear",
    ),
)
VERBS: Final = ("incr", "incr", "append", "touch")
CONFIGS: Final = (
    *(b"{}", b'{"max_entries": 2, "stripes": 1, "policy": "fifo"}', b'{"require_cas": true}'),
    *(b'{"default_ttl": 100}', b'{"max_entries": 1, "policy": "none"}', b'{"max_bytes": 1}'),
    *(b'{"policy": "x"}', b"[]", b'{"stripes": 2}'),
)
METHODS: Final = ("GET", "PUT", "HEAD", "DELETE", "POST", "OPTIONS", "PATCH")
TAGS: Final = (
    *(f'"{version(n)}"' for n in range(4)),
    "*",
    "*",
    '"7"',
    f'W/"{version(0)}"',
    '""',
    '"x"',
)
BAD_TAGS: Final = ("7", '"7', "", ",", '"a" "b"', '*, "7"', 'w/"7"', "\xff")
TYPES: Final = ("text/plain", "application/json", "a/b; c=d", "", "x" * 256, "\xe4", "a\tb")
SIZES: Final = (1, 2, 100, 4096, 16_000, MAX_VALUE_SIZE, MAX_VALUE_SIZE + 1, 65_536, 70_000)
JSON: Final = (
    b'{"expected_version": %b, "value": [1]}' % version(0).encode(),
    b'{"expected_version": null, "value_base64": "eA==", "ttl": 100}',
    b'{"expected_version": 7, "value": {"a": 1}}',
    b"{",
)
OTHER_LINES: Final = (
    *("Connection: close", "Connection: keep-alive", "Expect: 100-continue", "Accept: */*"),
    *("Content-Encoding: gzip", "Content-Encoding: identity", "Content-Range: bytes 0-1/2"),
    *("Range: bytes=0-0", "X:", "X-Long: " + "x" * 3000, "Upgrade: h2c", "Authorization: Bearer x"),
    *("Cookie: a=b; c=d", "Proxy-Connection: close", "Keep-Alive: timeout=5", "TE: trailers"),
)
JUNK: Final = (b"nonsense\r\n\r\n", b"\0", *MALFORMED.values())

_queries = st.sampled_from(
    [
        *("", "?ttl=100", "?cas=0", "?ttl=0", "?", "?x=1", "?cas=7", "?ttl=x", "?cas=x", "?ttl"),
        *(f"?cas={version(n)}" for n in range(4)),
        *("?ttl=100&ttl=100", "?cas=0&cas=0", f"?ttl=100&cas={version(0)}", "?%63as=0", "?a=%zz"),
    ]
)
_verb_queries = st.sampled_from(
    [
        *("", "", "?ttl=100", "?by=5", "?by=-7&initial=3", "?cas=0", "?ttl=0", "?cas=7", "?by=x"),
        *("?by=9223372036854775807", f"?cas={version(1)}", "?ttl=9&by=2", "?ttl=", "?initial=7"),
    ]
)
_targets = st.one_of(
    st.builds(lambda key, query: _KV + key + query, st.sampled_from(KEYS[:6]), _queries),
    st.sampled_from(KEYS).map(lambda key: _KV + key),
    st.sampled_from(TARGETS),
)
_tags = st.one_of(
    st.sampled_from(TAGS),
    st.lists(st.sampled_from(TAGS), min_size=2, max_size=3).map(", ".join),
    st.sampled_from(BAD_TAGS),
)
_lines = st.one_of(
    st.builds("{}: {}".format, st.sampled_from(["If-Match", "If-None-Match"]), _tags),
    st.sampled_from(TYPES).map("Content-Type: {}".format),
    st.sampled_from(OTHER_LINES),
)
_bodies = st.one_of(
    st.sampled_from(
        [b"", b"value", *JSON, b"GET %ba HTTP/1.1\r\nHost: test\r\n\r\n" % _KV.encode()]
    ),
    st.one_of(st.sampled_from(SIZES), st.integers(0, 70_000)).map(lambda size: b"x" * size),
)


_blanks = st.sampled_from([" ", "", "  ", "\t", " \t "])
_spellings = st.builds(
    Spelling,
    st.sampled_from([str, str.lower, str.upper, str.title, str.swapcase]),
    _blanks,
    st.one_of(st.just(""), _blanks),
)
_MANY: Final = 10


_plain_lines = st.one_of(
    st.builds(
        "{}: {}".format, st.sampled_from(["If-Match", "If-None-Match"]), st.sampled_from(TAGS)
    ),
    st.sampled_from(
        ["Content-Type: text/plain", "Accept: */*", "Connection: keep-alive", "X-Y: z"]
    ),
)


@st.composite
def _plain_requests(draw: st.DrawFn) -> Request:
    """A request as nearly all clients send it."""
    method = draw(st.sampled_from(METHODS[:4]))
    query = draw(_queries) if draw(st.integers(0, 3)) == 3 else ""
    size = draw(st.sampled_from((5, 0, 100, 5000, MAX_VALUE_SIZE)))
    return Request(
        method,
        _KV + draw(st.sampled_from(("a", "a", "%61", "b", "b%2Fc"))) + query,
        ("Host: test", *draw(st.lists(_plain_lines, max_size=2))),
        b"v" * size if method == "PUT" else None,
    )


@st.composite
def _verbs(draw: st.DrawFn) -> Request:
    """A request for one of the verbs that have a route of their own."""
    verb = draw(st.sampled_from(VERBS))
    key = draw(st.sampled_from(("n", "n", "a", "%6E", "b%2Fc")))
    body = draw(st.sampled_from([b"1", b"", b"7" * 5000])) if verb == "append" else None
    return Request(
        "POST",
        f"/v1/{verb}/{NAMESPACE}/{key}{draw(_verb_queries)}",
        ("Host: test", *draw(st.lists(_plain_lines, max_size=2))),
        b"" if body is None and draw(st.booleans()) else body,
    )


@st.composite
def _numbers(draw: st.DrawFn) -> Request:
    """A value to count with."""
    value = draw(st.sampled_from([b"0", b"-12", b"9223372036854775807", b"01"]))
    return Request("PUT", f"{_KV}n", ("Host: test",), value)


@st.composite
def _configurations(draw: st.DrawFn) -> Request:
    """A request for the whole namespace."""
    method = draw(st.sampled_from(("PUT", "PATCH", "GET", "HEAD")))
    body = draw(st.sampled_from(CONFIGS)) if method in ("PUT", "PATCH") else None
    lines = (
        ("Host: test", "Content-Type: application/json") if body is not None else ("Host: test",)
    )
    return Request(method, _NAMESPACE, lines, body)


_plain = st.one_of(_plain_requests(), _verbs(), _numbers())


@st.composite
def _nearly_plain_requests(draw: st.DrawFn) -> Request:
    """A request that would be plain but for one thing."""
    plain = draw(_plain)
    how = draw(st.integers(0, 9))
    if how == 9:
        return replace(plain, target=draw(_targets))
    if how == 8:
        return replace(plain, body=draw(_bodies))
    if how == 7:
        return replace(plain, before="\r\n")
    if how == 6:
        return replace(plain, http="1.0")
    if how == 5:
        return replace(plain, chunks=draw(st.sampled_from([1, 3])))
    line = draw(st.sampled_from(OTHER_LINES) if how < 3 else _lines)
    return replace(plain, lines=(*plain.lines, draw(_spellings).of(line)))


@st.composite
def _requests_spelled_anyhow(draw: st.DrawFn) -> Request:
    """A request whose header lines come in any order, case, number and white space."""
    plain = draw(_plain)
    known = st.one_of(_plain_lines, _plain_lines, _lines)
    more = draw(st.lists(known, max_size=_MANY))
    names = draw(st.lists(st.integers(0, 10**6), max_size=_MANY))
    lines = draw(st.permutations([*plain.lines, *more, *(f"X-{name}: {name}" for name in names)]))
    return replace(
        plain,
        lines=tuple(draw(_spellings).of(line) for line in lines),
        framing_at=draw(st.integers(0, len(lines))),
        framing=draw(_spellings),
    )


@st.composite
def _odd_requests(draw: st.DrawFn) -> Request:
    """A request of which anything may be odd, or wrong."""
    method = draw(st.sampled_from((*METHODS[:4] * 3, *METHODS)))
    lines = draw(st.lists(_lines, max_size=3))
    takes_body = method in ("PUT", "POST", "PATCH")
    has_body = draw(st.integers(0, 9)) < (9 if takes_body else 1)
    http = "1.0" if draw(st.integers(0, 39)) == 39 else "1.1"
    return Request(
        method,
        draw(_targets),
        ("Host: test", *(draw(_spellings).of(line) for line in lines)),
        draw(_bodies) if has_body else None,
        draw(st.sampled_from([0, 0, 0, 1, 3])) if has_body and http == "1.1" else 0,
        http,
        draw(st.sampled_from(["", "", "", "", "\r\n"])),
    )


_requests = st.one_of(
    _plain_requests(),
    _verbs(),
    _numbers(),
    _requests_spelled_anyhow(),
    _nearly_plain_requests(),
    _odd_requests(),
    _configurations(),
)


@st.composite
def _changed(draw: st.DrawFn, request: Request) -> Request:
    """The same request, or one that differs from it a little: who remembers heads is put to the test."""
    how = draw(st.integers(0, 9))
    lines = request.lines
    if how == 6:
        lines = (*lines, draw(_lines))
    elif how == 7:
        lines = tuple(draw(_spellings).of(line) for line in lines)
    elif how == 8:
        lines = (lines[0], *reversed(lines[1:]))
    elif how == 9:
        # Of a namespace that is made anew the versions depend on the microsecond.
        methods = METHODS[:3] if request.target == _NAMESPACE else METHODS[:4]
        return replace(request, method=draw(st.sampled_from(methods)))
    body = draw(_bodies) if request.body is not None and how == 5 else request.body
    return replace(request, lines=lines, body=body)


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    """Requests, of which many are like one before, on one connection."""
    patterns = draw(st.lists(_requests, min_size=1, max_size=6))
    count = draw(st.integers(1, 30))
    chosen = draw(st.lists(st.sampled_from(patterns), min_size=count, max_size=count))
    sequence: list[Request | bytes] = [draw(_changed(request)) for request in chosen]
    if draw(st.integers(0, 9)) == 9:
        sequence.append(draw(st.sampled_from(JUNK)))
    places = st.one_of(st.sampled_from([0, BEHIND_HEAD]), st.integers(0, 999))
    cut = st.builds(Cut, st.integers(0, len(sequence)), places, st.booleans())
    cuts = draw(st.lists(cut, max_size=8))
    return Conversation(tuple(sequence), tuple(cuts))
