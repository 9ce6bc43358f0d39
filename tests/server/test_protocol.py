"""What a connection does with well-formed, odd, malformed and hostile bytes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.server import RunningServer, running_server, wait_until
from tests.support.wire import Wire, request

HOST = b"Host: test\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
KV = "/v1/kv/protocol/"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running_server("--threads", "2", "--max-value-size", "1m") as running:
        yield running


@pytest.fixture
def wire(server: RunningServer) -> Iterator[Wire]:
    with Wire(server) as connection:
        yield connection


def get(key: str, **headers: str) -> bytes:
    return request("GET", KV + key, **headers)


def put(key: str, value: bytes, **headers: str) -> bytes:
    return request("PUT", KV + key, value, **headers)


def assert_problem(wire: Wire, status: int, *words: str) -> None:
    """The next answer is this problem, and it is the connection's last."""
    answer = wire.answer()
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["connection"] == "close"
    assert answer.headers["server"].startswith("cacheserver/")
    assert "date" in answer.headers
    problem = answer.json()
    assert problem["status"] == status
    assert set(problem) == {"type", "title", "status", "detail"}
    for word in words:
        assert word in problem["detail"]
    assert wire.rest() == b""


MALFORMED = {
    "no method": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "unknown method": b"FETCH / HTTP/1.1\r\n" + HOST + b"\r\n",
    "lower case method": b"get / HTTP/1.1\r\n" + HOST + b"\r\n",
    "a fragment": b"PUT /v1/kv/f/a#b HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n",
    "an answer": b"HTTP/1.1 200 OK\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "GET by HTTP/2": b"GET / HTTP/2.0\r\n" + HOST + b"\r\n",
    "HTTP/9.9": b"GET / HTTP/9.9\r\n" + HOST + b"\r\n",
    "target with a byte above ASCII": b"GET /v1/kv/a/\xff HTTP/1.1\r\n" + HOST + b"\r\n",
    "target in UTF-8": "GET /v1/kv/a/\u00e4 HTTP/1.1\r\n".encode() + HOST + b"\r\n",
    "target with a control character": b"GET /a\x01b HTTP/1.1\r\n" + HOST + b"\r\n",
    "target with a blank": b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n",
    "target without a slash": b"GET a HTTP/1.1\r\n" + HOST + b"\r\n",
    "target of a proxy": b"CONNECT example.com:443 HTTP/1.1\r\n" + HOST + b"\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
    "bare line feeds": b"GET / HTTP/1.1\nHost: test\n\n",
    "bare carriage return": b"GET / HTTP/1.1\r\nHost: test\rX: y\r\n\r\n",
    "header with a blank in its name": b"GET / HTTP/1.1\r\nA b: c\r\n\r\n",
    "blank before the colon": b"GET / HTTP/1.1\r\nA : c\r\n\r\n",
    "header without a name": b"GET / HTTP/1.1\r\n: c\r\n\r\n",
    "header with a null": b"GET / HTTP/1.1\r\nA: c\0d\r\n\r\n",
    "folded header": b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
    "length and chunks": b"PUT / HTTP/1.1\r\nContent-Length: 3\r\n" + CHUNKED + b"\r\n0\r\n\r\n",
    "chunks and length": b"PUT / HTTP/1.1\r\n" + CHUNKED + b"Content-Length: 3\r\n\r\n0\r\n\r\n",
    "two lengths": b"PUT / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
    "signed length": b"PUT / HTTP/1.1\r\nContent-Length: +3\r\n\r\nabc",
    "huge length": b"PUT / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
    "gzip coding": b"PUT / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip\r\n\r\nabc",
    "two codings": b"PUT / HTTP/1.1\r\n"
    + HOST
    + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "bad chunk size": b"PUT /v1/kv/a/b HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\nzz\r\n",
    "chunk longer than said": b"PUT /v1/kv/a/b HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n1\r\nabc\r\n",
}


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_not_http_gets_a_problem_and_is_closed(wire: Wire, raw: bytes) -> None:
    """Malformed bytes are answered by 400 in problem+json, and the connection ends."""
    wire.send(raw)
    assert_problem(wire, 400)


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_not_http_is_found_byte_by_byte(wire: Wire, raw: bytes) -> None:
    """However the bytes are cut into packets, the answer is the same."""
    for byte in raw:
        try:
            wire.send(bytes((byte,)))
        except OSError:
            break  # answered and closed before the end
    assert_problem(wire, 400)


