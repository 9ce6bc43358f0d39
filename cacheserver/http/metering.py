"""Counts and times requests, and what they wait for, as ASGI middleware."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final
from urllib.parse import unquote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cacheserver.http.routes import Found, Route
from cacheserver.http.target import asks_for_timing
from cacheserver.http.timing import TRACEPARENT, server_timing, trace_id
from cacheserver.metrics import Metrics
from cacheserver.store.locks import WAITS, WaitLog

FOUND: Final = "cacheserver.found"
"""Where in the scope of a request its resource stands, once it was found."""


class MeteringMiddleware:
    """Tells the calling thread's recorder of every request that was answered.

    The time runs from the request's arrival to the last byte handed to the server; of an answer in
    pieces, which may have no end, to the first piece. A request whose client left before it was answered
    is not counted.

    What the request waits for is noted in a log of its own (`WAITS`), from its arrival to the beginning of
    its answer. That time, less what it waited for its body, is what the slow log and `Server-Timing`
    tell.
    """

    def __init__(
        self, app: ASGIApp, *, metrics: Metrics, timer: Callable[[], float] = time.perf_counter
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._timer = timer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on and note how that went."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await _Measured(scope, receive, send, self._metrics, self._timer).run(self._app)


class _Measured:
    """One request on its way through the app."""

    __slots__ = (
        "_counted",
        "_idle",
        "_metrics",
        "_outer",
        "_receive",
        "_scope",
        "_send",
        "_started",
        "_status",
        "_timer",
        "_waits",
    )

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        metrics: Metrics,
        timer: Callable[[], float],
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._metrics = metrics
        self._timer = timer
        self._started = timer()
        self._idle = 0.0  # seconds waited for the body
        self._status = 0
        self._counted = False
        self._waits = WaitLog()
        self._outer = WAITS.get()

    async def run(self, app: ASGIApp) -> None:
        WAITS.set(self._waits)
        try:
            await app(self._scope, self.receive, self.send)
        except Exception:
            if not self._status:
                self._done(500)  # which Starlette sends from outside of this middleware
            raise
        finally:
            WAITS.set(self._outer)
            if self._status:
                self._count()

    async def receive(self) -> Message:
        asked = self._timer()
        try:
            return await self._receive()
        finally:
            self._idle += self._timer() - asked

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            timing = self._done(message["status"])
            if timing:
                headers = [*message["headers"], (b"server-timing", timing)]
                message = {**message, "headers": headers}
        elif message.get("more_body", False):
            self._count()
        await self._send(message)

    def _done(self, status: int) -> bytes:
        """The work is done. Returns what the answer tells of its time, b"" where nobody asks."""
        self._status = status
        # What is called from here on belongs to other requests: those that waited for this answer.
        WAITS.set(self._outer)
        found: Found | None = self._scope.get(FOUND)
        route = None if found is None else found.resource.routes.get(self._scope["method"])
        if found is None or route is None or not route.is_measured:
            return b""
        seconds = max(0.0, self._timer() - self._started - self._idle)
        if seconds >= self._metrics.slowlog.threshold:
            self._note_slow(route, found, seconds)
        query = self._scope["query_string"]
        return server_timing(seconds, self._waits) if query and asks_for_timing(query) else b""

    def _note_slow(self, route: Route, found: Found, seconds: float) -> None:
        given = [value for name, value in self._scope["headers"] if name == TRACEPARENT]
        self._metrics.slowlog.note(
            operation=route.operation,
            method=self._scope["method"],
            namespace=unquote(found.namespace.decode("latin-1")),
            key=unquote(found.key.decode("latin-1")),
            status=self._status,
            seconds=seconds,
            lock_wait_seconds=self._waits.nanoseconds / 1e9,
            waits=tuple(self._waits.waits),
            trace_id=trace_id(given[0]) if len(given) == 1 else "",
        )

    def _count(self) -> None:
        if not self._counted:
            self._counted = True
            seconds = self._timer() - self._started
            self._metrics.recorder().request(self._scope["method"], self._status, seconds)
