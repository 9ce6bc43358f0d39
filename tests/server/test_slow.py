"""Slow operations, with and without the fast path, on uvloop and on asyncio's own event loop."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Generator
from typing import Any

import pytest

from cacheserver.server import Server
from cacheserver.settings import Settings
from tests.support.contention import HELD, Waited, made_to_wait
from tests.support.wire import Wire, WireAnswer, request

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"
THRESHOLD = HELD / 3
PATIENCE = 0.5
"""Seconds for which a client keeps the rest of a body back: many times what a busy machine takes."""


@pytest.fixture(params=["uvloop", "asyncio"])
def event_loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the server's loops are."""
    if request.param == "asyncio":
        monkeypatch.setitem(sys.modules, "uvloop", None)  # as where it is not installed
    else:
        pytest.importorskip("uvloop")
    return str(request.param)


def serving(**settings: Any) -> Generator[Server]:
    """A server in this process."""
    server = Server(Settings(port=0, threads=1, **settings))
    server.start()
    yield server
    assert server.stop(grace=5)


@pytest.fixture(params=["live", "live-asgi"])
def server(request: pytest.FixtureRequest, event_loop: str) -> Generator[Server]:
    """A server to which what takes THRESHOLD seconds is slow."""
    yield from serving(fast_path=request.param == "live", slow_threshold=THRESHOLD)


@pytest.fixture(params=["live", "live-asgi"])
def noting(request: pytest.FixtureRequest) -> Generator[Server]:
    """A server to which everything is slow."""
    yield from serving(fast_path=request.param == "live", slow_threshold=0.0)


@pytest.fixture
def wire(server: Server) -> Generator[Wire]:
    with connect(server) as connection:
        yield connection


def connect(server: Server) -> Wire:
    return Wire(socket.create_connection(("127.0.0.1", server.port), 20))


def slow_log(server: Server) -> list[dict[str, Any]]:
    """What the server tells of operations on keys, the newest first."""
    with connect(server) as wire:
        told = wire.send(request("GET", "/v1/slowlog")).answer().json()
    return [operation for operation in told["operations"] if operation["namespace"]]


def waits_of(server: Server, key: str) -> list[dict[str, Any]]:
    """Those operations on a key that waited for a lock: on a busy machine others may be slow too."""
    return [each for each in slow_log(server) if each["key"] == key and each["waits"]]


def put(key: str, value: bytes = b"v", query: str = "", **headers: str) -> bytes:
    return request("PUT", f"/v1/kv/slow/{key}{query}", value, **headers)


def get(key: str) -> bytes:
    return request("GET", f"/v1/kv/slow/{key}")


def waiting(server: Server, wire: Wire, *requests: bytes) -> Waited[list[WireAnswer]]:
    """Send requests at once, the first of which has to wait for the stripe of key `hot`."""

    def ask() -> list[WireAnswer]:
        wire.send(*requests)
        return [wire.answer() for _ in requests]

    return made_to_wait(server.store, "slow", "hot", ask)


def check_wait(operation: dict[str, Any], waited: Waited[Any]) -> None:
    """The operation tells of this wait, and of no other."""
    [wait] = operation["waits"]
    assert (wait["lock"], wait["stripe"], wait["cause"]) == ("stripe", waited.stripe, "write")
    assert waited.at_least <= wait["seconds"] + 1e-6
    assert wait["seconds"] == pytest.approx(operation["lock_wait_seconds"], abs=2e-6)
    assert wait["seconds"] <= waited.at_most
    assert operation["lock_wait_seconds"] <= operation["seconds"] + 1e-6


def test_a_wait_is_noted(server: Server, wire: Wire) -> None:
    """What had to wait is in the slow log, with what it waited for and whose it was."""
    raw = put("hot", TraceParent=TRACEPARENT)
    waited = waiting(server, wire, raw)
    assert waited.result[0].status == 201
    [noted] = waits_of(server, "hot")
    check_wait(noted, waited)
    assert (noted["operation"], noted["method"], noted["status"]) == ("put", "PUT", 201)
    assert (noted["namespace"], noted["requests"]) == ("slow", 1)
    assert (noted["thread"], noted["trace_id"]) == ("cacheserver-loop-0", TRACE)


def test_every_wait_is_noted_for_who_waited(server: Server, wire: Wire) -> None:
    """The second request is not blamed for what the first one waited for, nor are those between."""
    first = waiting(server, wire, put("hot"))
    for number in range(5):
        assert wire.send(put(f"other {number}".replace(" ", "-"))).answer().status == 201
    second = waiting(server, wire, put("hot"))
    newer, older = waits_of(server, "hot")
    check_wait(older, first)
    check_wait(newer, second)


def test_requests_that_are_answered_together(server: Server, wire: Wire) -> None:
    """On the fast path they are one entry, under the name of the first; each is one through the app."""
    rest = [get("hot"), put("b"), get("none")]
    waited = waiting(server, wire, put("hot", TraceParent=TRACEPARENT), *rest)
    assert [answer.status for answer in waited.result] == [201, 200, 201, 404]
    [noted] = waits_of(server, "hot")
    assert noted["requests"] == (4 if server.settings.fast_path else 1)
    check_wait(noted, waited)
    assert (noted["operation"], noted["status"], noted["trace_id"]) == ("put", 201, TRACE)


