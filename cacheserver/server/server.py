"""The server as an object: everything that is shared is built first, then the threads start.

Guarantees:
- Nothing shared is built after the first thread has started: neither the app nor its settings.
- `start` either has everything running or raises and leaves nothing behind.
- `stop` returns within the grace period and a few seconds, whatever hangs.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from uvicorn.config import Config

from cacheserver import __version__
from cacheserver.http import ServiceStatus, create_app
from cacheserver.http.access import Tokens
from cacheserver.http.fastpath import FastPath
from cacheserver.http.protocol import HttpProtocol
from cacheserver.metrics import Metrics, Recorder
from cacheserver.server.acceptor import Acceptor
from cacheserver.server.loops import LoopThread
from cacheserver.server.sockets import bracketed, listen
from cacheserver.server.sweeper import Sweeper
from cacheserver.server.threads import Ended, start_thread
from cacheserver.settings import Settings
from cacheserver.store.store import Store

_ACCEPTOR_SECONDS: Final = 5.0
"""How long the acceptor may take to end."""
_LOOP_SECONDS: Final = 5.0
"""How long a loop may take to end, once its grace period is over."""
_SPARE_FILES: Final = 384
"""Descriptors needed beside those of connections."""

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a program that embeds the server may have called. What a hook raises ends its thread."""

    tick: Callable[[int], None] = lambda index: None
    """Called by every loop, with its index, each time it ticks."""
    accepted: Callable[[], None] = lambda: None
    """Called by the acceptor for each connection."""


class Server:
    """A server that listens, made of threads over one store."""

    def __init__(
        self,
        settings: Settings,
        hooks: Hooks | None = None,
        ended: Callable[[Ended], None] | None = None,
    ) -> None:
        """`ended` is told, in the thread concerned, of each thread that ends; else the log is."""
        hooks = hooks or Hooks()
        self.settings = settings
        self.token = secrets.token_urlsafe(32) if settings.auto_token else settings.token
        """What clients must show, None where anybody may do everything."""
        self.status = ServiceStatus(
            threads=settings.threads, fast_path=settings.fast_path, state="starting"
        )
        self.store = Store(
            stripes=settings.stripes,
            max_memory=settings.max_memory,
            max_namespaces=settings.max_namespaces,
            max_value_size=settings.max_value_size,
        )
        self.port = 0
        """Where it listens, once started."""
        metrics = Metrics(settings.slow_threshold)
        tokens = Tokens([self.token]) if self.token else None
        config = _uvicorn_config(self.store, tokens, self.status, metrics)

        def make_fast_path(recorder: Recorder) -> FastPath | None:
            if not settings.fast_path:
                return None
            return FastPath(self.store, tokens, recorder, metrics.slowlog)

        self._loops = [
            LoopThread(index, config, metrics, settings.idle_timeout, make_fast_path, hooks.tick)
            for index in range(settings.threads)
        ]
        self._hooks = hooks
        self._ended = ended or _log_end
        self._sweeper = Sweeper(self.store)
        self._acceptor: Acceptor | None = None
        self._threads: list[threading.Thread] = []

    @property
    def url(self) -> str:
        """`http://HOST:PORT`, with the host as it was given."""
        return f"http://{bracketed(self.settings.host)}:{self.port}"

    def start(self) -> None:
        """Listen and serve. Raises StartupError where that can't be done."""
        _allow_files(self.settings.max_connections + _SPARE_FILES)
        listeners = listen(self.settings.host, self.settings.port)
        self.port = listeners[0].getsockname()[1]
        try:
            self._start_loops()
        except BaseException:
            for listener in listeners:
                listener.close()
            self.stop(grace=0)
            raise
        self.status.state = "serving"
        self._threads.append(start_thread("cacheserver-sweeper", self._sweeper.run, self._ended))
        self._start_acceptor(listeners)

    def stop(self, grace: float) -> bool:
        """Stop accepting, let requests in flight finish for `grace` seconds, then end.

        Returns whether all threads have ended.
        """
        return self.join(self.drain(grace) + _LOOP_SECONDS)

    def drain(self, grace: float) -> float:
        """Begin to stop; return when, on the monotonic clock, it ends at the latest."""
        deadline = time.monotonic() + grace
        self.status.state = "draining"
        self._sweeper.stop()
        if self._acceptor is not None:
            self._acceptor.stop()
            self._threads[-1].join(_ACCEPTOR_SECONDS)
        for loop, _thread in zip(self._loops, self._threads, strict=False):
            loop.drain(deadline)
        return deadline

    @property
    def connections(self) -> tuple[int, ...]:
        """How many connections each loop has."""
        return tuple(loop.connections for loop in self._loops)

    @property
    def threads(self) -> int:
        """How many threads were started."""
        return len(self._threads)

    def alive(self) -> list[str]:
        """Return the names of the threads that haven't ended."""
        return [thread.name for thread in self._threads if thread.is_alive()]

    def join(self, deadline: float) -> bool:
        """Wait for the threads until `deadline` on the monotonic clock; tell whether all ended."""
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not self.alive()

    def _start_loops(self) -> None:
        for loop in self._loops:
            self._threads.append(loop.start(self._ended))

    def _start_acceptor(self, listeners: list[socket.socket]) -> None:
        self._acceptor = Acceptor(
            listeners, self._loops, self.settings.max_connections, self._hooks.accepted
        )
        self._threads.append(start_thread("cacheserver-acceptor", self._acceptor.run, self._ended))


def _uvicorn_config(
    store: Store, tokens: Tokens | None, status: ServiceStatus, metrics: Metrics
) -> Config:
    config = Config(
        create_app(store, tokens=tokens, status=status, metrics=metrics),
        http=HttpProtocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        headers=[("server", f"cacheserver/{__version__}")],
    )
    config.load()
    return config


def _log_end(ended: Ended) -> None:
    if ended.error is not None:
        _log.critical("%s ended: %r", ended.thread, ended.error, exc_info=ended.error)


def _allow_files(wanted: int) -> None:
    """Raise the process's own limit of open files as far as it may be and is needed."""
    if os.name != "posix":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))
    except (OSError, ValueError):
        allowed = soft
    if allowed < wanted:
        _log.warning(
            "%d open files are allowed and --max-connections needs %d: raise the limit (ulimit -n)",
            allowed,
            wanted,
        )
