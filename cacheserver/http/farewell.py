"""The end of a connection, and what the connections of one event loop share."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final, cast

from uvicorn.server import ServerState

from cacheserver.http import problems
from cacheserver.http.fastpath import FastPath
from cacheserver.http.problems import Kind
from cacheserver.metrics import Recorder

LINGER_SECONDS: Final = 2.0
"""How long a client may go on sending after the last answer of its connection."""
LINGER_BYTES: Final = 64 << 20
"""How much it may send meanwhile."""

OVERLOADED: Final = Kind(503, "overloaded", "The server has no room for another connection")


class LoopState(ServerState):
    """What the connections of one event loop share. Only that loop's thread touches it."""

    def __init__(
        self, recorder: Recorder, idle_timeout: float, fast_path: FastPath | None = None
    ) -> None:
        super().__init__()
        self.fast_path = fast_path
        self.connections: set[Any] = set()  # what has `transport` and `shutdown()`
        self.recorder = recorder
        self.idle_timeout = idle_timeout
        self.draining = False
        """Set when the server stops: each connection ends with the answer it owes."""
        self.closed = 0
        """Connections that were served and have ended. Other threads may read it."""
        self.turned_away = 0
        """Connections that were refused and have ended. Other threads may read it."""


def last_words(
    kind: Kind, detail: str, default_headers: list[tuple[bytes, bytes]], *more: tuple[bytes, bytes]
) -> bytes:
    """Return a whole answer, after which the connection is closed."""
    body = kind.render(detail)
    headers = [
        *default_headers,
        (b"content-type", problems.MEDIA_TYPE.encode()),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
        *more,
    ]
    lines = [b"HTTP/1.1 %d %s" % (kind.status, HTTPStatus(kind.status).phrase.encode())]
    lines += [b"%s: %s" % header for header in headers]
    return b"\r\n".join([*lines, b"", body])


class Farewell(asyncio.Protocol):
    """The end of a connection: the last words, then silence.

    Closing a socket that still has unread bytes makes the kernel reset the connection, and the
    client may lose the answer that it hasn't read. So only the sending half is closed, and what
    arrives is thrown away until the client closes too, or LINGER_SECONDS or LINGER_BYTES are over.
    """

    def __init__(
        self, state: LoopState, words: bytes, ended: Callable[[Exception | None], None]
    ) -> None:
        self.transport: asyncio.Transport
        self._state = state
        self._words = words
        self._ended = ended
        self._timer: asyncio.TimerHandle | None = None
        self._patience = LINGER_BYTES
        self._unsent = math.inf  # bytes the client had not taken when we last looked

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say the last words and close the sending half."""
        self.transport = cast("asyncio.Transport", transport)
        self._state.connections.add(self)
        if self._words:
            self.transport.write(self._words)
        self.transport.write_eof()
        self._wait(LINGER_SECONDS, self._close)

    def data_received(self, data: bytes) -> None:
        """Forget it."""
        self._patience -= len(data)
        if self._patience < 0:
            self._close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whom it concerns."""
        self._state.connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        self._ended(exc)

    def shutdown(self) -> None:
        """Nothing to do: it is ending already."""

    def _close(self) -> None:
        before, self._unsent = self._unsent, self.transport.get_write_buffer_size()
        if 0 < self._unsent < before:  # it takes its answer, slowly
            self._wait(self._state.idle_timeout, self._close)
            return
        if self._unsent:
            self.transport.abort()
            return
        self.transport.close()
        self._wait(self._state.idle_timeout, self.transport.abort)

    def _wait(self, seconds: float, then: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, then)
