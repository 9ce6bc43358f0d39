"""What is kept for a key, and what it costs in memory.

Whoever reads a key gets an `Entry`, an immutable tuple of plain values: who has it has all of it,
whatever is written meanwhile. What a dict keeps is a record. That is the entry itself, or, for a small
value of bytes, the same packed into one bytes object. For each object has a header of its own, so that a
packed record takes a third less memory; and the garbage collector, which stops the world, looks at tuples
but not at bytes (docs/free-threading.md). A large value isn't packed, since a read would copy it.
"""

from __future__ import annotations

import enum
import sys
import sysconfig
from array import array
from collections.abc import Callable
from struct import Struct
from typing import Any, Final

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

# Packed: slot, code, version, then the deadline where there is one, then the value.
HEADER: Final = "<IBQ"
DEADLINE_FORMAT: Final = "<d"
VALUE_AT: Final = 13
MORTAL: Final = 64
"""Added to the index of the content type, where a deadline follows the header."""
MORTAL_VALUE_AT: Final = 21
PACKED_UP_TO: Final = 1024
"""Bytes of the largest value that is packed."""

type Pack = Callable[[bytes, int, float, str, int], Record[bytes]]
"""From the fields of an entry to a record."""


def make_pack() -> Pack:
    """Return a function that packs what can be packed, for one thread: no other uses its objects."""
    codes = {text: code for code, text in enumerate(COMMON_CONTENT_TYPES)}
    pack_header, pack_mortal = Struct(HEADER).pack, Struct(HEADER + "d").pack

    def pack(
        value: bytes,
        version: int,
        deadline: float,
        content_type: str,
        slot: int,
        codes: dict[str, int] = codes,
        pack_header: Callable[..., bytes] = pack_header,
        pack_mortal: Callable[..., bytes] = pack_mortal,
        size_of: Callable[[bytes], int] = len,
    ) -> Record[bytes]:
        if size_of(value) > 1024 or content_type not in codes:  # PACKED_UP_TO
            return value, version, deadline, content_type, slot
        if deadline:
            return pack_mortal(slot, codes[content_type] + 64, version, deadline) + value  # MORTAL
        return pack_header(slot, codes[content_type], version) + value

    return pack


assert (PACKED_UP_TO, MORTAL) == (1024, 64)  # as they stand in hot functions


def no_pack(value: Any, version: int, deadline: float, content_type: str, slot: int) -> Entry[Any]:
    """Return the entry itself, for values of any kind."""
    return value, version, deadline, content_type, slot


_header: Final = Struct(HEADER)
_deadline: Final = Struct(DEADLINE_FORMAT)


def unpack[V](record: Record[V]) -> Entry[V]:
    """Return the entry that a record stands for."""
    if type(record) is not bytes:
        return record  # type: ignore[return-value]
    slot, code, version = _header.unpack_from(record)
    if code < MORTAL:
        return record[VALUE_AT:], version, NEVER, COMMON_CONTENT_TYPES[code], slot  # type: ignore[return-value]
    (deadline,) = _deadline.unpack_from(record, VALUE_AT)
    value = record[MORTAL_VALUE_AT:]
    return value, version, deadline, COMMON_CONTENT_TYPES[code - MORTAL], slot  # type: ignore[return-value]


def deadline_of(record: Record[Any]) -> float:
    """Return when the record's time is up, NEVER where it stays."""
    if not isinstance(record, bytes):
        return record[DEADLINE]
    if record[4] < MORTAL:
        return NEVER
    deadline: float = _deadline.unpack_from(record, VALUE_AT)[0]
    return deadline


def slot_of(record: Record[Any]) -> int:
    """Return the slot of a record."""
    if not isinstance(record, bytes):
        return record[SLOT]
    return int.from_bytes(record[:4], "little")


def version_of(record: Record[Any]) -> int:
    """Return the version of a record."""
    if not isinstance(record, bytes):
        return record[VERSION]
    return int.from_bytes(record[5:13], "little")


# What things take in memory. The headers of objects and the rounding of the allocator depend on the
# interpreter: with free threads it is mimalloc, else pymalloc. docs/performance.md holds the sum against
# the growth of resident memory.

_STEP: Final = 16
_TABLED: Final = 16 << 10
_PAGE: Final = 4096
_FREE_THREADED: Final = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def _allocated(size: int) -> int:
    """Return what the allocator takes for an object of so many bytes."""
    if size > _TABLED:  # mimalloc, and malloc for what is very large, begin a page for it
        page = _PAGE if _FREE_THREADED or size >= 8 * _TABLED else 16
        return (size + page - 1) // page * page
    if not _FREE_THREADED:
        return (size + 15) // 16 * 16 + (0 if size <= 512 else 16)
    words = (size + 7) // 8
    if words <= 8:
        return (words + 1) // 2 * 16
    # Four sizes for every power of two.
    shift = (words - 1).bit_length() - 3
    return (((words - 1) >> shift) + 1 << shift) * 8


_ALLOCATED: Final = array("I", map(_allocated, range(_STEP, _TABLED + 1, _STEP)))
"""What is taken for sizes from 16 bytes on, in steps of 16."""
_GC_HEADER: Final = 0 if _FREE_THREADED else 16
_BYTES: Final = sys.getsizeof(b"") + _STEP - 1
_TEXT: Final = sys.getsizeof("") + _STEP - 1
_TUPLE: Final = (
    _allocated(sys.getsizeof((0, 0, 0, 0, 0)) + _GC_HEADER)
    + _allocated(sys.getsizeof(1 << 50))  # the version
    + _allocated(sys.getsizeof(1 << 20))  # the slot
)
_FLOAT: Final = _allocated(sys.getsizeof(0.5))
SHARE: Final = 60
"""Bytes that an entry takes in its stripe's dict, and in the lists of its slot: between 40 and 70, since
a table that doubles as it grows has between 1.5 and 3 places for an entry. A deadline takes some 15 more, and
the sketch of `lfu` 25, which aren't counted."""


def _sized(size: int) -> int:
    """Return what is taken for so many bytes, a step less one added to them."""
    at = size // _STEP - 1
    return _ALLOCATED[at] if at < len(_ALLOCATED) else _allocated(size)


def cost(key: str, record: Record[bytes]) -> int:
    """Return the bytes of memory that this record takes under this key.

    The same for equal keys, however they were made: what is added for an entry is what is taken
    away for it later.
    """
    size = SHARE + _sized(_TEXT + (len(key) if key.isascii() else 4 * len(key)))
    if isinstance(record, bytes):
        return size + _sized(_BYTES + len(record))
    value, _version, deadline, content_type, _slot = record
    size += _TUPLE + _sized(_BYTES + len(value)) + (_FLOAT if deadline else 0)
    if content_type not in COMMON_CONTENT_TYPES:
        size += _sized(_TEXT + len(content_type))
    return size


def growth(
    key: str,
    old: Record[bytes] | None,
    new: Record[bytes] | None,
    size_of: Callable[
        [Record[bytes]], int
    ] = len,  # as a local, which is found sooner than a builtin
) -> int:
    """Return the bytes of memory that it takes more to have `new` in the place of `old`."""
    if old is None:
        return cost(key, new) if new else 0
    if new is None:
        return -cost(key, old)
    if type(old) is bytes and type(new) is bytes and size_of(old) == size_of(new):
        return 0
    return cost(key, new) - cost(key, old)
