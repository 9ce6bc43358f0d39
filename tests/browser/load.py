"""A load for a page to show: many keys that are read, and one that all clients write."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from tests.support.server import RunningServer
from tests.support.wire import Wire, request

NAMESPACE: Final = "sessions"
HOT_KEY: Final = "counter:homepage"
_KV: Final = f"/v1/kv/{NAMESPACE}"
_KEYS: Final = 2000


def one_in_four_is_hot(generator: random.Random) -> bytes:
    """Return a read of any of many keys, or, one time in four, a write of HOT_KEY."""
    if generator.randrange(4) == 0:
        return request("POST", f"/v1/incr/{NAMESPACE}/{HOT_KEY}")
    return request("GET", f"{_KV}/user:{int(_KEYS * generator.random() ** 2)}")


class Load:
    """Clients, each in a thread with a connection of its own, from here to the end of the block.

    Each sends `together` requests at once, as `choose` chooses them, and the next ones `pause`
    seconds after the last answer. What goes wrong in a client is raised at the end.
    """

    def __init__(
        self,
        server: RunningServer,
        choose: Callable[[random.Random], bytes] = one_in_four_is_hot,
        *,
        clients: int = 2,
        together: int = 64,
        pause: float = 0.02,
    ) -> None:
        self._server = server
        self._choose = choose
        self._together = together
        self._pause = pause
        self._stop = threading.Event()
        self._failures: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(clients)]

    def __enter__(self) -> Self:
        with Wire(self._server) as wire:
            for number in range(0, _KEYS, 2):  # so that half of all reads find something
                wire.send(request("PUT", f"{_KV}/user:{number}", b"x" * 100)).answer()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._failures and failure is None:
            raise self._failures[0]

    def _run(self, seed: int) -> None:
        generator = random.Random(seed)
        try:
            with Wire(self._server) as wire:
                while not self._stop.wait(self._pause):
                    self._round(wire, generator)
        except BaseException as failure:
            self._failures.append(failure)

    def _round(self, wire: Wire, generator: random.Random) -> None:
        wire.send(*(self._choose(generator) for _ in range(self._together)))
        for _ in range(self._together):
            status = wire.answer().status
            # 503: an increment that others were always quicker than.
            assert status in (200, 201, 204, 404, 412, 503), status
