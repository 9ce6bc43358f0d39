"""A server in this process: a store, the app over it, and connections without sockets."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.types import Receive, Scope, Send
from uvicorn.config import Config

from cacheserver.http.access import Tokens
from cacheserver.http.app import create_app
from cacheserver.http.farewell import LoopState
from cacheserver.http.fastpath import FastPath
from cacheserver.http.protocol import HttpProtocol
from cacheserver.metrics import Metrics
from cacheserver.store.store import Store
from tests.fuzz.wire import Pipe, SteppedLoop
from tests.support.clock import ManualClock

IDLE_TIMEOUT: Final = 30.0
TOKEN: Final = "open-sesame"
_HEADERS: Final = [(b"date", b"Sun, 22 Nov 2026 12:00:00 GMT"), (b"server", b"cacheserver")]
SPACING: Final = 65_536.0
"""Seconds from one stream to the next, so that its versions lie above those before."""


@dataclass(frozen=True)
class Terms:
    """What a server is started with."""

    store: Mapping[str, Any] = field(default_factory=dict)
    token: str | None = None


class Side:
    """A server with the fast path or without it. Used by one thread, on one loop, one stream at a time."""

    def __init__(self, terms: Terms, loop: SteppedLoop, *, fast: bool) -> None:
        self.is_fast = fast
        self._loop = loop
        self._clock = ManualClock()
        self.store = Store(clock=self._clock, **terms.store)
        self.metrics = Metrics(slow_threshold=1e9)
        tokens = None if terms.token is None else Tokens([terms.token])
        self._app = create_app(self.store, tokens=tokens, metrics=self.metrics)
        self._config = Config(
            self._counted,
            http=HttpProtocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
        )
        self._config.load()
        recorder = self.metrics.recorder()
        path = FastPath(self.store, tokens, recorder, self.metrics.slowlog) if fast else None
        self._state = LoopState(recorder, IDLE_TIMEOUT, path)
        self._state.default_headers = _HEADERS
        if path is not None:
            path.refresh(_HEADERS)
        self.through_app = 0
        """Requests that the app has answered."""

    async def _counted(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.through_app += 1
        await self._app(scope, receive, send)

    def begin(self, at: float) -> int:
        """Begin with an empty store; return the version from which the first namespace counts.

        `at` is the time on the monotonic clock, by a SPACING more than where it last began.
        """
        for name in self.store.names():
            self.store.drop(name)
        for _ in self.store.graveyard.empty():
            pass
        self._clock.advance(at - self._clock.monotonic())
        self._state.draining = False
        self._counts = self._all_requests()
        return int(self._clock.wall() * 1e6)

    def connect(self, room: float) -> Pipe:
        """Return the transport of a new connection."""
        pipe = Pipe(self._loop, room)
        pipe.protocol = HttpProtocol(self._config, self._state, {}, self._loop)
        pipe.protocol.connection_made(pipe)
        return pipe

    def pass_time(self, seconds: float) -> None:
        """Let time pass for what is stored, not for connections."""
        self._clock.advance(seconds)

    def drain(self) -> None:
        """Begin to stop, as the server does on SIGTERM."""
        self._state.draining = True
        for connection in list(self._state.connections):
            connection.shutdown()

    def connections(self) -> int:
        """How many connections are open."""
        return len(self._state.connections)

    def contents(self) -> dict[str, Any]:
        """Return all that is stored, and what namespaces count, to be compared."""
        told: dict[str, Any] = {}
        for each in self.store.statistics().namespaces:
            namespace = self.store.namespace(each.name)
            told[each.name] = (
                each.config,
                {key: entry[:4] for key, entry in sorted(namespace.snapshot().items())},
                (each.entries, each.bytes, each.hits, each.misses, each.writes),
                (each.cas_conflicts, each.expirations, each.evictions),
            )
        return told

    def requests(self) -> Counter[tuple[str, int]]:
        """Return how many requests were counted since the stream began."""
        return self._all_requests() - self._counts

    def _all_requests(self) -> Counter[tuple[str, int]]:
        return Counter(self.metrics.totals().requests)


SETTINGS: Final = {
    "plain": Terms({"stripes": 1, "max_value_size": 70_000}),
    "token": Terms({"stripes": 8, "max_value_size": 1_000}, TOKEN),
    "tight": Terms(
        {
            "stripes": 2,
            "max_value_size": 3_000,
            "max_memory": 6_000,
            "max_namespaces": 3,
            "policy": "none",
        }
    ),
}


class Sides:
    """For each of SETTINGS a server without the fast path and two with it, which get the same bytes.

    Use it as a context manager: it makes its loop the running one.
    """

    def __init__(self) -> None:
        self.loop = SteppedLoop()  # type: ignore[abstract]  # the server needs no more of it
        self._made: dict[str, tuple[Side, Side, Side]] = {}

    def of(self, settings: str) -> tuple[Side, Side, Side]:
        """Return the servers with these settings, made now if need be."""
        if settings not in self._made:
            terms, loop = SETTINGS[settings], self.loop
            self._made[settings] = (
                Side(terms, loop, fast=False),
                Side(terms, loop, fast=True),
                Side(terms, loop, fast=True),
            )
        return self._made[settings]

    def shares(self) -> tuple[int, int]:
        """Return how many requests the apps have answered: of the servers without, and with the fast path."""
        made = self._made.values()
        return sum(one.through_app for one, _, _ in made), sum(
            two.through_app for _, two, _ in made
        )

    def __enter__(self) -> Sides:
        asyncio._set_running_loop(self.loop)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio._set_running_loop(None)
