"""The ways in which a server answers the same requests, each a process of its own.

`live` is the server as it is by default, `live-asgi` the same with every request through the ASGI
app, `granian` the app alone behind a server of another make.

What differs under granian by the nature of that server, and nowhere else:
- It writes `server` and `date` itself, and its own reason phrases; its headers come in another order.
- It answers HTTP/1.0 in HTTP/1.0, and keeps such a connection open where it is asked to.
- What is no HTTP it refuses itself: without a problem document, with other limits, and with 500
  where it is the body. Some that we refuse it takes: `tests.parity.test_malformed` lists them.
- Requests that no client finishes sending it drops without an answer, and it takes some bytes in a
  target for no URI (`|^{}` and others that are to be encoded).
- It speaks WebSocket where a client asks to upgrade.
- A connection whose last request had a body that the app didn't read to its end is not always
  closed, and not always read on, even where the answer says `connection: close`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Final, Self

import pytest

from tests.support.server import RunningServer, running_server

LIVE: Final = ("live", "live-asgi")
PLANES: Final = (*LIVE, "granian")


class Planes:
    """Servers that start when they are first asked for, and stop at the end of the `with` block."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._running: dict[tuple[str, frozenset[tuple[str, str]]], RunningServer] = {}

    def start(self, name: str, settings: Mapping[str, str]) -> RunningServer:
        """Return one of PLANES with these environment variables. Skips where it cannot run."""
        found = (name, frozenset(settings.items()))
        if found not in self._running:
            command = _granian() if name == "granian" else None
            flags = ["--no-fast-path"] if name == "live-asgi" else []
            running = running_server(*flags, env=settings, command=command)
            self._running[found] = self._stack.enter_context(running)
        return self._running[found]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _granian() -> list[str]:
    if sys.version_info < (3, 14) and not sys._is_gil_enabled():
        pytest.skip("on free-threaded 3.13 granian leaves requests unanswered: see decisions.md")
    try:
        importlib.import_module("granian")
    except ImportError as error:
        pytest.skip(f"granian cannot run here: {error}")
    return [sys.executable, "-m", "tests.support.granian_app"]
