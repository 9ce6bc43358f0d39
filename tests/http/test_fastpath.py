"""The fast path: what it answers by itself, what it leaves, what it remembers, what it counts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from cacheserver import operations
from cacheserver.http.access import Tokens
from cacheserver.http.fastpath import LARGE, MAX_KNOWN, MAX_LINES, FastPath
from cacheserver.metrics import Metrics
from cacheserver.store.outcomes import Conflict, Missing
from cacheserver.store.store import Store

HOST = b"Host: t\r\n"
DATE = (b"date", b"Sun, 22 Nov 2026 12:00:00 GMT")


class Connection:
    """Keeps what is written to it."""

    def __init__(self) -> None:
        self.transport = cast("asyncio.Transport", self)
        self.send: Callable[[bytes], object] = self.write
        self.answered_at = 0.0
        self.pieces: list[bytes] = []
        self.writes = 0

    def write(self, data: bytes) -> None:
        self.pieces.append(data)
        self.writes += 1

    def writelines(self, pieces: Sequence[bytes]) -> None:
        self.pieces += pieces
        self.writes += 1

    @property
    def received(self) -> bytes:
        return b"".join(self.pieces)


class Served:
    """A fast path over a store of its own."""

    def __init__(
        self, *, tokens: Tokens | None = None, slow_threshold: float = 10.0, **options: Any
    ) -> None:
        self.store = Store(**options)
        self.metrics = Metrics(slow_threshold)
        slowlog = self.metrics.slowlog
        self.path = FastPath(self.store, tokens, self.metrics.recorder(), slowlog)
        self.path.refresh([DATE])

    def ask(self, data: bytes) -> tuple[Connection, bytes]:
        """Hand `data` to it once; return what it wrote and what it left."""
        connection = Connection()
        return connection, self.path.answer_all(data, connection)

    def keep(self, key: str, value: bytes, content_type: str = "text/plain") -> None:
        """Write a key of namespace n."""
        operations.put(self.store.view(), "n", key, value, content_type=content_type)

    def counts(self) -> dict[tuple[str, int], int]:
        """How many requests were answered, by method and status."""
        return dict(self.metrics.totals().requests)


def get(key: str, lines: bytes = HOST) -> bytes:
    return b"GET /v1/kv/n/%b HTTP/1.1\r\n%b\r\n" % (key.encode(), lines)


def put(key: str, value: bytes, lines: bytes = HOST) -> bytes:
    head = b"PUT /v1/kv/n/%b HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n"
    return head % (key.encode(), lines, len(value)) + value


def post(verb: str, key: str, body: bytes = b"", lines: bytes = HOST) -> bytes:
    head = b"POST /v1/%b/n/%b HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n"
    return head % (verb.encode(), key.encode(), lines, len(body)) + body


def statuses(received: bytes) -> list[int]:
    return [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:]]


@pytest.mark.parametrize("times", [1, 2, 3])
def test_an_answer_is_the_same_however_often_the_lines_came(times: int) -> None:
    """With lines that are new, seen once and known."""
    served = Served()
    served.keep("k", b"value")
    for _ in range(times):
        connection, rest = served.ask(get("k"))
    head, _, body = connection.received.partition(b"\r\n\r\n")
    found = operations.get(served.store.view(), "n", "k")
    assert not isinstance(found, Missing)
    version = found[1]
    assert head.split(b"\r\n") == [
        b"HTTP/1.1 200 OK",
        b"date: Sun, 22 Nov 2026 12:00:00 GMT",
        b'etag: "%d"' % version,
        b"cache-control: no-cache",
        b"content-type: text/plain",
        b"content-length: 5",
    ]
    assert (body, rest) == (b"value", b"")


def test_requests_of_one_read_are_answered_in_order_and_in_one_write() -> None:
    """Reads, writes, misses and deletions of one connection, those with known lines and others."""
    served = Served()
    data = put("a", b"1") + get("a") + get("none") + get("a", b"X-Id: 7\r\n" + HOST)
    data += b"DELETE /v1/kv/n/a HTTP/1.1\r\n" + HOST + b"\r\n" + get("a")
    for _ in range(3):
        connection, rest = served.ask(data)
        assert statuses(connection.received) == [201, 200, 404, 200, 204, 404]
        assert (connection.writes, rest) == (1, b"")
    assert served.counts() == {
        ("PUT", 201): 3,
        ("GET", 200): 6,
        ("GET", 404): 6,
        ("DELETE", 204): 3,
    }
    assert served.metrics.totals().durations.count == 18


def test_other_verbs_are_answered_too() -> None:
    """Numbers, pieces and times to live, between reads and writes of the same connection."""
    served = Served()
    data = post("incr", "n") + post("incr", "n?by=5&ttl=100") + get("n") + post("append", "n", b"0")
    data += post("touch", "n?ttl=5") + post("incr", "n?cas=7") + post("touch", "none") + get("n")
    data += post("append", "n", b"x") + post("incr", "%6e") + b"DELETE" + get("n")[3:]
    for _ in range(3):
        connection, rest = served.ask(data)
        expected = [200, 200, 200, 200, 204, 412, 404, 200, 200, 409, 204]
        assert statuses(connection.received) == expected
        assert (connection.writes, rest) == (1, b"")
        assert b'{"value":6,"version":' in connection.received
        assert b'{"length":2,"version":' in connection.received
        assert b"\r\n\r\n60HTTP/1.1 200 OK" in connection.received
    assert served.counts()["POST", 200] == 4 * 3
    assert served.counts()["POST", 409] == 3


def test_what_an_operation_must_not_be_taken_for() -> None:
    """The same query means something else behind another verb, also once it is known."""
    served = Served()
    for _ in range(3):
        connection, rest = served.ask(post("touch", "k?ttl=5") + put("k?ttl=5", b"1"))
        assert statuses(connection.received)[1] in (201, 204)
        assert rest == b""
        for request in (get("k?ttl=5"), b"DELETE" + get("k?ttl=5")[3:]):
            _, rest = served.ask(request)
            assert rest == request


def test_a_connection_is_answered_so_much_at_a_time() -> None:
    """After 64 answers the rest is given back, and asked for again."""
    served = Served()
    served.keep("k", b"value")
    connection, rest = served.ask(get("k") * 150)
    assert statuses(connection.received) == [200] * 64
    assert rest == get("k") * 86


@pytest.mark.parametrize("request_line", [get("k"), get("%6b")], ids=["simple", "other"])
def test_behind_a_large_value_the_client_has_to_take_some(request_line: bytes) -> None:
    """So that a client that reads nothing keeps one of them in memory, and not sixty-four."""
    served = Served()
    served.keep("k", bytes(LARGE))
    for _ in range(3):
        connection, rest = served.ask(request_line * 10)
        assert statuses(connection.received) == [200]
        assert rest == request_line * 9


def test_a_large_value_is_not_copied() -> None:
    """What is handed to the transport is the value itself."""
    served = Served()
    value = bytes(5000)
    served.keep("k", value)
    for _ in range(3):
        connection, _rest = served.ask(get("k"))
        assert any(piece is value for piece in connection.pieces)
        assert connection.received.endswith(b"content-length: 5000\r\n\r\n" + value)


@pytest.mark.parametrize("key", ["k", "%6b"])
def test_a_percent_sign_in_a_content_type_is_one(key: str) -> None:
    """Answers are made from templates, in which such a sign has a meaning."""
    served = Served()
    served.keep("k", b"50%", content_type="text/x; a=%d%s%%")
    connection, _rest = served.ask(get(key))
    assert b"\r\ncontent-type: text/x; a=%d%s%%\r\n" in connection.received
    assert connection.received.endswith(b"\r\n\r\n50%")


def test_answers_begin_with_the_headers_of_now() -> None:
    """Also those whose template was made before."""
    served = Served()
    served.keep("k", b"value")
    served.ask(get("k"))
    served.path.refresh([(b"date", b"later")])
    for data in (get("k"), get("none"), put("k", b"2"), put("new", b"2")):
        connection, _rest = served.ask(data)
        assert connection.received.split(b"\r\n")[1] == b"date: later"


@pytest.mark.parametrize(
    "data",
    [
        get("k", b""),
        get("k", HOST * 2),
        get("k", HOST + b"Expect: 100-continue\r\n"),
        get("k", HOST + b"Connection: close\r\n"),
        get("k", HOST + b"cOnNeCtIoN: upgrade\r\nUpgrade: h2c\r\n"),
        get("k", HOST + b"Content-Length: 1\r\n") + b"x",
        get("k", HOST + b"Content-Length: 1\r\nContent-Length: 1\r\n") + b"x",
        get("k", HOST + b"Transfer-Encoding: chunked\r\n") + b"0\r\n\r\n",
        get("k", HOST + b"If-Match: 7\r\n"),
        get("k", HOST + b"X: a\r\n b\r\n"),
        get("k", HOST + b"X: a\nY: b\r\n"),
        get("k", HOST + b"X: a\0\r\n"),
        get("k", HOST + b"X : a\r\n"),
        get("k", HOST + b"X\r\n"),
        get("k", HOST + b": a\r\n"),
        get("k", HOST + b"X: %b\r\n" % (b"a" * MAX_LINES)),
        get("k", HOST)[:-1],
        get("k?ttl=1"),
        get("k#f"),
        get("k%"),
        get("k%ff"),
        get("k" * 1025),
        get("k\u00e9"),
        get("k").replace(b"1.1", b"1.0"),
        get("k").replace(b"/n/", b"/n!/"),
        get("k").replace(b"/n/", b"/%b/" % (b"n" * 65)),
        get("k").replace(b"GET", b"POST"),
        get("k").replace(b"/kv/", b"/cas/"),
        get("k").replace(b"/kv/", b"/incr/"),
        post("incr", "k?by=x"),
        post("incr", "k?x=1"),
        post("incr", "k", b"by=5"),
        post("touch", "k", b"ttl=5"),
        post("append", "k?by=1", b"1"),
        post("append", "k", b"1")[:-1],
        post("append", "k", b"1", HOST + b"Content-Encoding: gzip\r\n"),
        post("cas", "k", b"{}"),
        post("namespaces", "clear"),
        put("k", b"1", HOST + b"Content-Type: \x01\r\n"),
        put("k", b"1", HOST + b"Content-Encoding: gzip\r\n"),
        put("k", b"1")[:-1],
        put("k?cas=x", b"1"),
        b"\r\n" + get("k"),
    ],
)
def test_what_is_not_plain_is_left(data: bytes) -> None:
    """Unusual, invalid and incomplete requests are given back untouched, however often they come."""
    served = Served()
    served.keep("k", b"value")
    for _ in range(3):
        connection, rest = served.ask(get("k") + data)
        assert statuses(connection.received) == [200]
        assert rest == data
    assert operations.get(served.store.view(), "n", "k")[0] == b"value"


def test_who_shows_no_token_is_left() -> None:
    """Where tokens are asked for, only lines with one are answered, also once both are known."""
    served = Served(tokens=Tokens(["right"]))
    served.keep("k", b"value")
    right = get("k", HOST + b"Authorization: Bearer right\r\n")
    for lines in (HOST, HOST + b"Authorization: Bearer wrong\r\n") * 3:
        connection, rest = served.ask(right + get("k", lines))
        assert statuses(connection.received) == [200]
        assert rest == get("k", lines)


def test_what_is_remembered_of_lines_is_bounded() -> None:
    """Lines that come once are not kept, and of those that come again not more than MAX_KNOWN."""
    served = Served()
    served.keep("k", b"value")
    for number in range(5000):
        served.ask(get("k", HOST + b"X-Id: %d\r\n" % number))
    assert len(served.path._known) == 0
    for number in range(3 * MAX_KNOWN):
        for _ in range(2):
            served.ask(get("k", HOST + b"X-Id: %d\r\n" % number))
    assert 0 < len(served.path._known) <= MAX_KNOWN
    assert served.path._bodiless <= served.path._known.keys()
    assert served.path._bodies.keys() <= served.path._known.keys()


def test_what_is_remembered_of_content_types_and_queries_is_bounded() -> None:
    """However many of them clients invent."""
    served = Served()
    for number in range(3 * MAX_KNOWN):
        served.keep("k", b"value", content_type=f"text/x-{number}")
        connection, _rest = served.ask(get("k") + put(f"k?ttl={number}", b"1"))
        assert statuses(connection.received) == [200, 204]
    assert len(served.path._hits) <= MAX_KNOWN
    assert len(served.path._queries) <= MAX_KNOWN


def test_a_refused_write_is_a_problem_and_the_next_request_is_answered() -> None:
    """What the store refuses costs nobody else anything."""
    served = Served(max_memory=5000, policy="none")
    served.keep("full", bytes(3000))
    for _ in range(3):
        connection, rest = served.ask(put("k", bytes(3000)) + put("k", bytes(6000)) + get("none"))
        assert statuses(connection.received) == [507, 413, 404]
        assert rest == b""


def test_contention_tells_when_to_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that others are always quicker than gives 503, as it does through the app."""

    def never_still(*_arguments: object, **_options: object) -> Conflict[bytes]:
        return Conflict(None)

    monkeypatch.setattr(operations, "put", never_still)
    connection, rest = Served().ask(post("incr", "n") + get("n"))
    assert statuses(connection.received) == [503, 404]
    assert b"\r\nretry-after: 1\r\n" in connection.received
    assert rest == b""


