"""Answers that are sent by the socket itself: their order, and what the socket doesn't take."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import socket
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, Final

import pytest
import uvloop
from uvicorn.config import Config

from cacheserver.http import create_app
from cacheserver.http.farewell import LoopState
from cacheserver.http.fastpath import FastPath
from cacheserver.http.protocol import HttpProtocol
from cacheserver.metrics import Metrics
from cacheserver.store.store import Store
from tests.http.test_kept import Transport

type Loops = Callable[[], asyncio.AbstractEventLoop]

LOOPS: Final = [asyncio.new_event_loop, uvloop.new_event_loop]
ANSWER: Final = re.compile(
    rb"HTTP/1\.1 200 OK\r\n(?:[a-z-]+: [^\r]*\r\n)+\r\n(?:value ([0-9]+);\.{300}|\{\"status\":\"ok\"\})"
)
HEALTH: Final = b"GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n"
SMALL: Final = 4096
"""Bytes that a socket is asked to hold: the kernel makes a few more of them."""


def get(key: int) -> bytes:
    """A request that the fast path answers, with `value KEY;` and more."""
    return b"GET /v1/kv/n/%d HTTP/1.1\r\nHost: t\r\n\r\n" % key


def make() -> HttpProtocol:
    """Make a server's end of a connection. Needs a running loop."""
    store, metrics = Store(), Metrics()
    for key in range(1_000):
        store.namespace("n").put(str(key), b"value %d;" % key + b"." * 300)
    app = create_app(store, metrics=metrics)
    config = Config(app, http=HttpProtocol, lifespan="off", access_log=False)
    config.load()
    recorder = metrics.recorder()
    path = FastPath(store, None, recorder, metrics.slowlog)
    return HttpProtocol(config, LoopState(recorder, 30.0, path), {}, asyncio.get_running_loop())


async def serve(server: socket.socket) -> HttpProtocol:
    """Make a server's end of a connection, and connect it."""
    made = make()
    await asyncio.get_running_loop().connect_accepted_socket(lambda: made, server)
    return made


def run(make_loop: Loops, work: Coroutine[Any, Any, None]) -> None:
    """Run it on such a loop."""
    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(work)


def received(client: socket.socket) -> bytes:
    """Return what there is to read."""
    got = b""
    with contextlib.suppress(BlockingIOError):
        while piece := client.recv(1 << 16):
            got += piece
    return got


async def until(condition: Callable[[], object]) -> None:
    """Wait until it holds."""
    for _ in range(1_000):
        if condition():
            return
        await asyncio.sleep(0.005)
    pytest.fail("it never came true")


async def until_changed(transport: asyncio.WriteTransport, waits: int) -> None:
    """Wait until another number of bytes waits in a transport."""
    await until(lambda: transport.get_write_buffer_size() != waits)


@pytest.mark.parametrize("make_loop", LOOPS)
def test_what_waits_in_the_transport_goes_first(make_loop: Loops) -> None:
    """The socket has room again when the next request comes, before the loop has noticed."""

    async def converse() -> None:
        client, server = socket.socketpair()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
        client.setblocking(False)
        server.setblocking(False)
        with client:
            end = await serve(server)
            sent, got = 0, b""
            while not end.transport.get_write_buffer_size():
                client.sendall(get(sent))
                sent += 1
                await asyncio.sleep(0.001)
            assert end.ready
            for _ in range(20):
                waits = end.transport.get_write_buffer_size()
                assert waits
                got += received(client)
                client.sendall(get(sent) + get(sent + 1))
                sent += 2
                await until_changed(end.transport, waits)
                while not end.transport.get_write_buffer_size():
                    client.sendall(get(sent))
                    sent += 1
                    await asyncio.sleep(0.001)
            while got.count(b";") < sent:
                got += received(client)
                await asyncio.sleep(0)
        assert re.findall(ANSWER, got) == [b"%d" % each for each in range(sent)]
        assert re.sub(ANSWER, b"", got) == b""
        await until(lambda: end.socket == -1)

    run(make_loop, converse())


@pytest.mark.parametrize("make_loop", LOOPS)
def test_answers_of_the_app_keep_their_turn(make_loop: Loops) -> None:
    """They go by the transport, and the client takes all of it slowly."""

    async def converse() -> None:
        client, server = socket.socketpair()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
        client.setblocking(False)
        server.setblocking(False)
        rounds, got = 900, b""
        requests = b"".join(HEALTH if number % 7 == 6 else get(number) for number in range(rounds))
        with client:
            end = await serve(server)
            while got.count(b"\r\n\r\n") < rounds:
                with contextlib.suppress(BlockingIOError):
                    requests = requests[client.send(requests[:5_000]) :]
                with contextlib.suppress(BlockingIOError):
                    got += client.recv(1_000)
                await asyncio.sleep(0)
            while not got.endswith(b"." * 300) or len(re.findall(ANSWER, got)) < rounds:
                got += received(client)
                await asyncio.sleep(0)
        assert re.sub(ANSWER, b"", got) == b""
        told = re.findall(ANSWER, got)
        assert told == [b"" if each % 7 == 6 else b"%d" % each for each in range(rounds)]
        await until(lambda: end.socket == -1)

    run(make_loop, converse())


@pytest.mark.parametrize("make_loop", LOOPS)
def test_a_client_that_is_gone_ends_the_connection(make_loop: Loops) -> None:
    """It resets it with requests on their way, so that sending their answers fails."""

    async def converse() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            server, _ = listener.accept()
        server.setblocking(False)
        end = await serve(server)
        assert end.socket == end.transport.get_extra_info("socket").fileno()
        client.sendall(get(1) * 500)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        await until(lambda: end.socket == -1)

    run(make_loop, converse())


@pytest.mark.parametrize("make_loop", LOOPS)
def test_a_connection_that_ended_is_freed_without_the_collector(make_loop: Loops) -> None:
    """It is in no cycle, whoever answered: what is in one stays until the next collection."""

    async def converse() -> None:
        client, server = socket.socketpair()
        client.setblocking(False)
        server.setblocking(False)
        end = await serve(server)
        is_there = weakref.ref(end)
        got = b""
        for request in (get(1), HEALTH, get(2)[:30]):
            client.sendall(request)
            await asyncio.sleep(0.02)
            got += received(client)
        assert len(re.findall(ANSWER, got)) == 2
        client.close()
        del end
        await until(lambda: is_there() is None)

    gc.disable()
    try:
        run(make_loop, converse())
    finally:
        gc.enable()


@pytest.mark.parametrize("encrypts", [True, False])
def test_what_must_be_encrypted_goes_by_the_transport(encrypts: bool) -> None:
    """A transport over TLS tells the socket below it, too."""

    async def connect() -> int:
        end = make()
        end.connection_made(transport)
        found = end.socket
        end.connection_lost(None)
        return found

    client, server = socket.socketpair()
    transport = Transport({"socket": server, "sslcontext": object() if encrypts else None})
    with client, server:
        assert asyncio.run(connect()) == (-1 if encrypts else server.fileno())
