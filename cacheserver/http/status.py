"""What the server tells the app about itself."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

type State = Literal["starting", "serving", "draining"]


@dataclass(slots=True)
class ServiceStatus:
    """How the app is served, for `/readyz` and `/v1/info`.

    Shared by all threads: the one that changes `state` replaces it whole, and who reads it gets the
    old or the new one. The rest is set before the first request.
    """

    threads: int = 1
    """Event loops that serve the app."""
    fast_path: bool = False
    started_at: float = field(default_factory=time.time)
    """Seconds since 1970."""
    state: State = "serving"

    @property
    def uptime(self) -> float:
        """Seconds since the start."""
        return max(0.0, time.time() - self.started_at)

    def tell(self) -> Mapping[str, object]:
        """Return what the live page shows of it."""
        return {
            "threads": self.threads,
            "state": self.state,
            "uptime_seconds": round(self.uptime, 3),
        }