def test_what_is_slow_is_noted_once() -> None:
    """Where everything is, so are the quickest reads; what comes together is noted together."""
    served = Served(slow_threshold=0.0)
    trace = b"TraceParent:  00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01 \r\n" + HOST
    requests = (
        (put("a", b"1"), "put", "PUT", "a", 201, 1, ""),
        (get("a"), "get", "GET", "a", 200, 1, ""),
        (get("a", trace), "get", "GET", "a", 200, 1, "a" * 32),
        (get("a", trace + trace.removesuffix(HOST)), "get", "GET", "a", 200, 1, ""),
        (get("a") + get("b", trace), "get", "GET", "a", 200, 2, ""),
        (b"HEAD" + get("%C3%A9")[3:] + get("a"), "get", "HEAD", "\u00e9", 404, 2, ""),
        (post("incr", "a?by=5") + put("b", b"2") * 2, "incr", "POST", "a", 200, 3, ""),
        (get("a") * 64, "get", "GET", "a", 200, 64, ""),
    )
    for _ in range(3):
        for data, *_ in requests:
            assert served.ask(data)[1] == b""
    noted = served.metrics.slowlog.latest()[::-1]
    expected = [tuple(rest) for _, *rest in requests] * 3
    expected[8] = expected[16] = ("put", "PUT", "a", 204, 1, "")
    assert [
        (each.operation, each.method, each.key, each.status, each.requests, each.trace_id)
        for each in noted
    ] == expected
    assert {each.namespace for each in noted} == {"n"}
    assert served.metrics.totals().durations.count == sum(each.requests for each in noted)


def test_below_the_threshold_nothing_is_noted() -> None:
    """However much is asked."""
    served = Served()
    for _ in range(200):
        served.ask(put("a", b"1") + get("a"))
        served.ask(get("a"))
    assert served.metrics.slowlog.total == 0


@pytest.mark.parametrize("times", [1, 3])
def test_a_mistake_of_ours_is_a_500_and_the_next_request_is_answered(
    times: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and the client is told nothing of it."""

    def broken(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(operations, "get", broken)
    served = Served()
    for _ in range(times):
        connection, rest = served.ask(get("k") + put("k", b"1"))
        assert statuses(connection.received)[0] == 500
        assert statuses(connection.received)[1] in (201, 204)
        assert b"secret" not in connection.received
        assert rest == b""
    assert "secret" in caplog.text
