"""Stopping: what was answered stays true, what is in flight is finished, and it ends in time."""

from __future__ import annotations

import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest

from tests.support.server import (
    RunningServer,
    running_server,
    serve_command,
    start_server,
    wait_until,
)
from tests.support.wire import Wire, WireAnswer, request

KV = "/v1/kv/stop/"


@pytest.fixture
def server() -> Iterator[RunningServer]:
    with running_server("--threads", "2") as running:
        yield running


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(server: RunningServer, number: signal.Signals) -> None:
    """SIGTERM and SIGINT end an idle server at once with status 0."""
    started = time.monotonic()
    server.signal(number)
    assert server.wait() == 0
    assert time.monotonic() - started < 5
    assert number.name in server.stderr_text()


class Writer(threading.Thread):
    """Writes key after key on one connection and reads each back on another, until both are closed."""

    def __init__(self, server: RunningServer, name: str) -> None:
        super().__init__(name=name)
        self.server = server
        self.answered = 0
        self.lost: list[str] = []
        self.halves: list[str] = []

    def run(self) -> None:
        with Wire(self.server) as writes, Wire(self.server) as reads:
            last = b""
            while self._write(writes):
                last = b"%d" % self.answered
                if not self._read(reads, last):
                    break

    def has_answered(self, number: int) -> bool:
        return self.answered >= number

    def _write(self, wire: Wire) -> bool:
        value = b"%d" % (self.answered + 1)
        answer = self._ask(wire, request("PUT", KV + self.name, value))
        if answer is None:
            return False
        if answer.status not in (201, 204):
            self.lost.append(f"PUT got {answer.status}")
            return False
        self.answered += 1
        return answer.headers.get("connection") != "close"

    def _read(self, wire: Wire, value: bytes) -> bool:
        answer = self._ask(wire, request("GET", KV + self.name))
        if answer is None:
            return False
        if (answer.status, answer.body) != (200, value):
            self.lost.append(f"wrote {value!r}, read {answer.status} {answer.body!r}")
        return answer.headers.get("connection") != "close"

    def _ask(self, wire: Wire, raw: bytes) -> WireAnswer | None:
        """Return the answer, None where the connection was closed before the answer began."""
        try:
            wire.send(raw)
            if not wire.peek():
                return None
        except OSError:
            return None
        try:
            return wire.answer()
        except Exception as error:
            self.halves.append(repr(error))
            return None


def test_load_is_finished_when_it_stops() -> None:
    """Under load every write that was answered is read back, no answer is cut off, and it ends."""
    for _ in range(3):
        with running_server("--threads", "2") as server:
            writers = [Writer(server, f"writer-{i}") for i in range(8)]
            for writer in writers:
                writer.start()
            for writer in writers:
                wait_until(partial(writer.has_answered, 20), "some load")
            server.signal()
            for writer in writers:
                writer.join(20)
                assert not writer.is_alive()
            assert server.wait() == 0
        assert [writer.lost + writer.halves for writer in writers] == [[]] * 8


def test_an_answered_write_can_be_read_while_it_drains(server: RunningServer) -> None:
    """With one request unfinished the server still answers those that are on their way."""
    with Wire(server) as unfinished, Wire(server) as other:
        half = request("PUT", KV + "half", b"x" * 1000)
        unfinished.send(half[:-500])
        other.send(request("PUT", KV + "other", b"1")).answer()
        other.send(request("GET", KV + "other")[:-2])  # all but its last two bytes
        _wait_until_draining(server)
        last = other.send(b"\r\n").answer()
        assert (last.status, last.body, last.headers["connection"]) == (200, b"1", "close")
        assert other.rest() == b""
        assert server.process.poll() is None
        written = unfinished.send(half[-500:]).answer()
        assert (written.status, written.headers["connection"]) == (201, "close")
    assert server.wait() == 0


def test_requests_sent_ahead_are_answered_to_the_last(server: RunningServer) -> None:
    """What arrived whole before the stop is answered whole, and only the last answer says close."""
    with Wire(server) as wire:
        half = request("PUT", KV + "half", b"x" * 10)
        wire.send(half[:-5])
        _wait_until_draining(server)
        wire.send(half[-5:], request("GET", KV + "half"))
        answers = [wire.answer(), wire.answer()]
        assert [answer.status for answer in answers] == [201, 200]
        assert ["connection" in answer.headers for answer in answers] == [False, True]
        assert wire.rest() == b""
    assert server.wait() == 0


def test_answers_that_wait_for_a_slow_reader_are_not_cut_off(server: RunningServer) -> None:
    """Nor by requests that the server has not read when it sends the last answer."""
    with Wire(server) as wire:
        wire.send(request("PUT", KV + "large", b"v" * (8 << 20))).answer()
        wire.send(request("PUT", KV + "small", b"small")).answer()
        wire.send(request("GET", KV + "large"), request("GET", KV + "small"))
        wire.peek()
        wire.send(request("GET", KV + "small"))  # stays unread for as long as the reader is slow
        server.signal()
        wait_until(lambda: _refuses(server), "the server to stop accepting")
        assert len(wire.answer().body) == 8 << 20
        answers = [wire.answer()]
        while answers[-1].headers.get("connection") != "close":
            answers.append(wire.answer())
        assert {answer.body for answer in answers} == {b"small"}
        assert wire.rest() == b""
    assert server.wait() == 0


