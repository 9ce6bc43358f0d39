"""What is kept for a key.

Whoever reads a key gets an `Entry`, an immutable tuple of plain values: who has it has all of it,
whatever is written meanwhile. What a dict keeps is a record. That is the entry itself, or, for a small
value of bytes, the same packed into one bytes object. For each object has a header of its own, so that a
packed record takes a third less memory; and the garbage collector, which stops the world, looks at tuples
but not at bytes (docs/free-threading.md). A large value isn't packed, since a read would copy it.

How a record is laid out, and what it costs in memory, is told in `record.pyx`.
"""

from __future__ import annotations

import enum
from typing import Final

type Entry[V] = tuple[V, int, float, str, int]
"""(value, version, deadline, content type, slot); the last is where the eviction policy has it."""
type Record[V] = bytes | Entry[V]

VALUE: Final = 0
VERSION: Final = 1
DEADLINE: Final = 2
"""Index of the monotonic second from which the entry is gone; NEVER where it stays."""
CONTENT_TYPE: Final = 3
SLOT: Final = 4

NEVER: Final = 0
"""The deadline of an entry that stays: an int, because one float shared by all entries would cost
every read an atomic reference count, and small ints are free of that."""


class Keep(enum.Enum):
    """What may be given in the place of a time to live."""

    KEEP = enum.auto()


KEEP: Final = Keep.KEEP
"""Leave the entry the deadline that it has."""

DEFAULT_CONTENT_TYPE: Final = "application/octet-stream"
COMMON_CONTENT_TYPES: Final = (
    DEFAULT_CONTENT_TYPE,
    "application/json",
    "application/x-www-form-urlencoded",
    "text/html",
    "text/html; charset=utf-8",
    "text/plain",
    "text/plain; charset=utf-8",
)
"""Types that most entries have: a record has their index here instead of the text."""

PACKED_UP_TO: Final = 1024
"""Bytes of the largest value that is packed."""
