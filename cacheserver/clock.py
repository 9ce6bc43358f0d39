"""Time as a parameter: what reads a clock takes one, so that a test can hand in its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """Two ways of telling the time, in seconds.

    `monotonic` never goes back and decides what has expired; `wall` is the time since 1970 and
    starts the versions, so that they rise across restarts.
    """

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
