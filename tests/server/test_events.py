"""The live page's stream of events: real servers, and one loop with a history that is made up."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack
from typing import Any, cast

import pytest

from cacheserver.http.events import EventStream
from cacheserver.http.status import ServiceStatus
from cacheserver.insight.history import History
from tests.server.test_apps import looped
from tests.server.test_protocol import connections
from tests.support.server import RunningServer, running_server, wait_until
from tests.support.wire import Wire, request

WATCH = request("GET", "/ui/events")
EVENT = b"event: overview\ndata: {}\n\n"


class Watcher:
    """A client that reads a stream."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire.send(WATCH)
        self._rest = b""  # of a chunk that was read
        head = wire.head()
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\ntransfer-encoding: chunked\r\n" in head

    def event(self) -> tuple[str, Any]:
        """The next event: its name and its data."""
        name, data = self.block().rstrip("\n").split("\n")
        return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))

    def block(self) -> str:
        """The next event, or comment, as it came; "" at the end of the stream."""
        block = b""
        while not block.endswith(b"\n\n"):
            line = self._line()
            if not line:
                assert not block, "the stream ended within an event"
                return ""
            block += line
        return block.decode("ascii")

    def overview(self) -> Any:
        """The data of the next overview."""
        name, data = self.event()
        assert name == "overview"
        return data

    def _line(self) -> bytes:
        self._rest = self._rest or self.wire.chunk()
        line, separator, self._rest = self._rest.partition(b"\n")
        return line + separator


def watcher(server: RunningServer) -> Watcher:
    return Watcher(Wire(server))


@pytest.fixture(params=["live", "live-asgi"])
def server(request: pytest.FixtureRequest) -> Generator[RunningServer]:
    flags = [] if request.param == "live" else ["--no-fast-path"]
    with running_server("--threads", "2", "--idle-timeout", "1", "--grace", "30", *flags) as it:
        yield it


def test_an_event_about_each_second(server: RunningServer) -> None:
    """An overview about each second, and longer than a connection may be idle."""
    watching = watcher(server)
    assert watching.event()[0] == "history"
    watching.overview()
    times = [(watching.overview()["time"], time.monotonic()) for _ in range(5)]
    (first, first_at), *_, (last, last_at) = times
    assert 3 < last - first < 8  # 4 seconds, and as much again for a busy machine
    assert 3 < last_at - first_at < 8
    watching.wire.close()


def test_figures_change(server: RunningServer) -> None:
    """What happens meanwhile shows in the next events."""
    watching = watcher(server)
    watching.event()
    with Wire(server) as wire:

        def is_seen() -> bool:
            wire.send(request("PUT", "/v1/kv/seen/k", b"v")).answer()
            names = [each["name"] for each in watching.overview()["namespaces"]]
            return "seen" in names

        wait_until(is_seen, "the namespace in an event")
    watching.wire.close()


def test_the_stream_ends_when_the_server_drains(server: RunningServer) -> None:
    """It ends as every answer does, within a second, and keeps the server from ending no longer."""
    watchers = [watcher(server) for _ in range(4)]
    for watching in watchers:
        assert watching.event()[0] == "history"
    server.signal()
    signalled = time.monotonic()
    for watching in watchers:
        while watching.block():
            pass
        assert watching.wire.rest() == b""
        assert time.monotonic() - signalled < 3  # one second, and a busy machine
        watching.wire.close()
    assert server.wait() == 0
    assert time.monotonic() - signalled < 5


def test_who_leaves_is_forgotten(server: RunningServer) -> None:
    """The connection ends with its client, whichever way that leaves."""
    leaving, half, gone = (watcher(server) for _ in range(3))
    for watching in (leaving, half, gone):
        watching.event()
    assert connections(server) == 4
    leaving.wire.close()
    half.wire.finish()
    gone.wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    gone.wire.close()  # with a reset
    while half.block():
        pass
    assert half.wire.rest() == b""
    half.wire.close()
    wait_until(lambda: connections(server) == 1, "the connections to be forgotten")


