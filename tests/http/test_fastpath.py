"""The fast path: what it answers by itself, what it leaves and what it keeps, what it counts."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from time import monotonic
from typing import Any, cast

import pytest

from cacheserver import operations
from cacheserver.clock import Clock
from cacheserver.http import kv
from cacheserver.http.access import Tokens
from cacheserver.http.fastpath import LARGE, OPERATIONS, Connection, FastPath
from cacheserver.http.head import MAX_HEAD
from cacheserver.http.routes import ROUTES
from cacheserver.metrics import Metrics
from cacheserver.store.outcomes import Conflict, Missing
from cacheserver.store.store import Store

HOST = b"Host: t\r\n"
DATE = (b"date", b"Sun, 22 Nov 2026 12:00:00 GMT")


class Client(Connection):
    """Keeps what is written to it, and what is left for others."""

    def __init__(self, path: FastPath, *, takes_all: bool = True) -> None:
        self.transport = cast("asyncio.Transport", self)
        self.send = self.write
        self.now = monotonic
        self.fast_path = path
        self.ready = True
        self.takes_all = takes_all
        self.left = b""
        self.pieces: list[bytes] = []
        self.writes = 0
        self.closing = False

    def accept(self, data: bytes) -> None:
        self.left += data

    def write(self, data: bytes) -> None:
        self.writelines([data])

    def writelines(self, pieces: Sequence[bytes]) -> None:
        self.pieces += pieces
        self.writes += 1
        self.ready = self.ready and self.takes_all

    def is_closing(self) -> bool:
        return self.closing

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

    def ask(self, *data: bytes, takes_all: bool = True) -> tuple[Client, bytes]:
        """Hand it these pieces; return what it wrote and what it left. It must keep nothing."""
        client = Client(self.path, takes_all=takes_all)
        for piece in data:
            client.data_received(piece)
        assert client.kept_since == 0.0
        return client, client.left

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


def test_an_answer_has_the_headers_of_now_and_of_its_value() -> None:
    """In this order, whatever the client sends besides."""
    served = Served()
    served.keep("k", b"value")
    connection, rest = served.ask(get("k", HOST + b"X-Id: 7\r\n"))
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
    """After 64 answers they are sent, and it goes on if the client takes them."""
    served = Served()
    served.keep("k", b"value")
    connection, rest = served.ask(get("k") * 150)
    assert statuses(connection.received) == [200] * 150
    assert (connection.writes, rest) == (3, b"")
    connection, rest = served.ask(get("k") * 150, takes_all=False)
    assert statuses(connection.received) == [200] * 64
    assert rest == get("k") * 86


@pytest.mark.parametrize("key", ["k", "%6b"])
def test_behind_a_large_value_the_client_has_to_take_some(key: str) -> None:
    """So that a client that reads nothing keeps one of them in memory, and not sixty-four."""
    served = Served()
    served.keep("k", bytes(LARGE))
    connection, rest = served.ask(get(key) * 10, takes_all=False)
    assert statuses(connection.received) == [200]
    assert rest == get(key) * 9


def test_a_large_value_is_not_copied() -> None:
    """What is handed to the transport is the value itself."""
    served = Served()
    value = bytes(5000)
    served.keep("k", value)
    connection, _rest = served.ask(get("k") * 2)
    assert [piece is value for piece in connection.pieces] == [False, True, False, True]
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
    """Whatever they are."""
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
        get("k", HOST + b"X: %b\r\n" % (b"a" * MAX_HEAD)),
        get("k", HOST + b"Content-Length: 0 \r\n"),
        get("k", HOST + b"Content-Length: 0000000000000000000\r\n"),
        get("k", HOST + b"If-Match: *\r\nIf-Match: *\r\n"),
        get("k", HOST + b"Connection: keep-alive\r\nConnection: keep-alive\r\n"),
        get("k", HOST + b"Origin: null\r\n"),
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
        post("append", "k", b"1", HOST + b"Content-Encoding: gzip\r\n"),
        post("cas", "k", b"{}"),
        post("namespaces", "clear"),
        put("k", b"1", HOST + b"Content-Type: \x01\r\n"),
        put("k", b"1", HOST + b"Content-Encoding: gzip\r\n"),
        put("k?cas=x", b"1"),
        b"\r\n" + get("k"),
    ],
)
def test_what_is_not_plain_is_left(data: bytes) -> None:
    """Unusual and invalid requests are handed on untouched."""
    served = Served()
    served.keep("k", b"value")
    connection, rest = served.ask(get("k") + data)
    assert statuses(connection.received) == [200]
    assert rest == data
    assert operations.get(served.store.view(), "n", "k")[0] == b"value"


def test_who_shows_no_token_is_left() -> None:
    """Where tokens are asked for, only a request with one of them is answered."""
    served = Served(tokens=Tokens(["other", "right"]))
    served.keep("k", b"value")
    right = get("k", HOST + b"Authorization: Bearer right\r\n")
    right += get("k", HOST + b"authorization:bEARER   other \r\n")
    wrong = b"", b"wrong", b"righ", b"right1", b"\tright", b"right other"
    lines = [b"Authorization: Bearer %b\r\n" % token for token in wrong]
    lines += [b"Authorization: Basic right\r\n", b"Authorization: right\r\n", b""]
    lines += [b"Authorization: Bearer right\r\n" * 2]
    for line in lines:
        connection, rest = served.ask(right + get("k", HOST + line))
        assert statuses(connection.received) == [200, 200]
        assert rest == get("k", HOST + line)


def test_what_is_answered_here_is_what_the_routes_say() -> None:
    """Each operation of a key whose request has no body in JSON, under its method and path."""
    served = Served()
    for route in ROUTES:
        path = route.path.format(namespace="n", key="none").encode()
        request = b"%b %b HTTP/1.1\r\n%b\r\n" % (route.method.encode(), path, HOST)
        _connection, rest = served.ask(request)
        assert (rest == b"") == (route.operation in OPERATIONS), route


PIPELINE = (
    get("none", b"x-id: 1\r\n" + HOST)
    + put("k", b"first", HOST + b"content-type:text/plain\r\n")
    + put("k", b"x" * 40, HOST + b'If-Match: "7"\r\n')
    + get("k", HOST + b"If-None-Match: *\r\n")
    + post("append", "a%2Fb?ttl=60", b"more")
    + post("incr", "n?by=-5")
    + b"DELETE /v1/kv/n/k HTTP/1.1\r\n"
    + HOST
    + b"\r\n"
)
ANSWERS = [404, 201, 412, 304, 200, 200, 204]


@pytest.mark.parametrize("cut", range(1, len(PIPELINE)))
def test_requests_may_be_cut_anywhere(cut: int) -> None:
    """What has come whole is answered, the beginning of the next request is kept until the rest comes."""
    connection, rest = Served().ask(PIPELINE[:cut], PIPELINE[cut:])
    assert statuses(connection.received) == ANSWERS
    assert rest == b""


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_requests_may_come_in_pieces(size: int) -> None:
    """However small."""
    pieces = [PIPELINE[at : at + size] for at in range(0, len(PIPELINE), size)]
    connection, rest = Served().ask(*pieces)
    assert statuses(connection.received) == ANSWERS
    assert rest == b""


def test_what_is_kept_can_be_taken_back() -> None:
    """The part of a request that has come, for who goes on with the connection."""
    client = Client(Served().path)
    whole = put("k", b"value")
    for cut in range(1, len(whole)):
        client.data_received(whole[:cut])
        assert client.kept_since > 0
        assert b"".join(client.take_kept()) == whole[:cut]
        assert client.kept_since == 0.0
    assert (client.pieces, client.left) == ([], b"")


def test_a_refused_write_is_a_problem_and_the_next_request_is_answered() -> None:
    """What the store refuses costs nobody else anything."""
    served = Served(max_memory=5000, policy="none")
    served.keep("full", bytes(3000))
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


def test_a_mistake_of_ours_is_a_500_and_the_next_request_is_answered(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and the client is told nothing of it."""

    def broken(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(operations, "get", broken)
    connection, rest = Served().ask(get("k") + put("k", b"1"))
    assert statuses(connection.received) == [500, 201]
    assert b"secret" not in connection.received
    assert rest == b""
    assert "secret" in caplog.text


class Stopped(BaseException):
    """What ends a batch midway, as a signal's handler may."""


def test_what_a_batch_that_failed_has_written_is_for_nobody_else() -> None:
    """The next connection gets its own answers, and none of those that could not be sent."""
    stopped = [False]

    def tell() -> float:
        if stopped[0]:
            raise Stopped
        return 5.0

    served = Served(clock=Clock(monotonic=tell))
    served.keep("secret", b"of the first")
    operations.put(served.store.view(), "n", "mortal", b"v", ttl=60)
    first, second = Client(served.path), Client(served.path)
    stopped[0] = True
    with pytest.raises(Stopped):
        first.data_received(get("secret") + get("mortal"))
    assert first.received == b""
    second.data_received(get("not-there"))
    assert statuses(second.received) == [404]
    assert b"of the first" not in second.received


def test_a_transport_that_is_closing_gets_nothing() -> None:
    """One of asyncio's would have the loop watch a socket that is about to be closed."""
    served = Served()
    served.keep("large", bytes(5000))
    client = Client(served.path)
    client.closing = True
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        client.socket = theirs.fileno()
        client.data_received(get("large"))
        client.data_received(get("not-there"))
        assert client.pieces == []
        with pytest.raises(BlockingIOError):
            ours.recv(1)


@pytest.mark.parametrize("first", [get("k") * 64, get("large")])
def test_the_time_of_what_is_kept_begins_with_its_own_first_byte(first: bytes) -> None:
    """Not with that of the request before it, however many are answered first, however large."""
    served = Served()
    served.keep("k", b"v")
    served.keep("large", bytes(LARGE))
    client, now = Client(served.path), [30.0]
    client.now = lambda: now[0]
    client.data_received(first[:10])
    assert client.kept_since == 30.0
    now[0] = 31.0
    client.data_received(first[10:] + b"GET ")
    assert client.kept_since == 31.0
    now[0] = 32.0
    client.data_received(b"/v1")
    assert client.kept_since == 31.0


def test_a_request_whose_answer_fails_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the status of the problem that is told instead."""
    served = Served()
    served.keep("k", b"v")
    monkeypatch.setattr(kv, "missing", lambda *_: operations)
    client, _ = served.ask(get("k") + get("it's"))
    assert statuses(client.received) == [200, 500]
    assert served.metrics.totals().requests == {("GET", 200): 1, ("GET", 500): 1}


def test_no_time_is_left_of_what_expires_while_it_is_read() -> None:
    """It was there when it was looked up."""
    times = [0.0]
    served = Served(clock=Clock(monotonic=lambda: times.pop(0) if times[1:] else times[0]))
    operations.put(served.store.view(), "n", "k", b"v", ttl=60)
    times[:] = [59.0, 61.0]
    client, _ = served.ask(get("k"))
    assert statuses(client.received) == [200]
    assert b"\r\ncache-control: max-age=0\r\n" in client.received


def test_a_number_keeps_to_the_largest_value() -> None:
    """It may not grow beyond what a value may have, however it is made."""
    served = Served(max_value_size=1)
    served.keep("n", b"9")
    connection, _ = served.ask(post("incr", "n"))
    assert statuses(connection.received) == [413]
    assert served.store.namespace("n").read("n")[0] == b"9"  # type: ignore[index]
