"""A part of a request that the fast path keeps, when something else than more bytes happens."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from uvicorn.config import Config

from cacheserver.http import create_app
from cacheserver.http.farewell import LoopState
from cacheserver.http.fastpath import FastPath
from cacheserver.http.protocol import HttpProtocol
from cacheserver.metrics import Metrics
from cacheserver.store.store import Store


class Transport(asyncio.Transport):
    """Keeps what is written to it."""

    def __init__(self, extra: dict[str, object] | None = None) -> None:
        super().__init__(extra)
        self.written = b""
        self.unsent = 0
        self._closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.written += b"".join(list_of_data)

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True

    def pause_reading(self) -> None:
        """There is nothing to read from."""

    def resume_reading(self) -> None:
        """Likewise."""

    def get_write_buffer_size(self) -> int:
        return self.unsent


async def connect(store: Store) -> tuple[HttpProtocol, Transport]:
    """A connection to a server with the fast path."""
    metrics = Metrics()
    config = Config(create_app(store, metrics=metrics), http=HttpProtocol, lifespan="off")
    config.load()
    recorder = metrics.recorder()
    path = FastPath(store, None, recorder, metrics.slowlog)
    protocol = HttpProtocol(config, LoopState(recorder, 5.0, path), {}, asyncio.get_running_loop())
    transport = Transport()
    protocol.connection_made(transport)
    return protocol, transport


def test_a_body_stays_a_body_when_the_client_stops_reading() -> None:
    """Its rest comes while nothing may be written, and looks like a request."""

    async def send() -> bytes:
        protocol, transport = await connect(store)
        rest = b"DELETE /v1/kv/n/victim HTTP/1.1\r\nHost: t\r\n\r\n"
        head = b"PUT /v1/kv/n/k HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n"
        protocol.data_received(head % (3 + len(rest)) + b"abc")
        protocol.pause_writing()
        protocol.data_received(rest)
        protocol.resume_writing()
        for _ in range(100):
            await asyncio.sleep(0)
        protocol.connection_lost(None)
        return transport.written

    store = Store()
    store.namespace("n").put("victim", b"v")
    written = asyncio.run(send())
    assert store.namespace("n").read("victim") is not None
    entry = store.namespace("n").read("k")
    assert entry is not None
    assert entry[0].startswith(b"abcDELETE")
    assert written.startswith(b"HTTP/1.1 201")


def test_a_client_that_is_slow_again_is_waited_for_again() -> None:
    """What it had left of earlier answers tells nothing of how it takes those that followed."""

    async def look() -> list[bool]:
        protocol, transport = await connect(Store())
        found = []
        for unsent in (5_000, 20_000, 20_000):
            if unsent != transport.unsent:
                protocol.data_received(b"GET /v1/kv/n/k HTTP/1.1\r\nHost: t\r\n\r\n")
            transport.unsent = unsent
            await asyncio.sleep(0.01)
            found.append(protocol._is_excused())
            await asyncio.sleep(0.01)
        protocol.connection_lost(None)
        return found

    assert asyncio.run(look()) == [True, True, False]
