"""The acceptor: connections are dealt out evenly, counted exactly, and never stop it."""

from __future__ import annotations

import errno
import socket
import sys
import threading
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from cacheserver.http.farewell import LINGER_SECONDS
from cacheserver.server import Server
from cacheserver.server.acceptor import Acceptor
from cacheserver.server.sockets import listen
from cacheserver.settings import Settings
from tests.support.server import RunningServer, running_server, wait_until
from tests.support.wire import Wire, request


@contextmanager
def embedded(threads: int) -> Generator[Server]:
    """Run a server in this process."""
    server = Server(Settings(port=0, threads=threads))
    server.start()
    try:
        yield server
    finally:
        assert server.stop(grace=5)


def test_connections_are_spread_evenly() -> None:
    """64 connections over 4 loops are 16 each, and closing them leaves none."""
    with embedded(threads=4) as server:
        with ExitStack() as stack:
            for _ in range(64):
                stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            wait_until(lambda: sum(server.connections) == 64, "all connections to be there")
            assert server.connections == (16, 16, 16, 16)
        wait_until(lambda: sum(server.connections) == 0, "all connections to be gone")


class Taker:
    """Takes connections and keeps them."""

    closed = 0
    turned_away = 0

    def __init__(self) -> None:
        self.adopted: list[socket.socket] = []
        self.refused: list[socket.socket] = []

    def adopt(self, sock: socket.socket) -> None:
        self.adopted.append(sock)

    def refuse(self, sock: socket.socket) -> None:
        self.refused.append(sock)


def test_what_waits_is_accepted_before_the_sockets_are_closed() -> None:
    """Stopped, it takes the connections that the kernel has completed, in turn and to the limit."""
    listeners = listen("127.0.0.1", 0)
    address = listeners[0].getsockname()
    takers = [Taker(), Taker()]
    acceptor = Acceptor(listeners, takers, limit=5)
    with ExitStack() as stack:
        for _ in range(7):
            stack.enter_context(socket.create_connection(address))
        acceptor.stop()
        acceptor.run()
        assert [len(taker.adopted) for taker in takers] == [3, 2]
        assert [len(taker.refused) for taker in takers] == [1, 1]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        for sock in [sock for taker in takers for sock in (*taker.adopted, *taker.refused)]:
            sock.close()
    acceptor.stop()


class EmptiedListener(socket.socket):
    """A listening socket that somebody knocks at when there is nothing to accept any more."""

    def accept(self) -> tuple[socket.socket, Any]:
        try:
            return super().accept()
        except BlockingIOError:
            self.latecomer = socket.socket()
            self.latecomer.settimeout(0.2)
            self.result = self.latecomer.connect_ex(self.getsockname())
            raise


@pytest.mark.skipif(sys.platform != "linux", reason="socket filters are Linux's")
def test_nobody_connects_between_the_last_accept_and_the_close() -> None:
    """Who comes then is not connected, rather than connected and lost."""
    with EmptiedListener() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        acceptor = Acceptor([listener], [Taker()], limit=5)
        acceptor.stop()
        acceptor.run()
        assert listener.result == errno.EAGAIN, "connected, or refused, before the time-out"
        listener.latecomer.close()


class Failing(socket.socket):
    """A listening socket that passes an error on before there is nothing to accept any more."""

    def __init__(self, error: int) -> None:
        super().__init__()
        self.errors = [error]

    def accept(self) -> tuple[socket.socket, Any]:
        if self.errors:
            raise OSError(self.errors.pop(), "passed on")
        return super().accept()


@pytest.mark.parametrize(
    "name",
    [
        "ECONNABORTED",
        "ECONNREFUSED",
        "EHOSTUNREACH",
        "ENOSR",
        "EPROTO",
        "EPROTONOSUPPORT",
        "ESOCKTNOSUPPORT",
        "ETIMEDOUT",
    ],
)
def test_an_error_of_a_connection_that_failed_is_passed_over(name: str) -> None:
    """What accept(2) tells of one connection keeps nobody from accepting the next."""
    with Failing(getattr(errno, name)) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        taker = Taker()
        acceptor = Acceptor([listener], [taker], limit=5)
        with socket.create_connection(listener.getsockname()):
            acceptor.stop()
            acceptor.run()
        [sock] = taker.adopted
        sock.close()


def test_refused_connections_take_no_places() -> None:
    """One that is served goes and leaves its place, however many refused ones are still open."""
    listeners = listen("127.0.0.1", 0)
    taker = Taker()
    acceptor = Acceptor(listeners, [taker], limit=2)
    address = listeners[0].getsockname()
    running = threading.Thread(target=acceptor.run)
    with ExitStack() as stack:
        running.start()
        for _ in range(2 + 20):
            stack.enter_context(socket.create_connection(address))
        wait_until(lambda: len(taker.refused) == 20, "twenty to be refused")
        taker.closed = 1
        for _ in range(2):
            stack.enter_context(socket.create_connection(address))
        acceptor.stop()
        running.join(10)
    assert (len(taker.adopted), len(taker.refused)) == (3, 21)
    for sock in (*taker.adopted, *taker.refused):
        sock.close()