def test_a_client_that_takes_its_time_is_not_slow(server: Server, wire: Wire) -> None:
    """What is waited for is the body: that is no time of the operation."""
    raw = put("patient", b"x" * 1000)
    wire.send(raw[:-500])
    time.sleep(PATIENCE)
    assert wire.send(raw[-500:]).answer().status == 201
    noted = [operation for operation in slow_log(server) if operation["key"] == "patient"]
    assert [operation for operation in noted if operation["seconds"] >= PATIENCE] == []


def test_a_wait_of_a_request_in_pieces(server: Server, wire: Wire) -> None:
    """It is noted as that of one that comes whole."""
    raw = put("hot", b"x" * 1000, TraceParent=TRACEPARENT)
    wire.send(raw[:-500])
    time.sleep(3 * THRESHOLD)
    waited = waiting(server, wire, raw[-500:])
    [noted] = waits_of(server, "hot")
    check_wait(noted, waited)
    assert (noted["status"], noted["trace_id"]) == (201, TRACE)


@pytest.mark.parametrize("size", [10, 1 << 20])
def test_a_wait_behind_a_request_through_the_app(server: Server, wire: Wire, size: int) -> None:
    """It is noted also where the app had the connection, and had it read on, before."""
    assert wire.send(put("large", b"x" * size, "?timing=1")).answer().status == 201
    waited = waiting(server, wire, put("hot"))
    [noted] = waits_of(server, "hot")
    check_wait(noted, waited)


def test_a_wait_that_was_queued_behind_a_request_through_the_app(
    server: Server, wire: Wire
) -> None:
    """What is answered in the moment in which the app is done is not taken for a part of that."""
    first = put("large", b"x", "?timing=1")
    assert wire.send(put("hot")).answer().status == 201

    def ask() -> list[WireAnswer]:
        wire.send(first, put("hot", b"2"))
        return [wire.answer(), wire.answer()]

    waited = made_to_wait(server.store, "slow", "hot", ask)
    assert waited.result[0].headers["server-timing"].startswith("lock;dur=0.000, ")
    [noted] = waits_of(server, "hot")
    check_wait(noted, waited)


def test_the_answer_tells_of_a_wait(server: Server, wire: Wire) -> None:
    """With `?timing=1`, on a connection to a real server."""
    waited = waiting(server, wire, put("hot", query="?timing=1"))
    timing = waited.result[0].headers["server-timing"]
    lock, app = (
        float(part.rpartition("dur=")[2].partition(";")[0]) for part in timing.split(", a")
    )
    assert waited.at_least * 1e3 <= lock + 1e-3
    assert lock <= app <= waited.at_most * 1e3


@pytest.mark.parametrize(
    "target",
    ["/v1/namespaces/slow/clear", "/v1/namespaces/slow"],
)
def test_a_wait_in_another_thread(server: Server, wire: Wire, target: str) -> None:
    """What is done off the event loop is noted for its request."""
    method = "POST" if target.endswith("clear") else "DELETE"
    assert wire.send(put("hot")).answer().status == 201
    waited = waiting(server, wire, request(method, target, TraceParent=TRACEPARENT))
    noted = slow_log(server)[0]
    assert (noted["method"], noted["namespace"], noted["key"]) == (method, "slow", "")
    assert noted["trace_id"] == TRACE
    assert waited.at_least <= noted["lock_wait_seconds"] + 1e-6
    assert noted["waits"][0]["lock"] == "namespace_write"


def test_with_a_threshold_of_0_everything_is_noted(noting: Server) -> None:
    """Reads that hit too, which are the quickest, and each once."""
    with connect(noting) as wire:
        for _ in range(3):
            for raw in (put("k"), get("k"), get("none"), get("a%2Fb")):
                wire.send(raw).answer()
    operations = slow_log(noting)[::-1]
    assert [(each["operation"], each["key"], each["status"]) for each in operations] == [
        ("put", "k", 201),
        *[("get", "k", 200), ("get", "none", 404), ("get", "a/b", 404), ("put", "k", 204)] * 2,
        *[("get", "k", 200), ("get", "none", 404), ("get", "a/b", 404)],
    ]
    assert all(each["requests"] == 1 for each in operations)
    assert all(0 < each["seconds"] < 20 for each in operations)
    assert all(each["lock_wait_seconds"] == 0 and each["waits"] == [] for each in operations)


def test_the_number_of_slow_operations_is_exact(noting: Server) -> None:
    """However many there are, each is counted, and the latest 128 are kept."""
    with connect(noting) as wire:
        for _ in range(300):
            assert wire.send(put("k")).answer().status in (201, 204)
        told = wire.send(request("GET", "/v1/slowlog")).answer().json()
    assert told["total"] == 300
    assert len(told["operations"]) == 128
