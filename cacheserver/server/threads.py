"""Threads whose end is always noticed, and the mailbox in which the main thread notices it.

Guarantees:
- A thread started here tells its end exactly once, whatever ended it.
- It starts with an empty context, so that what the creator had set doesn't reach the requests.
- `Mailbox.receive` loses nothing that was posted, and returns within its timeout.

Assumes of the interpreter: appending to a deque and taking from it are atomic.
"""

from __future__ import annotations

import contextvars
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple, Self


class Ended(NamedTuple):
    """A thread has ended."""

    thread: str
    error: BaseException | None
    """What ended it, None where its work was done."""


class Signal(NamedTuple):
    """The process got a signal."""

    number: int


type Event = Ended | Signal


def start_thread(
    name: str, work: Callable[[], None], ended: Callable[[Ended], None]
) -> threading.Thread:
    """Start a thread that does `work` and then calls `ended`, also when `work` raises."""

    def whole_life() -> None:
        error: BaseException | None = None
        try:
            work()
        except BaseException as raised:  # noqa: BLE001, RUF100 (whatever it is, it is told)
            error = raised
        ended(Ended(name, error))

    # A daemon, so that one that hangs can't keep the process alive: who waits for it gives up.
    thread = threading.Thread(
        target=contextvars.Context().run, args=(whole_life,), name=name, daemon=True
    )
    thread.start()
    return thread


class Mailbox:
    """Where signals and the ends of threads arrive, for one thread that waits for either.

    A signal reaches it through `wakeup_fd`, to which the interpreter writes the signal's number
    from whichever thread the kernel chose; so the wait ends at once on every platform.
    """

    def __init__(self) -> None:
        self._wakeup, self._woken = socket.socketpair()
        self._wakeup.setblocking(False)
        self._woken.setblocking(False)
        self._ended: deque[Ended] = deque()
        self._signals: deque[Signal] = deque()

    @property
    def wakeup_fd(self) -> int:
        """What `signal.set_wakeup_fd` wants."""
        return self._wakeup.fileno()

    def post(self, ended: Ended) -> None:
        """Leave a message. Any thread may."""
        self._ended.append(ended)
        try:
            self._wakeup.send(b"\0")
        except OSError:
            pass  # full: the receiver will look anyway; closed: there is no receiver any more

    def receive(self, timeout: float | None = None) -> Event | None:
        """Return what came next, None where nothing came within `timeout` seconds."""
        deadline: Final = None if timeout is None else time.monotonic() + timeout
        while not (self._ended or self._signals):
            left = None if deadline is None else deadline - time.monotonic()
            if not _readable(self._woken, None if left is None else max(0.0, left)):
                return None
            self._signals.extend(Signal(byte) for byte in self._woken.recv(4096) if byte)
        return self._ended.popleft() if self._ended else self._signals.popleft()

    def close(self) -> None:
        """Give the descriptors back."""
        self._wakeup.close()
        self._woken.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _readable(sock: socket.socket, timeout: float | None) -> bool:
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([sock], [], [], timeout)[0])
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(None if timeout is None else timeout * 1000))
