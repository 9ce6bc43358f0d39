"""Counts and times requests, as ASGI middleware."""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cacheserver.metrics import Metrics


class MeteringMiddleware:
    """Tells the calling thread's recorder of every request that was answered.

    The time runs from the request's arrival to the last byte handed to the server. A request whose
    client left before it was answered is not counted.
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
        started = self._timer()
        status = 0

        async def noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting_status)
        except Exception:
            status = status or 500  # which Starlette sends from outside of this middleware
            raise
        finally:
            if status:
                seconds = self._timer() - started
                self._metrics.recorder().request(scope["method"], status, seconds)