def test_many_watchers(server: RunningServer) -> None:
    """A hundred at once each get every kind of event, and others are answered meanwhile."""
    with ExitStack() as stack:
        watchers = []
        for _ in range(100):
            wire = stack.enter_context(Wire(server))
            watchers.append(Watcher(wire))
        for watching in watchers:
            assert watching.event()[0] == "history"
            assert watching.event()[0] == "overview"
        for _ in range(2):
            for watching in watchers:
                assert watching.event()[0] == "overview"
            with Wire(server) as other:
                asked = time.monotonic()
                assert other.send(request("GET", "/healthz")).answer().status == 200
                assert time.monotonic() - asked < 2
    wait_until(lambda: connections(server) == 1, "the connections to be forgotten")


class MadeUp:
    """A history whose events the test makes."""

    def __init__(self, opening: bytes = EVENT) -> None:
        self._opening = opening
        self.callbacks: list[Callable[[bytes], None]] = []

    def opening(self) -> bytes:
        return self._opening

    def subscribe(self, callback: Callable[[bytes], None]) -> Callable[[], None]:
        self.callbacks.append(callback)
        return lambda: self.callbacks.remove(callback)

    def tell(self, event: bytes) -> None:
        for callback in list(self.callbacks):
            callback(event)

    def stream(self, **options: Any) -> EventStream:
        return EventStream(cast("History", self), ServiceStatus(), **options)


def test_who_reads_nothing_misses_events() -> None:
    """What is kept for a slow client is what the kernel took and two events at most, however many there are."""
    history = MadeUp()
    size = 1 << 20
    with looped(history.stream()) as served, served.connect() as wire:
        watching = Watcher(wire)
        assert watching.block() == EVENT.decode()
        wait_until(lambda: history.callbacks, "the subscription")

        def kept() -> int:
            [connection] = served.loop._state.connections
            return int(connection.transport.get_write_buffer_size())

        for number in range(200):
            history.tell(b"data: %d %b\n\n" % (number, b"x" * size))
            time.sleep(0.001)
            assert kept() < 2.5 * size
        last = b"data: last %b\n\n" % (b"x" * size)
        history.tell(last)
        seen: list[str] = []
        while not seen or seen[-1] != "last":
            seen.append(watching.block().split()[1])
        assert len(seen) < 100
        numbers = [int(each) for each in seen[:-1]]
        assert numbers == sorted(set(numbers))


def test_who_leaves_is_told_no_more() -> None:
    """A client that is gone is unsubscribed, also one that reads nothing."""
    history = MadeUp()
    with looped(history.stream()) as served:
        for told in (b"data: 1\n\n", b"data: %b\n\n" % (b"x" * (1 << 24))):
            with served.connect() as wire:
                Watcher(wire)
                wait_until(lambda: history.callbacks, "the subscription")
                history.tell(told)
            wait_until(lambda: not history.callbacks, "the end of the subscription")
        wait_until(lambda: served.loop.connections == 0, "the connection to be forgotten")


def test_silence_is_broken_by_comments() -> None:
    """Where there are no events for long, something comes all the same."""
    history = MadeUp()
    with looped(history.stream(silence=1.0)) as served, served.connect() as wire:
        watching = Watcher(wire)
        assert watching.block() == EVENT.decode()
        assert watching.block() == ":\n\n"
        assert watching.block() == ":\n\n"


def test_events_that_come_when_the_loop_has_ended_are_nobodys() -> None:
    """Whoever tells them learns nothing of it."""
    history = MadeUp()
    with looped(history.stream()) as served:
        wire = served.connect()
        Watcher(wire)
        wait_until(lambda: history.callbacks, "the subscription")
        [callback] = history.callbacks
    callback(EVENT)
    wire.close()


def test_events_from_another_thread() -> None:
    """They arrive in order, from whichever thread they come."""
    history = MadeUp()
    with looped(history.stream()) as served, served.connect() as wire:
        watching = Watcher(wire)
        watching.block()
        wait_until(lambda: history.callbacks, "the subscription")
        for number in range(20):
            thread = threading.Thread(target=history.tell, args=(b"data: %d\n\n" % number,))
            thread.start()
            assert watching.block() == f"data: {number}\n\n"
            thread.join()
