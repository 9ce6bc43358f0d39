"""What the middleware counts and times: with a clock of its own, around apps that are made up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import pytest

from cacheserver.http.metering import FOUND, MeteringMiddleware
from cacheserver.http.routes import ROUTES, RouteTable
from cacheserver.metrics import Metrics
from cacheserver.slowlog import SlowOperation
from cacheserver.store.locks import WAITS, Wait, WaitLog

type App = Callable[[Any, Any, Any], Awaitable[None]]

START: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": []}
END: dict[str, Any] = {"type": "http.response.body", "body": b""}
PATH = "/v1/kv/n%20s/a%2Fb"


class Metered:
    """A request through the middleware, in which time passes as the app says."""

    def __init__(self, threshold: float = 1.0) -> None:
        self.metrics = Metrics(threshold)
        self.now = 100.0
        self.sent: list[MutableMapping[str, Any]] = []

    def take(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    def ask(self, app: App, path: str = PATH, query: bytes = b"", **scope: Any) -> None:
        found = RouteTable(ROUTES).find(path.encode())

        async def routed(scope: Any, receive: Any, send: Any) -> None:
            if found is not None:
                scope[FOUND] = found
            await app(scope, receive, send)

        async def receive() -> dict[str, Any]:
            self.take(10)
            return {"type": "http.request"}

        async def send(message: MutableMapping[str, Any]) -> None:
            self.sent.append(message)
            self.take(5)

        middleware = MeteringMiddleware(routed, metrics=self.metrics, timer=lambda: self.now)
        whole = {"type": "http", "method": "GET", "query_string": query, "headers": [], **scope}
        asyncio.run(middleware(whole, receive, send))

    @property
    def slow(self) -> SlowOperation:
        [operation] = self.metrics.slowlog.latest()
        return operation

    @property
    def seconds(self) -> float:
        """The time that was noted of the one request."""
        totals = self.metrics.totals()
        assert totals.durations.count == totals.requests.total() == 1
        return totals.durations.seconds


async def waits(nanoseconds: int) -> None:
    log = WAITS.get()
    assert log is not None
    log.add("stripe", nanoseconds, 3, "write")


def test_the_time_of_an_operation_is_without_its_client() -> None:
    """What the body takes to come, and the answer to go, counts for the request, not for the operation."""
    metered = Metered()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        metered.take(1)
        await receive()
        metered.take(2)
        await waits(7)
        await send(START)
        metered.take(4)
        await send(END)

    metered.ask(app, headers=[(b"traceparent", b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01")])
    assert metered.seconds == 1 + 10 + 2 + 5 + 4 + 5
    slow = metered.slow
    assert (slow.operation, slow.method, slow.status, slow.seconds) == ("get", "GET", 200, 3)
    assert (slow.namespace, slow.key, slow.trace_id) == ("n s", "a/b", "a" * 32)
    assert (slow.lock_wait_seconds, slow.waits) == (7e-9, (Wait("stripe", 7, 3, "write"),))


@pytest.mark.parametrize(("took", "noted"), [(0.999, 0), (1.0, 1), (1.001, 1)])
def test_the_threshold_is_slow_itself(took: float, noted: int) -> None:
    """What takes exactly as long is slow."""
    metered = Metered()
    metered.now = 0.0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        metered.take(took)
        await send(START)
        await send(END)

    metered.ask(app)
    assert metered.metrics.slowlog.total == noted


def test_an_answer_in_pieces_is_counted_at_the_first() -> None:
    """It may have no end: what comes after is nobody's time."""
    metered = Metered()
    counted: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        metered.take(1)
        await send(START)
        for _ in range(3):
            await send({**END, "body": b"x", "more_body": True})
            counted.append(metered.metrics.totals().durations.count)
        await send(END)

    metered.ask(app)
    assert counted == [1, 1, 1]
    assert metered.seconds == 1 + 5


def test_what_fails_is_slow_too() -> None:
    """An app that raises after so long has an entry, with the status that its client gets."""
    metered = Metered()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        metered.take(2)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        metered.ask(app)
    assert (metered.slow.status, metered.slow.seconds) == (500, 2)
    assert metered.metrics.totals().requests == {("GET", 500): 1}


def test_who_leaves_before_the_answer_is_not_counted() -> None:
    """Nobody waited for it."""
    metered = Metered()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        metered.take(2)

    metered.ask(app)
    assert metered.metrics.totals().durations.count == metered.metrics.slowlog.total == 0


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/metrics"), ("GET", "/nothing"), ("BREW", PATH)]
)
def test_what_is_no_operation_is_never_slow(method: str, path: str) -> None:
    """Routes beyond /v1/, and what is no route."""
    metered = Metered(threshold=0)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(END)

    metered.ask(app, path, b"timing=1", method=method)
    assert metered.metrics.slowlog.total == 0
    assert metered.sent[0]["headers"] == []
    assert metered.metrics.totals().durations.count == 1


def test_waits_are_noted_apart() -> None:
    """Each request has a log of its own, until its answer begins; what was there before comes back."""
    outer = WaitLog()
    inside: list[WaitLog | None] = []
    metered = Metered()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        inside.append(WAITS.get())
        await waits(5)
        await asyncio.to_thread(lambda: inside.append(WAITS.get()))
        await send(START)
        inside.append(WAITS.get())
        await send(END)

    async def nothing() -> dict[str, Any]:
        raise AssertionError("nothing is to be read")

    async def ask_twice() -> None:
        WAITS.set(outer)
        middleware = MeteringMiddleware(app, metrics=metered.metrics)
        for _ in range(2):
            scope = {"type": "http", "method": "GET", "query_string": b"", "headers": []}
            await middleware(scope, nothing, noting_send)
            assert WAITS.get() is outer

    async def noting_send(message: MutableMapping[str, Any]) -> None:
        inside.append(WAITS.get())

    asyncio.run(ask_twice())
    for first, in_thread, start, after, end in (inside[:5], inside[5:]):
        assert first is in_thread
        assert start is after is end is outer
    assert inside[0] is not inside[5]
    assert all(log is not None and log.nanoseconds == 5 for log in (inside[0], inside[5]))
    assert outer.count == 0


@pytest.mark.parametrize("query", [b"timing=1", b"a=b&timing=1", b"%74iming=%31", b"timing=1&x"])
def test_the_header_is_added_to_what_the_app_says(query: bytes) -> None:
    """Whatever else the query has; the app's own list of headers stays as it is."""
    metered = Metered()
    mine = [(b"x", b"y")]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        metered.take(0.25)
        await waits(2_000_000)
        await send({**START, "headers": mine})
        await send(END)

    metered.ask(app, query=query)
    told = b'lock;dur=2.000;desc="stripe 3, write", app;dur=250.000'
    assert metered.sent[0]["headers"] == [(b"x", b"y"), (b"server-timing", told)]
    assert mine == [(b"x", b"y")]


@pytest.mark.parametrize("query", [b"", b"timing=0", b"timing", b"timing=2", b"untiming=1"])
def test_no_header_where_nobody_asks(query: bytes) -> None:
    """The message goes on as it came."""
    metered = Metered()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(END)

    metered.ask(app, query=query)
    assert metered.sent[0] is START