def test_a_request_that_has_begun_to_arrive_is_answered(server: RunningServer) -> None:
    """Also behind another one: the connection isn't closed between the two."""
    with Wire(server) as wire:
        half = request("PUT", KV + "half", b"x" * 10)
        wire.send(half[:-5])
        _wait_until_draining(server)
        wire.send(half[-5:], b"GET /healthz HTTP/1.1\r\n")
        assert "connection" not in wire.answer().headers
        answer = wire.send(b"Host: t\r\n\r\n").answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert server.wait() == 0


def test_idle_connections_are_closed(server: RunningServer) -> None:
    """A connection that is kept alive without a request doesn't hold the server up."""
    with Wire(server) as fresh, Wire(server) as used:
        assert used.send(request("GET", "/healthz")).answer().status == 200
        started = time.monotonic()
        server.signal()
        assert fresh.rest() == used.rest() == b""
        assert server.wait() == 0
        assert time.monotonic() - started < 5


def test_connections_in_the_backlog_are_answered() -> None:
    """A connection that the kernel took before the signal is served, accepted or not."""
    with running_server("--threads", "2") as server:
        server.signal(signal.SIGSTOP)
        wires = [Wire(server) for _ in range(20)]
        for wire in wires:
            wire.send(request("GET", "/healthz"))
        server.signal(signal.SIGTERM)
        server.signal(signal.SIGCONT)
        for wire in wires:
            assert wire.answer().status == 200
            assert wire.rest() == b""
            wire.close()
        assert server.wait() == 0


def test_new_connections_are_refused_while_it_drains(server: RunningServer) -> None:
    """The port is free for a successor from the moment of the signal."""
    with Wire(server) as wire:
        wire.send(b"GET /healthz HTTP/1.1\r\n")
        _wait_until_draining(server)
        with running_server("--port", str(server.port)) as successor:
            assert successor.port == server.port
        assert wire.send(b"Host: t\r\n\r\n").answer().status == 200


def test_readiness_says_that_it_drains(server: RunningServer) -> None:
    """/readyz turns to 503 with the signal, for a connection that is still there."""
    with Wire(server) as wire:
        assert wire.send(request("GET", "/readyz")).answer().status == 200
        wire.send(b"GET /readyz HTTP/1.1\r\n")
        _wait_until_draining(server)
        assert wire.send(b"Host: t\r\n\r\n").answer().status == 503
    assert server.wait() == 0


def test_the_grace_period_ends() -> None:
    """A request that never finishes is cut off after the grace period, which the log tells."""
    with running_server("--threads", "2", "--grace", "0.5") as server, Wire(server) as wire:
        wire.send(b"GET /healthz HTTP/1.1\r\n")
        _wait_until_arrived(server)
        started = time.monotonic()
        server.signal()
        assert server.wait() == 0
        assert 0.4 < time.monotonic() - started < 6
        assert "cut off" in server.stderr_text()


ENDLESS_SERVER = """
import asyncio, sys
from cacheserver.http.handlers import Handlers
from cacheserver.server import run
from cacheserver.settings import Settings

async def endless(self, request):
    print("begun", flush=True)
    await asyncio.Event().wait()

Handlers.health = endless
sys.exit(run(Settings(port=0, threads=1, grace=0.5)))
"""


def test_a_request_that_outlasts_the_grace_period_ends_quietly() -> None:
    """The log tells in one line that it was cut off, the client gets nothing, the status is 0."""
    command = [sys.executable, "-c", ENDLESS_SERVER]
    with running_server(command=command) as server, Wire(server) as wire, Wire(server) as ahead:
        wire.send(request("GET", "/healthz"))
        ahead.send(request("GET", "/healthz") * 2)
        wait_until(lambda: server.lines.count("begun\n") == 2, "the requests to be worked on")
        server.signal()
        assert _is_cut_off(wire)
        assert _is_cut_off(ahead)
        assert server.wait() == 0
        said = server.stderr_text()
        assert "2 connections were not finished in time and are cut off" in said
        assert "Traceback" not in said
        assert "Exception in ASGI application" not in said
        assert len(said.splitlines()) == 2


def _is_cut_off(wire: Wire) -> bool:
    try:
        return wire.rest() == b""
    except ConnectionResetError:
        return True


def test_a_second_signal_ends_it_at_once() -> None:
    """Who can't wait for the grace period asks twice, and gets status 1."""
    command = serve_command("--threads", "2", "--grace", "60")
    with running_server(command=command, status=1) as server, Wire(server) as wire:
        wire.send(b"GET /healthz HTTP/1.1\r\n")
        _wait_until_draining(server)
        started = time.monotonic()
        server.signal()
        assert server.wait() == 1
        assert time.monotonic() - started < 5
        assert "second signal" in server.stderr_text()


def test_a_signal_during_the_start_is_not_lost() -> None:
    """A server that is told to end before it listens ends, and says nothing strange."""
    server = start_server(serve_command("--threads", "2"))
    try:
        time.sleep(0.05)  # whatever it has come to by then, both ends are right
        server.signal()
        assert server.wait() in (0, -signal.SIGTERM)
        assert "Traceback" not in server.stderr_text()
    finally:
        server.kill()


def _wait_until_arrived(server: RunningServer) -> None:
    """Wait until what other connections have sent is with the server: its loops have taken a turn."""
    for _ in range(2):
        with Wire(server) as probe:
            assert probe.send(request("GET", "/healthz")).answer().status == 200


def _wait_until_draining(server: RunningServer) -> None:
    _wait_until_arrived(server)
    server.signal()
    wait_until(lambda: _refuses(server), "the server to stop accepting")


def _refuses(server: RunningServer) -> bool:
    try:
        with socket.create_connection((server.host, server.port), 5):
            return False
    except ConnectionRefusedError:
        return True
