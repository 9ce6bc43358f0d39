"""Short ways to say which outcome a test expects."""

from __future__ import annotations

from typing import Any

from cacheserver.store.outcomes import Conflict, Written


def written(outcome: Written | Conflict[Any]) -> Written:
    """The outcome, which must be that of a write that happened."""
    assert isinstance(outcome, Written), outcome
    return outcome
