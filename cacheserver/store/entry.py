"""What is kept for a key: an immutable tuple of plain values, and what it costs in memory.

A plain tuple, and not an object with slots or a NamedTuple: collections of the cyclic garbage
collector stop the world, and a million tracked objects make that stop long (docs/free-threading.md).
A reader that has the tuple has all of it, whatever is written meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

type Entry[V] = tuple[V, int, float, str]
"""(value, version, deadline, content type)."""

VALUE: Final = 0
VERSION: Final = 1
DEADLINE: Final = 2
"""Index of the monotonic second from which the entry is gone; NEVER where it stays."""
CONTENT_TYPE: Final = 3

NEVER: Final = 0
"""The deadline of an entry that stays: an int, because one float shared by all entries would cost
every read an atomic reference count, and small ints are free of that."""

DEFAULT_CONTENT_TYPE: Final = "application/octet-stream"
COMMON_CONTENT_TYPES: Final = frozenset(
    (
        DEFAULT_CONTENT_TYPE,
        "application/json",
        "application/x-www-form-urlencoded",
        "text/html",
        "text/html; charset=utf-8",
        "text/plain",
        "text/plain; charset=utf-8",
    )
)
"""Types that most entries have: these share one text each, and it costs them nothing."""

OVERHEAD: Final = 352
"""Bytes that an entry takes beside the text of its key and its value: the headers of both, the tuple,
the version, the deadline, and its share of the dict."""
TEXT_OVERHEAD: Final = 80
"""Bytes that a text takes beside its characters."""


def cost(key: str, entry: Entry[bytes]) -> int:
    """Bytes of memory that this entry takes under this key, in round figures.

    The same for equal keys, however they were made: what is added for an entry is what is taken
    away for it later.
    """
    value, _version, _deadline, content_type = entry
    size = OVERHEAD + len(value) + (len(key) if key.isascii() else 4 * len(key))
    # Most entries have the default, and the set is an object that all threads share.
    if content_type is not DEFAULT_CONTENT_TYPE and content_type not in COMMON_CONTENT_TYPES:
        size += TEXT_OVERHEAD + len(content_type)
    return size


def growth(
    key: str,
    old: Entry[bytes] | None,
    new: Entry[bytes] | None,
    size_of: Callable[[bytes], int] = len,  # as a local, which is found sooner than a builtin
) -> int:
    """Bytes of memory that it takes to have `new` in the place of `old`, None being nothing."""
    if old is None:
        return cost(key, new) if new else 0
    if new is None:
        return -cost(key, old)
    if old[3] is new[3]:  # the content type
        return size_of(new[0]) - size_of(old[0])
    return cost(key, new) - cost(key, old)
