"""An event loop that runs only when it is told to, and the transport of one connection on it.

Time stands still until `advance` moves it, and nothing waits for a kernel: so what a connection does
depends on nothing but the bytes that it gets, and the same bytes always give the same answers.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
from collections import deque
from collections.abc import Buffer, Callable, Coroutine, Iterable
from typing import Any, Final

type _Context = contextvars.Context | None


class SteppedLoop(asyncio.AbstractEventLoop):
    """As much of an event loop as the server's connections and the app need."""

    def __init__(self) -> None:
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._numbers = itertools.count()
        self._now = 1_000.0
        self.errors: list[dict[str, Any]] = []
        """What went wrong in callbacks and tasks."""

    def run(self) -> None:
        """Run what is ready, and what becomes so meanwhile."""
        ready = self._ready
        while ready:
            handle = ready.popleft()
            if not handle.cancelled():
                handle._run()

    def advance(self, seconds: float) -> None:
        """Let so much time pass, with all that is planned for it."""
        end = self._now + seconds
        self.run()
        while self._timers and self._timers[0][0] <= end:
            self._now, _, timer = heapq.heappop(self._timers)
            self._ready.append(timer)
            self.run()
        self._now = end

    def time(self) -> float:
        return self._now

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: _Context = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: _Context = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._numbers), timer))
        return timer

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: _Context = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        if len(self._timers) > 100:
            self._timers = [timer for timer in self._timers if not timer[2].cancelled()]
            heapq.heapify(self._timers)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=self, **options)

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Do it at once: nothing here is a thread's."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.errors.append(context)


class Pipe(asyncio.Transport):
    """The server's end of a connection whose other end is the test.

    It holds `room` bytes that the client has not taken; beyond, it asks the protocol to pause.
    """

    def __init__(self, loop: SteppedLoop, room: float) -> None:
        super().__init__()
        self._loop = loop
        self._room = room
        self._unsent = 0
        self.protocol: Any = None
        self.sent = bytearray()
        """All that was written."""
        self.is_stuck = False
        """Whether the protocol was asked to pause."""
        self.reading = True
        self.has_ended = False
        """Whether the protocol has closed its sending half, or all."""
        self._closing = False

    # What the client does

    def receive(self, data: bytes) -> None:
        """Hand over what the client sends, and take all that comes of it."""
        self.protocol.data_received(data)
        self.settle()

    def settle(self) -> None:
        """Run until nothing happens any more, taking what is written."""
        self._loop.run()
        while self.is_stuck:
            self._unsent = 0
            self.is_stuck = False
            self.protocol.resume_writing()
            self._loop.run()

    def end(self) -> None:
        """The client closes its sending half."""
        if not self._closing and not self.protocol.eof_received():
            self.close()
        self.settle()

    # What the protocol does

    def write(self, data: Buffer) -> None:
        if self._closing:
            return
        if self.has_ended:
            raise AssertionError("something is written after the end")
        before = len(self.sent)
        self.sent += data
        self._unsent += len(self.sent) - before
        if self._unsent > self._room and not self.is_stuck:
            self.is_stuck = True
            self.protocol.pause_writing()

    def writelines(self, list_of_data: Iterable[Buffer]) -> None:
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        self.has_ended = True

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        if not self._closing:
            self._closing = self.has_ended = True
            self._loop.call_soon(self._lose)

    abort = close

    def _lose(self) -> None:
        """Let go of the protocol, as the transports of event loops do: the two refer to each other."""
        protocol, self.protocol = self.protocol, None
        protocol.connection_lost(None)

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return self.reading

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_write_buffer_size(self) -> int:
        return self._unsent if self.is_stuck else 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        raise AssertionError("nobody here changes limits")

    def get_protocol(self) -> Any:
        return self.protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return _INFO.get(name, default)


_INFO: Final = {"sockname": ("127.0.0.1", 8080), "peername": ("127.0.0.1", 40_000)}
