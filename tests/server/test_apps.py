"""What the protocol does with apps that go wrong: one loop in this process, no listening socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import pytest
from uvicorn.config import Config

from cacheserver.http.protocol import HttpProtocol
from cacheserver.metrics import Metrics
from cacheserver.server.loops import LoopThread
from tests.support.server import wait_until
from tests.support.wire import Wire, request

type App = Callable[..., Awaitable[None]]

START = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]}


class Looped:
    """An app, served by one loop, on connections made here."""

    def __init__(self, app: App) -> None:
        config = Config(
            app,
            http=HttpProtocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
        )
        config.load()
        self.loop = LoopThread(0, config, Metrics(), idle_timeout=5)

    def connect(self) -> Wire:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        self.loop.adopt(theirs)
        ours.settimeout(20)
        return Wire(ours)


@contextlib.contextmanager
def looped(app: App) -> Generator[Looped]:
    served = Looped(app)
    thread = served.loop.start(lambda ended: None)
    try:
        yield served
    finally:
        served.loop.drain(time.monotonic() + 1)
        thread.join(10)
        assert not thread.is_alive()


async def raises(scope: Any, receive: Any, send: Any) -> None:
    raise RuntimeError("inside secret")


async def returns_nothing(scope: Any, receive: Any, send: Any) -> None:
    pass


@pytest.mark.parametrize("app", [raises, returns_nothing])
def test_an_app_without_an_answer_gives_500(app: App, caplog: pytest.LogCaptureFixture) -> None:
    """The client gets a problem that tells nothing of the inside; the log tells all."""
    with looped(app) as served:
        with served.connect() as wire:
            answer = wire.send(request("GET", "/")).answer()
            assert answer.status == 500
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["status"] == 500
            assert b"secret" not in answer.body
            assert wire.rest() == b""
        with served.connect() as wire:
            assert wire.send(request("GET", "/")).answer().status == 500
    assert "ASGI" in caplog.text


def test_an_app_that_fails_halfway_cuts_its_answer_off(caplog: pytest.LogCaptureFixture) -> None:
    """Half an answer can't be repaired: the connection ends, so that nobody takes it for whole."""

    async def fails_halfway(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send({"type": "http.response.body", "body": b"ab", "more_body": True})
        raise RuntimeError("halfway")

    with looped(fails_halfway) as served, served.connect() as wire:
        assert wire.send(request("GET", "/")).rest().endswith(b"\r\n\r\nab")
    assert "halfway" in caplog.text


def test_an_answer_that_is_cut_off_by_the_end_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """An app that is cancelled because the loop ends isn't taken for one that failed."""
    cancelled: list[str] = []

    async def never_ends(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send({"type": "http.response.body", "body": b"ab", "more_body": True})
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(scope["path"])
            raise

    served = Looped(never_ends)
    thread = served.loop.start(lambda ended: None)
    with served.connect() as wire:
        assert wire.send(request("GET", "/a")).peek()
        served.loop.drain(time.monotonic())
        thread.join(10)
        assert wire.rest().endswith(b"\r\n\r\nab")
    assert cancelled == ["/a"]
    assert "ASGI" not in caplog.text


def test_an_app_that_lets_its_own_cancellation_out_gives_500(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What the app itself has cancelled is an error of the app, and the connection isn't left waiting."""

    async def waits_for_what_is_cancelled(scope: Any, receive: Any, send: Any) -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    with looped(waits_for_what_is_cancelled) as served, served.connect() as wire:
        assert wire.send(request("GET", "/")).answer().status == 500
    assert "CancelledError" in caplog.text


def test_a_malformed_body_cuts_off_an_answer_that_has_begun() -> None:
    """What comes after the beginning of an answer can only be its rest, never a problem."""

    async def begins(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send({"type": "http.response.body", "body": b"ab", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass

    with looped(begins) as served, served.connect() as wire:
        wire.send(request("PUT", "/", Transfer_Encoding="chunked"))
        assert wire.peek()
        wire.send(b"zz\r\n")
        assert wire.rest().endswith(b"\r\n\r\nab")


def test_an_app_that_waits_hears_of_a_client_that_left() -> None:
    """An app that asks whether its client is still there is told when it isn't."""
    heard: list[str] = []

    async def waits(scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] != "http.disconnect":
            pass
        heard.append(message["type"])

    with looped(waits) as served:
        with served.connect() as wire:
            wire.send(request("GET", "/"))
            wait_until(lambda: served.loop.connections == 1, "the connection")
        wait_until(lambda: heard, "the app to hear of it")
        wait_until(lambda: served.loop.connections == 0, "the connection to be forgotten")


def test_an_app_that_does_not_ask_answers_a_client_that_has_ended_sending() -> None:
    """A client that closes its sending half gets an answer that takes a while, and the next too."""

    async def takes_a_while(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["body"] == b"abc"
        await asyncio.sleep(0.05)
        await send(START)
        await send({"type": "http.response.body", "body": b"done"})

    with looped(takes_a_while) as served, served.connect() as wire:
        wire.send(request("PUT", "/", b"abc") * 2).finish()
        assert wire.answer().body == b"done"
        answer = wire.answer()
        assert (answer.body, answer.headers["connection"]) == (b"done", "close")
        assert wire.rest() == b""


def test_requests_sent_ahead_are_not_read_without_end() -> None:
    """While an answer is under way the requests behind it stay where they are: with the client."""
    release = asyncio.Event()
    begun: list[str] = []

    async def waits(scope: Any, receive: Any, send: Any) -> None:
        begun.append(scope["path"])
        await receive()
        await release.wait()
        await send({**START, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    with looped(waits) as served, served.connect() as wire:
        wire.socket.settimeout(0.5)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 64 << 20:
                sent += wire.socket.send(request("GET", "/") * 1000)
        assert sent < 64 << 20, "all of it was read"
        assert begun == ["/"]
