"""Connections that take too long are closed; those that only look slow are not."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from tests.server.test_protocol import connections
from tests.support.server import RunningServer, running_server, wait_until
from tests.support.wire import Wire, request

TIMEOUT = 1.0


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running_server("--threads", "2", "--idle-timeout", str(TIMEOUT)) as running:
        yield running


def test_a_connection_that_says_nothing_is_closed(server: RunningServer) -> None:
    """Without a request there is nothing to answer: it is closed, not before the time."""
    started = time.monotonic()
    with Wire(server) as wire:
        assert wire.rest() == b""
    assert TIMEOUT - 0.1 < time.monotonic() - started < TIMEOUT + 10


def test_a_connection_is_closed_after_its_last_request(server: RunningServer) -> None:
    """The time runs from the last answer."""
    with Wire(server) as wire:
        for _ in range(4):
            time.sleep(TIMEOUT / 2)
            assert wire.send(request("GET", "/healthz")).answer().status == 200
        started = time.monotonic()
        assert wire.rest() == b""
        assert time.monotonic() - started > TIMEOUT - 0.1


CHUNKED = b"PUT /v1/kv/idle/a HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("begin", "trickle"),
    [
        pytest.param(b"G", b"", id="one byte"),
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost: t\r\nA: ", b"x", id="half a head"),
        pytest.param(request("PUT", "/v1/kv/idle/a", b"x" * 10)[:-5], b"", id="half a body"),
        pytest.param(CHUNKED, b"1\r\na\r\n", id="endless chunks"),
    ],
)
def test_a_request_that_does_not_arrive_gets_408(
    server: RunningServer, begin: bytes, trickle: bytes
) -> None:
    """Bytes that trickle in don't prolong it: the request has one time for all of it."""
    with Wire(server) as wire:
        wire.send(begin)
        started = time.monotonic()
        wire.socket.settimeout(0.05)
        while not _readable(wire):
            wire.send(trickle)
            assert time.monotonic() - started < 10
        assert time.monotonic() - started > TIMEOUT - 0.1
        wire.socket.settimeout(20)
        answer = wire.answer()
        assert answer.status == 408
        assert answer.headers["connection"] == "close"
        assert answer.json()["status"] == 408
        assert wire.rest() == b""


def test_a_slow_reader_that_goes_on_reading_gets_its_answer() -> None:
    """An answer that takes several timeouts to be read is read to its end."""
    value, timeout, steps = b"v" * (8 << 20), 1.0, 60
    with running_server("--idle-timeout", str(timeout)) as server:
        with Wire(server) as wire:
            wire.send(request("PUT", "/v1/kv/idle/large", value))
            assert wire.answer().status in (201, 204)
        with _small_window(server) as slow, slow.makefile("rb") as answer:
            slow.sendall(request("GET", "/v1/kv/idle/large", Connection="close"))
            got = bytearray()
            while piece := answer.read(len(value) // steps):
                got += piece
                time.sleep(6 * timeout / steps)  # beyond the linger and a timeout behind it
            assert got.endswith(value)
            assert len(got) - len(value) < 1000


GET_LARGE = request("GET", "/v1/kv/idle/large")


@pytest.mark.parametrize("pieces", [[1], [80], [1, 1]], ids=["one", "ahead", "later"])
def test_a_reader_that_stops_reading_is_cut_off(server: RunningServer, pieces: list[int]) -> None:
    """An answer that nobody takes isn't kept for ever, whatever is asked for behind it."""
    with Wire(server) as wire:
        wire.send(request("PUT", "/v1/kv/idle/large", b"v" * (8 << 20)))
        assert wire.answer().status in (201, 204)
    before = _settled(server)
    with _small_window(server) as stuck:
        for number in pieces:
            stuck.sendall(GET_LARGE * number)
            assert stuck.recv(1, socket.MSG_PEEK), "the first answer is there"
        wait_until(lambda: connections(server) > before, "the connection to be there")
        wait_until(lambda: connections(server) == before, "the connection to be cut off")


def _settled(server: RunningServer) -> float:
    """Wait until only the asking connection is left."""
    wait_until(lambda: connections(server) == 1, "earlier connections to end")
    return 1


def _small_window(server: RunningServer) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(20)
    sock.connect((server.host, server.port))
    return sock


def _readable(wire: Wire) -> bool:
    try:
        return bool(wire.socket.recv(1, socket.MSG_PEEK))
    except TimeoutError:
        return False
