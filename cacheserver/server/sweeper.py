"""The sweeper: a thread that frees the memory of what has expired, so that nobody has to ask for it.

Guarantees: it works for at most SHARE of the time of one CPU, goes through everything again and
again, and ends within SLICE of being told to.

It also tells the garbage collector not to look at what the store keeps. A collection stops all threads for
as long as it goes through the containers there are, and those of a store with millions of entries make
that a tenth of a second, although nothing in them can be part of a cycle. So when the store has made new
ones, all objects that are there are exempt from collections from then on (`gc.freeze`); they are freed all
the same when nobody refers to them any more.
"""

from __future__ import annotations

import gc
import threading
import time
from typing import Final

from cacheserver.store.store import Store

SHARE: Final = 0.5
"""The part of its time in which it works."""
SLICE: Final = 0.001
"""Seconds that it works in one go: a pause costs a tenth of that. The locks are released in between."""
RELOOK: Final = 32
"""After so many changes of what there is the collector looks at everything once: on a free-threaded interpreter
a few of the objects that threads drop for each other are found by it alone."""
PAUSE: Final = 0.5
"""Seconds between two rounds."""


class Sweeper:
    """Sweeps a store. `run` is the thread's work; `stop` is for other threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._stopped = threading.Event()

    def run(self) -> None:
        """Go through the store until `stop` is called."""
        layout, changes = None, 0
        self._store.graveyard.attended = True
        while not self._stopped.wait(PAUSE):
            if layout != (layout := self._store.layout()):
                changes += 1
                if changes % RELOOK == 0:
                    gc.unfreeze()
                gc.collect()  # or garbage would be exempt, too
                gc.freeze()
            # The thread's own time: to wait for a CPU is no work.
            began = time.thread_time()
            for _ in self._store.sweep():
                worked = time.thread_time() - began
                if worked >= SLICE:
                    if self._stopped.wait(worked * (1 / SHARE - 1)):
                        return
                    began = time.thread_time()

    def stop(self) -> None:
        """Make `run` come to its end."""
        self._store.graveyard.attended = False
        self._stopped.set()
