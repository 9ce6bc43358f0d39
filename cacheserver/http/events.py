"""The figures of the live page as server-sent events: one stream a watcher.

Guarantees:
- A stream ends soon after its client has left, and within `_LOOK` seconds once the server drains.
- A client that is slow misses events; what waits for it is one event at most, beside what the server
  has buffered of the one before.
- Something is sent at least every `silence` seconds, so that nobody on the way takes it for dead.

All of it runs in the thread of one event loop, but for `_Inbox.offer`, which hands over through
`call_soon_threadsafe`.
"""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.types import Receive, Scope, Send

from cacheserver.http.status import ServiceStatus
from cacheserver.insight.history import History

_LOOK: Final = 0.5
"""Seconds after which a stream looks whether the server drains, also when there is no event."""
_COMMENT: Final = b":\n\n"
_START: Final = {
    "type": "http.response.start",
    "status": 200,
    "headers": [
        (b"content-type", b"text/event-stream"),
        (b"cache-control", b"no-store"),
        (b"x-accel-buffering", b"no"),  # nginx would keep events back until a buffer is full
    ],
}


class EventStream:
    """An answer that goes on: what there was until now, and then what there is, about each second."""

    def __init__(self, history: History, status: ServiceStatus, silence: float = 15.0) -> None:
        self._history = history
        self._status = status
        self._silence = silence - 2 * _LOOK

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, until the client leaves or the server drains."""
        if scope["method"] == "HEAD":
            await send(_START)
            await send({"type": "http.response.body"})
            return
        opening = await asyncio.to_thread(self._history.opening)
        await send(_START)
        await send(_piece(opening))
        inbox = _Inbox()
        unsubscribe = self._history.subscribe(inbox.offer)
        leaving = asyncio.create_task(_until_gone(receive))
        try:
            await self._go_on(inbox, leaving, send)
        finally:
            unsubscribe()
            leaving.cancel()
            await asyncio.wait({leaving})
        await send({"type": "http.response.body"})

    async def _go_on(self, inbox: _Inbox, leaving: asyncio.Task[None], send: Send) -> None:
        leaving.add_done_callback(inbox.wake)
        now = asyncio.get_running_loop().time
        sent_at = now()
        while not leaving.done() and self._status.state != "draining":
            event = await inbox.take(_LOOK)
            if not event and now() - sent_at >= self._silence:
                event = _COMMENT
            if event:
                await send(_piece(event))
                sent_at = now()


class _Inbox:
    """The latest event for one client. One that was not taken before the next came is missed."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._event = b""

    def offer(self, event: bytes) -> None:
        """Put an event in. Any thread may."""
        try:
            self._loop.call_soon_threadsafe(self._put, event)
        except RuntimeError:
            pass  # the loop is closed, and the client gone with it

    def wake(self, _: object = None) -> None:
        """Have `take` return."""
        self._news.set()

    async def take(self, seconds: float) -> bytes:
        """Return the event, or b"" where none comes for so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            pass
        self._news.clear()
        event, self._event = self._event, b""
        return event

    def _put(self, event: bytes) -> None:
        self._event = event
        self._news.set()


def _piece(event: bytes) -> dict[str, object]:
    return {"type": "http.response.body", "body": event, "more_body": True}


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
