"""The policies by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from cacheserver.store.eviction.base import Policy
from cacheserver.store.eviction.lfu import Lfu
from cacheserver.store.eviction.lru import Lru
from cacheserver.store.eviction.s3fifo import S3Fifo
from cacheserver.store.eviction.sieve import Sieve
from cacheserver.store.eviction.simple import Deadlines, Fifo, NoEviction, RandomChoice, Ttl
from cacheserver.store.eviction.slots import Slots

__all__ = ["POLICIES", "Policy", "check_policy", "make_policy"]

_PLAIN: Final[dict[str, Callable[[Slots[Any]], Policy]]] = {
    "sieve": Sieve,
    "s3fifo": S3Fifo,
    "lru": Lru,
    "lfu": Lfu,
    "fifo": Fifo,
    "none": NoEviction,
}

POLICIES: Final = ("sieve", "s3fifo", "lru", "lfu", "fifo", "ttl", "random", "none")


def check_policy(name: str) -> None:
    """Raise ValueError unless there is a policy of this name."""
    if name not in POLICIES:
        raise ValueError(f"there is no policy {name!r}: choose one of {', '.join(POLICIES)}")


def make_policy(
    name: str,
    slots: Slots[Any],
    deadlines: Deadlines,
    draw: Callable[[], float] | None = None,
) -> Policy:
    """Return a policy of this name for a stripe. Only `ttl` asks `deadlines`, and `random` `draw`."""
    check_policy(name)
    if name == "ttl":
        return Ttl(slots, deadlines)
    if name == "random":
        return RandomChoice(slots, draw)
    return _PLAIN[name](slots)
