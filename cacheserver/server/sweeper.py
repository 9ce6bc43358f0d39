"""The sweeper: a thread that frees the memory of what has expired, so that nobody has to ask for it.

Guarantees: it works for at most SHARE of the time of one CPU, goes through everything again and
again, and ends within one step of being told to.
"""

from __future__ import annotations

import threading
import time
from typing import Final

from cacheserver.store.store import Store

SHARE: Final = 0.25
"""The part of its time in which it works."""
PAUSE: Final = 0.5
"""Seconds between two rounds."""


class Sweeper:
    """Sweeps a store. `run` is the thread's work; `stop` is for other threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._stopped = threading.Event()

    def run(self) -> None:
        """Go through the store until `stop` is called."""
        while not self._stopped.wait(PAUSE):
            began = time.monotonic()
            for _ in self._store.sweep():
                worked = time.monotonic() - began
                if self._stopped.wait(worked * (1 / SHARE - 1)):
                    return
                began = time.monotonic()

    def stop(self) -> None:
        """Make `run` come to its end."""
        self._stopped.set()
