"""An event loop in a thread of its own, which serves the connections that it is given.

Guarantees:
- Whatever a loop works with, it has made in its own thread; what comes from other threads comes
  through `call_soon_threadsafe`.
- It wakes every TICK seconds even when nothing happens: what it made and others dropped is freed
  only while it runs (docs/free-threading.md).
- `closed` has counted every connection that it was to serve as soon as that has ended, and
  `turned_away` every one that it was to refuse, failures included.
- Told to drain it ends by itself: within the grace period as soon as no answer is owed any more, or
  at its end with what is left cut off.

Assumes of the interpreter: reading and replacing an attribute is atomic. `closed` and
`turned_away` are written by the loop's thread alone.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import socket
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Final

from uvicorn.config import Config

from cacheserver.errors import StartupError
from cacheserver.http.farewell import OVERLOADED, Farewell, LoopState, last_words
from cacheserver.http.fastpath import FastPath
from cacheserver.metrics import Metrics, Recorder
from cacheserver.server.threads import Ended, start_thread
from cacheserver.store.locks import WAITS, WaitLog

TICK: Final = 0.1
_DRAIN_TICK: Final = 0.02

type _NewProtocol = Callable[[], asyncio.BaseProtocol]
type _Ended = Callable[[Exception | None], None]

_log: Final = logging.getLogger(__name__)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a loop of uvloop, or of asyncio where there's no uvloop."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _copy(value: bytes) -> bytes:
    return bytes(bytearray(value))


class LoopThread:
    """One event loop and its thread. Other threads call the public methods, after `start`."""

    def __init__(
        self,
        index: int,
        config: Config,
        metrics: Metrics,
        idle_timeout: float,
        make_fast_path: Callable[[Recorder], FastPath | None] = lambda recorder: None,
        tick: Callable[[int], None] = lambda index: None,
    ) -> None:
        self.name = f"cacheserver-loop-{index}"
        self._index = index
        self._config = config
        self._metrics = metrics
        self._idle_timeout = idle_timeout
        self._make_fast_path = make_fast_path
        self._on_tick = tick
        self._ready = threading.Event()
        self._deadline = math.inf  # of draining, on the monotonic clock
        self._adopting: set[asyncio.Task[object]] = set()
        self._loop: asyncio.AbstractEventLoop
        self._context: contextvars.Context
        self._state: LoopState
        self._headers: list[tuple[bytes, bytes]]

    def start(self, ended: Callable[[Ended], None]) -> threading.Thread:
        """Start the thread and wait until its loop runs. Raises StartupError where it ended instead."""
        early: list[Ended] = []

        def tell(event: Ended) -> None:
            early.append(event)
            ended(event)
            self._ready.set()

        thread = start_thread(self.name, self._work, tell)
        self._ready.wait()
        if early:
            raise StartupError(f"{self.name} could not start: {early[0].error!r}")
        return thread

    @property
    def closed(self) -> int:
        """How many of the connections adopted have ended."""
        return self._state.closed

    @property
    def turned_away(self) -> int:
        """How many of the connections refused have ended."""
        return self._state.turned_away

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._state.connections)

    def adopt(self, sock: socket.socket) -> None:
        """Serve a connection."""
        self._hand_over(self._adopt, sock)

    def refuse(self, sock: socket.socket) -> None:
        """Tell a connection that there's no room, and close it."""
        self._hand_over(self._refuse, sock)

    def drain(self, deadline: float) -> None:
        """Finish what was given to it so far, and end; at `deadline` (monotonic) in any case."""
        self._soon(self._drain, deadline)

    def _soon(self, callback: Callable[..., None], *arguments: object) -> bool:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments, context=self._context)
        except RuntimeError:
            return False  # the loop is closed: the thread has ended
        return True

    def _hand_over(self, callback: Callable[..., None], sock: socket.socket) -> None:
        if not self._soon(callback, sock):
            sock.close()

    # From here on in the loop's own thread.

    def _work(self) -> None:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        # Connections are made in a copy of this context, so what their callbacks wait for is noted
        # in this log; requests that are tasks have logs of their own.
        WAITS.set(WaitLog())
        self._context = contextvars.copy_context()
        recorder = self._metrics.recorder()
        fast_path = self._make_fast_path(recorder)
        self._state = LoopState(recorder, self._idle_timeout, fast_path)
        # Copies: bytes that all loops send would cost every answer an atomic reference count.
        self._headers = [
            (_copy(name), _copy(value)) for name, value in self._config.encoded_headers
        ]
        self._refresh_headers()
        self._ready.set()
        while not self._state.draining:
            await self._tick()
        # uvicorn's sets tell nobody when they become empty.
        while self._has_work() and time.monotonic() < self._deadline:
            await self._sleep(_DRAIN_TICK)
        self._cut_off()

    async def _tick(self) -> None:
        await self._sleep(TICK)
        self._refresh_headers()
        self._on_tick(self._index)

    async def _sleep(self, seconds: float) -> None:
        planned = time.monotonic() + seconds
        await asyncio.sleep(seconds)
        self._state.recorder.lag(max(0.0, time.monotonic() - planned))

    def _refresh_headers(self) -> None:
        date = formatdate(time.time(), usegmt=True).encode()
        self._state.default_headers = [(b"date", date), *self._headers]
        if self._state.fast_path is not None:
            self._state.fast_path.refresh(self._state.default_headers)

    def _adopt(self, sock: socket.socket) -> None:
        self._connect(sock, self._new_protocol, self._count_closed)

    def _refuse(self, sock: socket.socket) -> None:
        words = last_words(
            OVERLOADED,
            "as many connections are open as the server allows: try again in a moment",
            self._state.default_headers,
            (b"retry-after", b"1"),
        )
        count = self._count_turned_away
        self._connect(sock, lambda: Farewell(self._state, words, count), count)

    def _connect(self, sock: socket.socket, protocol: _NewProtocol, gone: _Ended) -> None:
        task = self._loop.create_task(self._connected(sock, protocol, gone))
        self._adopting.add(task)
        task.add_done_callback(self._adopting.discard)

    async def _connected(self, sock: socket.socket, protocol: _NewProtocol, gone: _Ended) -> None:
        try:
            await self._loop.connect_accepted_socket(protocol, sock)
        except OSError as error:
            _log.debug("a connection was gone before it was served: %s", error)
            sock.close()
            gone(error)

    def _count_closed(self, error: Exception | None) -> None:
        self._state.closed += 1

    def _count_turned_away(self, error: Exception | None) -> None:
        self._state.turned_away += 1

    def _new_protocol(self) -> asyncio.BaseProtocol:
        protocol_class: Callable[..., asyncio.BaseProtocol] = self._config.http_protocol_class
        return protocol_class(
            config=self._config, server_state=self._state, app_state={}, _loop=self._loop
        )

    def _drain(self, deadline: float) -> None:
        self._deadline = min(deadline, self._deadline)
        self._state.draining = True
        for connection in list(self._state.connections):
            connection.shutdown()

    def _has_work(self) -> bool:
        return bool(self._adopting or self._state.connections or self._state.tasks)

    def _cut_off(self) -> None:
        left = list(self._state.connections)
        if left:
            _log.warning("%d connections were not finished in time and are cut off", len(left))
        for connection in left:
            connection.transport.abort()
