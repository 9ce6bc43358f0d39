"""The acceptor: one thread that takes connections from the kernel and deals them out.

Guarantees:
- Connections go to the event loops in turn, so the loops have equally many of them to begin with.
- Never more than `limit` connections are served, those on their way to a loop included. A further
  one is told so and closed; while it is, it takes no place from one that could be served.
- Being short of descriptors or memory stops nothing: it is logged, now and then, and tried again.
- Once stopped it takes what the kernel has already completed, and then closes its sockets. On Linux
  nobody can connect in between, so no connection that a client has is lost.

Assumes of the interpreter: reading another thread's integer attribute is atomic.
"""

from __future__ import annotations

import errno
import logging
import selectors
import socket
import struct
import sys
import time
from array import array
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Final, Protocol

from cacheserver.server.sockets import BACKLOG

_BATCH: Final = 128
"""Connections taken from one socket before the others get their turn."""
_TICK: Final = 0.5
"""Seconds after which it wakes even when nobody comes: the sockets that it made and the loops dropped
are freed only while it runs (docs/free-threading.md)."""
_PAUSE: Final = 0.1
"""Seconds to wait when the machine is short of something."""
_LOG_INTERVAL: Final = 5.0
_MAX_REFUSALS: Final = 256
"""Refused connections that may be open at a time, to be told so; beyond, they are just closed."""

_SHORTAGE: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
_CLIENT_GONE: Final = frozenset(
    getattr(errno, name)
    for name in (
        "ECONNABORTED",
        "ECONNREFUSED",
        "ECONNRESET",
        "EHOSTDOWN",
        "EHOSTUNREACH",
        "EINTR",
        "ENETDOWN",
        "ENETUNREACH",
        "ENONET",
        "ENOPROTOOPT",
        "ENOSR",
        "EOPNOTSUPP",
        "EPERM",
        "EPROTO",
        "EPROTONOSUPPORT",
        "ESOCKTNOSUPPORT",
        "ETIMEDOUT",
    )
    if hasattr(errno, name)
)
"""What accept(2) passes on of a connection that failed before it was accepted."""

_log: Final = logging.getLogger(__name__)


_SO_ATTACH_FILTER: Final = 26
"""Of <asm-generic/socket.h>, which Python has no name for."""
_DROP_ALL: Final = struct.pack("HBBI", 6, 0, 0, 0)
"""A socket filter of one instruction: accept 0 bytes of every packet."""


def _turn_newcomers_away(listener: socket.socket) -> None:
    """Have the kernel complete no further connection; those that it has completed can be accepted.

    Whoever knocks then is told, once the socket is closed, that nobody listens.
    """
    if sys.platform != "linux":
        return
    program = array("B", _DROP_ALL)
    address, _length = program.buffer_info()
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", 1, address))
    except OSError as error:
        _log.debug("connections that come at this very moment may be lost: %s", error)


class Dealt(Protocol):
    """What connections are dealt to: a loop in a thread."""

    @property
    def closed(self) -> int:
        """How many of the connections adopted have ended."""
        ...

    @property
    def turned_away(self) -> int:
        """How many of the connections refused have ended."""
        ...

    def adopt(self, sock: socket.socket) -> None:
        """Serve a connection."""
        ...

    def refuse(self, sock: socket.socket) -> None:
        """Tell a connection that there's no room, and close it."""
        ...


class Acceptor:
    """Accepts on all listening sockets. `run` is the thread's work; the rest is for other threads."""

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        loops: Sequence[Dealt],
        limit: int,
        accepted: Callable[[], None] = lambda: None,
    ) -> None:
        self._listeners = listeners
        self._loops = loops
        self._turns = cycle(loops)
        self._limit = limit
        self._accepted = accepted
        self._adopted = self._refused = 0  # connections given to the loops so far
        self._stopping = False
        self._wakeup, self._woken = socket.socketpair()
        self._next_log = 0.0
        self._untold = 0  # shortages since the last line in the log

    def run(self) -> None:
        """Accept until `stop` is called; then take what is waiting, and close the sockets."""
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._woken, selectors.EVENT_READ)
                for listener in self._listeners:
                    selector.register(listener, selectors.EVENT_READ)
                while not self._stopping:
                    ready = [key.fileobj for key, _ in selector.select(_TICK)]
                    self._accept_from([sock for sock in self._listeners if sock in ready], _BATCH)
            for listener in self._listeners:
                _turn_newcomers_away(listener)
            self._accept_from(self._listeners, BACKLOG)
        finally:
            self._close()

    def stop(self) -> None:
        """Make `run` come to its end."""
        self._stopping = True
        try:
            self._wakeup.send(b"\0")
        except OSError:
            pass  # it has ended already

    def _accept_from(self, listeners: Sequence[socket.socket], most: int) -> None:
        for listener in listeners:
            for _ in range(most):
                try:
                    sock, _address = listener.accept()
                except BlockingIOError:
                    break
                except OSError as error:
                    if error.errno in _CLIENT_GONE:
                        continue
                    if error.errno not in _SHORTAGE:
                        raise
                    self._sit_out(error)
                    break
                self._deal(sock)

    def _deal(self, sock: socket.socket) -> None:
        self._accepted()
        sock.setblocking(False)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            pass  # the client is gone already, which the loop will notice
        if self._adopted - sum(loop.closed for loop in self._loops) < self._limit:
            self._adopted += 1
            next(self._turns).adopt(sock)
        elif self._refused - sum(loop.turned_away for loop in self._loops) < _MAX_REFUSALS:
            self._refused += 1
            next(self._turns).refuse(sock)
        else:
            sock.close()

    def _sit_out(self, error: OSError) -> None:
        """Wait a moment for others to give back what is missing."""
        now = time.monotonic()
        self._untold += 1
        if now >= self._next_log:
            _log.warning(
                "cannot accept connections: %s (%d times); those that are open go on",
                error.strerror,
                self._untold,
            )
            self._untold, self._next_log = 0, now + _LOG_INTERVAL
        if not self._stopping:
            self._woken.settimeout(_PAUSE)
            try:
                self._woken.recv(1)
            except TimeoutError:
                pass

    def _close(self) -> None:
        for sock in (*self._listeners, self._wakeup, self._woken):
            sock.close()