def test_refusals_are_bounded() -> None:
    """So many refused connections may be open; those beyond are closed, until some have gone."""
    listeners = listen("127.0.0.1", 0)
    taker = Taker()
    acceptor = Acceptor(listeners, [taker], limit=0)
    address = listeners[0].getsockname()
    running = threading.Thread(target=acceptor.run)
    with ExitStack() as stack:
        running.start()
        for _ in range(256):
            stack.enter_context(socket.create_connection(address))
        with socket.create_connection(address, 10) as sock:
            assert sock.recv(1) == b""
        assert len(taker.refused) == 256
        taker.turned_away = 1
        stack.enter_context(socket.create_connection(address))
        acceptor.stop()
        running.join(10)
    assert len(taker.refused) == 257
    for sock in taker.refused:
        sock.close()


def test_every_loop_serves_the_same_store() -> None:
    """What is written through one loop is read through each other."""
    with running_server("--threads", "4") as server, ExitStack() as stack:
        wires = [stack.enter_context(Wire(server)) for _ in range(8)]
        for number, wire in enumerate(wires):
            value = b"%d" % number
            wire.send(request("PUT", "/v1/kv/acceptor/key", value)).answer()
            for other in wires:
                assert other.send(request("GET", "/v1/kv/acceptor/key")).answer().body == value


def test_a_connection_too_many_is_told_so() -> None:
    """Beyond --max-connections a connection gets 503 and is closed; one that goes makes room."""
    with running_server("--threads", "2", "--max-connections", "3") as server, ExitStack() as stack:
        for _ in range(3):
            wire = stack.enter_context(Wire(server))
            assert wire.send(request("GET", "/healthz")).answer().status == 200
        for _ in range(4):
            assert_refused(server)
        wire.close()
        another = wait_until(lambda: _served(server), "room for another")
        assert another is not None
        stack.enter_context(another)
        assert_refused(server)


def test_refused_connections_that_stay_keep_nobody_out() -> None:
    """A place that gets free is taken at once, while refused connections are still ending."""
    with running_server("--threads", "2", "--max-connections", "2") as server, ExitStack() as stack:
        served = [stack.enter_context(Wire(server)) for _ in range(2)]
        for wire in served:
            assert wire.send(request("GET", "/healthz")).answer().status == 200
        started = time.monotonic()
        for wire in [stack.enter_context(Wire(server)) for _ in range(20)]:
            assert wire.send(request("GET", "/healthz")).answer().status == 503
        for wire in served:
            wire.close()
        wait_until(lambda: _is_served(server), "room for another")
        assert time.monotonic() - started < LINGER_SECONDS * 0.75


def assert_refused(server: RunningServer) -> None:
    with Wire(server) as wire:
        answer = wire.send(request("GET", "/healthz")).answer()
        assert answer.status == 503
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["connection"] == "close"
        assert int(answer.headers["retry-after"]) > 0
        assert answer.json()["status"] == 503
        assert wire.rest() == b""


def _served(server: RunningServer) -> Wire | None:
    """Return a connection that is served and stays, None where it is refused."""
    wire = Wire(server)
    if wire.send(request("GET", "/healthz")).answer().status == 200:
        return wire
    wire.close()
    return None


def _is_served(server: RunningServer) -> bool:
    wire = _served(server)
    if wire is not None:
        wire.close()
    return wire is not None


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit is Linux's")
def test_running_out_of_descriptors_stops_nothing() -> None:
    """Without a free descriptor open connections are served, and others as soon as there is one."""
    import resource

    with running_server("--threads", "2") as server, ExitStack() as stack:
        served = stack.enter_context(Wire(server))
        assert served.send(request("GET", "/healthz")).answer().status == 200
        used = _highest_descriptor(server) + 1
        _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (used + 4, hard))
        wires = [stack.enter_context(Wire(server)) for _ in range(12)]
        wait_until(lambda: "cannot accept" in server.stderr_text(), "the shortage to be logged")
        for wire in wires:
            wire.send(request("GET", "/healthz", Connection="close"))
        assert served.send(request("GET", "/healthz")).answer().status == 200
        for wire in wires:
            assert wire.answer().status == 200
            wire.close()
        assert server.stderr_text().count("cannot accept") <= 2


def _highest_descriptor(server: RunningServer) -> int:
    from pathlib import Path

    return max(int(link.name) for link in Path(f"/proc/{server.process.pid}/fd").iterdir())


def test_a_client_that_resets_before_it_is_served_costs_nothing() -> None:
    """Connections that are reset at once neither stop the acceptor nor stay in its count."""
    import struct

    with running_server("--threads", "2", "--max-connections", "10") as server:
        for _ in range(200):
            sock = socket.create_connection((server.host, server.port))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
        wait_until(lambda: _is_served(server), "the count to come back")
        with ExitStack() as stack:

            def all_served() -> bool:
                with ExitStack() as attempt:
                    wires = [attempt.enter_context(Wire(server)) for _ in range(10)]
                    answers = [wire.send(request("GET", "/healthz")).answer() for wire in wires]
                    if all(answer.status == 200 for answer in answers):
                        stack.push(attempt.pop_all())
                        return True
                    return False

            wait_until(all_served, "all ten places to be free")
            assert_refused(server)