def test_a_malformed_request_does_not_overtake_answers(wire: Wire) -> None:
    """The answers to the requests before a malformed one come first."""
    wire.send(put("order", b"1"), get("order"), b"nonsense\r\n\r\n")
    assert wire.answer().status in (201, 204)
    assert wire.answer().body == b"1"
    assert_problem(wire, 400)


def test_a_malformed_body_does_not_overtake_answers(wire: Wire) -> None:
    """A request whose body turns out to be malformed is answered in its turn too, and only once."""
    wire.send(put("order", b"2"), get("order"))
    wire.send(b"PUT /v1/kv/a/b HTTP/1.1\r\n", HOST, CHUNKED, b"\r\nzz\r\n", get("order"))
    assert wire.answer().status in (201, 204)
    assert wire.answer().body == b"2"
    assert_problem(wire, 400)


@pytest.mark.parametrize("name_length", [1, 60_000])
def test_headers_beyond_the_limit_get_431(wire: Wire, name_length: int) -> None:
    """64 KiB of headers are the most, in one line or in many."""
    line = b"a" * name_length + b": b\r\n"
    wire.send(b"GET /healthz HTTP/1.1\r\n", HOST, line * (70_000 // len(line) + 1), b"\r\n")
    assert_problem(wire, 431, "65536 bytes")


def test_headers_below_the_limit_are_fine(wire: Wire) -> None:
    """60 KiB of headers are no problem."""
    wire.send(request("GET", "/healthz", A="b" * 30_000, B="b" * 30_000))
    assert wire.answer().status == 200


ENDLESS = {
    "a header": (b"GET /healthz HTTP/1.1\r\n" + HOST + b"A: ", b"a" * 1000, 431),
    "headers": (b"GET /healthz HTTP/1.1\r\n" + HOST, b"A: b\r\n" * 100, 431),
    "a target": (b"GET /", b"a" * 1000, 414),
    "a trailer": (
        b"PUT /v1/kv/a/b HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n0\r\nA: ",
        b"a" * 1000,
        431,
    ),
    "trailers": (
        b"PUT /v1/kv/a/b HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n0\r\n",
        b"A: b\r\n" * 100,
        431,
    ),
    "a chunk extension": (
        b"PUT /v1/kv/a/b HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n1;",
        b"a" * 1000,
        431,
    ),
}


@pytest.mark.parametrize(("begin", "more", "status"), ENDLESS.values(), ids=ENDLESS.keys())
def test_what_never_ends_is_refused(wire: Wire, begin: bytes, more: bytes, status: int) -> None:
    """A request that sends the same thing for ever is refused after some hundred kilobytes."""
    wire.send(begin)
    sent = 0
    try:
        while sent < 8 << 20:
            wire.send(more)
            sent += len(more)
    except OSError:
        pass  # refused, and no longer listened to
    assert_problem(wire, status)


def test_a_target_beyond_the_limit_gets_414(wire: Wire) -> None:
    """16 KiB are the longest target."""
    wire.send(request("GET", "/" + "a" * 17_000))
    assert_problem(wire, 414, "16384 bytes")


def test_trailers_do_not_become_headers(server: RunningServer, wire: Wire) -> None:
    """A trailer means nothing: here it would make the write conditional."""
    head = b"PUT /v1/kv/protocol/trailer HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n"
    wire.send(head, b'1\r\na\r\n0\r\nIf-Match: "1"\r\n\r\n')
    assert wire.answer().status in (201, 204)


def test_a_chunked_body_in_tiny_pieces_arrives(wire: Wire) -> None:
    """Chunks of one byte, each in a packet of its own, are a body like any other."""
    wire.send(b"PUT /v1/kv/protocol/tiny HTTP/1.1\r\n", HOST, CHUNKED, b"\r\n")
    for byte in b"0123456789":
        wire.send(b"1\r\n", bytes((byte,)), b"\r\n")
    wire.send(b"0\r\n\r\n")
    assert wire.answer().status in (201, 204)
    assert wire.send(get("tiny")).answer().body == b"0123456789"


def test_pipelined_requests_are_answered_in_order(wire: Wire) -> None:
    """Requests sent ahead are answered one after the other, as if each had waited."""
    wire.send(*(put("pipeline", b"%d" % i) + get("pipeline") for i in range(200)))
    for i in range(200):
        assert wire.answer().status in (201, 204)
        assert wire.answer().body == b"%d" % i


def test_pipelined_large_bodies_are_answered_in_order(wire: Wire) -> None:
    """Bodies beyond what is buffered are read once it's their turn."""
    bodies = [bytes([65 + i]) * 300_000 for i in range(5)]
    wire.send(*(put("large", body) + get("large") for body in bodies))
    for body in bodies:
        assert wire.answer().status in (201, 204)
        assert wire.answer().body == body


def test_empty_lines_before_a_request_are_skipped(wire: Wire) -> None:
    """RFC 9112 2.2: a server ignores at least one empty line before a request."""
    wire.send(b"\r\n\r\n", get("none"))
    assert wire.answer().status == 404


def test_connection_close_is_obeyed(wire: Wire) -> None:
    """A client that says close gets its answer and the end."""
    wire.send(get("none", Connection="close"), get("none"))
    answer = wire.answer()
    assert (answer.status, answer.headers["connection"]) == (404, "close")
    assert wire.rest() == b""


def test_http_1_0_is_answered_and_closed(wire: Wire) -> None:
    """HTTP/1.0 needs no Host and gets its answer as HTTP/1.1, closed after it."""
    wire.send(b"GET /healthz HTTP/1.0\r\n\r\n")
    answer = wire.answer()
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert "transfer-encoding" not in answer.headers
    assert wire.rest() == b""


def test_a_request_may_be_followed_by_the_end_of_sending(wire: Wire) -> None:
    """A client that closes its sending half still gets every answer it is owed."""
    wire.send(put("half", b"x" * 100), get("half"))
    wire.finish()
    assert wire.answer().status in (201, 204)
    assert wire.answer().body == b"x" * 100
    assert wire.rest() == b""


def test_the_end_of_sending_in_the_middle_of_a_request_costs_no_answer(wire: Wire) -> None:
    """What was complete before is answered, what wasn't is not."""
    wire.send(put("half", b"y"), get("half"), put("half", b"z" * 10)[:-5])
    wire.finish()
    assert wire.answer().status == 204
    assert wire.answer().body == b"y"
    assert wire.rest() == b""


def test_expect_continue_is_answered_before_the_body(wire: Wire) -> None:
    """A client that waits for leave gets 100, and then its answer."""
    head = put("expect", b"hello", Expect="100-continue").removesuffix(b"hello")
    assert wire.send(head).answer().status == 100
    assert wire.send(b"hello").answer().status in (201, 204)
    assert wire.send(get("expect")).answer().body == b"hello"


def test_a_body_that_was_not_wanted_is_not_taken_for_a_request(wire: Wire) -> None:
    """Refused before its body: the connection ends, because body and next request look alike."""
    smuggled = get("smuggled")
    head = request("PUT", "/v1/kv/protocol/!?ttl=x", Content_Length="1000")
    wire.send(head)
    answer = wire.answer()
    assert 400 <= answer.status < 500
    assert answer.headers["connection"] == "close"
    try:
        wire.send(smuggled)
    except OSError:
        pass
    assert b"HTTP/1.1" not in wire.rest()


def test_an_answer_given_early_survives_a_client_that_goes_on_sending(
    server: RunningServer,
) -> None:
    """413 comes at once, and is there to be read after megabytes more have been sent."""
    with Wire(server) as wire:
        wire.send(request("PUT", KV + "large", Content_Length=str(20 << 20)))
        try:
            for _ in range(20):
                wire.send(b"x" * (1 << 20))
        except OSError as error:
            pytest.fail(f"cut off while sending: {error}")
        assert wire.answer().status == 413


@pytest.mark.parametrize("protocol", ["h2c", "websocket"])
def test_an_upgrade_is_ignored(wire: Wire, protocol: str) -> None:
    """Requests that offer another protocol are answered in this one, and so are those behind."""
    offer = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": protocol, "HTTP2_Settings": "AAMA"}
    wire.send(request("GET", "/healthz", **offer) * 3, get("none"))
    assert [wire.answer().status for _ in range(4)] == [200, 200, 200, 404]


@pytest.mark.parametrize("size", [0, 5, 200_000])
def test_an_upgrade_with_a_body_is_ignored(wire: Wire, size: int) -> None:
    """As Java's HttpClient does it by default: the body belongs to the request all the same."""
    body = b"u" * size
    wire.send(put("upgrade", body, Connection="Upgrade", Upgrade="h2c"), get("upgrade"))
    assert wire.answer().status in (201, 204)
    assert wire.answer().body == body
    wire.send(put("upgrade", b"plain"), get("upgrade"))
    assert wire.answer().status == 204
    assert wire.answer().body == b"plain"


def test_an_upgrade_with_a_chunked_body_is_ignored(wire: Wire) -> None:
    """The same with chunks, cut at every byte."""
    head = request(
        "PUT", KV + "upgrade", Connection="Upgrade", Upgrade="h2c", Transfer_Encoding="chunked"
    )
    for byte in head + b"3\r\nabc\r\n0\r\n\r\n" + get("upgrade"):
        wire.send(bytes((byte,)))
    assert wire.answer().status in (201, 204)
    assert wire.answer().body == b"abc"


@pytest.mark.parametrize("target", ["http://test/healthz", "http://other/healthz?", "*"])
def test_other_forms_of_the_target_are_understood(wire: Wire, target: str) -> None:
    """A URL means its path, and * is a target without a route."""
    assert wire.send(request("GET", target)).answer().status == (404 if target == "*" else 200)


def test_a_client_that_vanishes_in_the_middle_leaves_nothing(server: RunningServer) -> None:
    """A connection that breaks off during its request is forgotten without a traceback."""
    before = connections(server)
    for cut in (b"GET /heal", put("gone", b"x" * 1000)[:-500]):
        with Wire(server) as wire:
            wire.send(cut)
    wait_until(lambda: connections(server) == before, "the connections to be forgotten")
    assert "Traceback" not in server.stderr_text()


def test_refused_requests_are_counted(server: RunningServer) -> None:
    """A request that is refused before it reaches the app is in the metrics too."""
    with Wire(server) as wire:
        wire.send(b"nonsense\r\n\r\n").answer()
    with Wire(server) as wire:
        metrics = wire.send(request("GET", "/metrics")).answer().body.decode()
    assert 'cacheserver_requests_total{method="other",status="400"}' in metrics


def connections(server: RunningServer) -> float:
    with Wire(server) as wire:
        metrics = wire.send(request("GET", "/metrics")).answer().body.decode()
    line = next(
        line for line in metrics.splitlines() if line.startswith("cacheserver_connections ")
    )
    return float(line.split()[1])


def test_what_follows_a_close_behind_an_upgrade_is_not_counted(server: RunningServer) -> None:
    """Bytes behind the last request of a connection are no request, and so no bad one."""
    upgrade = request("PUT", "/v1/kv/n/k", b"abc", Connection="upgrade", Upgrade="h2c")
    with Wire(server) as asking:
        before = asking.send(request("GET", "/metrics")).answer().body
        with Wire(server) as wire:
            last = request("GET", "/v1/kv/n/k", Connection="close")
            wire.send(upgrade, last, request("GET", "/v1/kv/n/k"))
            assert [wire.answer().status in (200, 201, 204) for _ in range(2)] == [True, True]
            assert wire.rest() == b""
        after = asking.send(request("GET", "/metrics")).answer().body
    bad = b'cacheserver_requests_total{method="other",status="400"}'
    assert _sample(after, bad) == _sample(before, bad)


def _sample(metrics: bytes, name: bytes) -> list[bytes]:
    return [line for line in metrics.splitlines() if line.startswith(name)]
