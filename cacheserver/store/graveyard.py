"""Where what was cleared or dropped waits to be freed, if there is a thread that does it bit by bit.

To free millions of entries takes seconds. And on a free-threaded interpreter it isn't done by who lets go
of them, but by the thread that made them, which is an event loop: at once, where they go as one dict. So
the thread that sweeps takes them apart, some at a time. Without such a thread they are freed when they are
let go of.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Final

from cacheserver.store.stripe import Contents

STEP: Final = 256
"""Entries that are freed in a step."""


class Graveyard:
    """Contents of stripes that nobody needs any more. For any thread."""

    def __init__(self) -> None:
        self.attended = False
        """Whether somebody calls `empty` again and again. Whoever does says so, and when it ends."""
        self._waiting: deque[tuple[Contents[Any, Any], bool]] = deque()

    def bury(self, contents: Iterable[Contents[Any, Any]], moved: bool = False) -> None:
        """Have these freed bit by bit, or else leave them to the caller, who lets go of them.

        Where the entries were `moved` elsewhere, somebody may still read from what was there before, so
        that each of these is let go of as a whole.
        """
        if self.attended:
            self._waiting.extend((each, moved) for each in contents)

    def empty(self) -> Iterator[None]:
        """Free what waits, in small steps."""
        while self._waiting:
            contents, moved = self._waiting.popleft()
            data, keys = contents.data, contents.slots.keys
            while data and not moved:
                for _ in range(min(STEP, len(data))):
                    data.popitem()
                yield
            while keys and not moved:
                del keys[-STEP:]
                yield
            del contents, data, keys
            yield
