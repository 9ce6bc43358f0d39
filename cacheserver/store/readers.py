"""How a view reads a key, and writes one over: functions that have all that they need in their own locals.

Free-threaded 3.13 has no specializing interpreter: every attribute and every global costs a look-up there,
a local none, and an object that threads share an atomic reference count. So each view gets functions made for
it, which hold the stripes' prebound look-ups, and they are made anew when the dicts change.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from struct import Struct
from typing import Any, Final

from cacheserver.store.entry import COMMON_CONTENT_TYPES, HEADER, Entry, Record
from cacheserver.store.heat import Sampler
from cacheserver.store.stripe import Stripe

MAX_STRIPES: Final = 4096

# A key's stripe comes from the upper bits of hash((key,)), which depend on all bits of hash(key).
# Those of hash(key) itself are the same for all small integers, and its lower ones serve the dict.
SHIFT: Final = sys.hash_info.width - (MAX_STRIPES - 1).bit_length()

type Read[K, V] = Callable[[K], Entry[V] | None]
type ReadLocked[K, V] = Callable[[K, Sampler], Entry[V] | None]
"""Reads a key under its stripe's lock, and tells the sampler where it had to wait."""


def make_read[K, V](
    read_locked: ReadLocked[K, V],
    stripes: tuple[Stripe[K, V], ...],
    counts: list[int],
    sampler: Sampler,
    marks: list[bytearray],
    monotonic: Callable[[], float],
    marking: bool,
) -> Read[K, V]:
    """Return a function that reads a key without a lock, but with `read_locked` where it has expired.

    It adds hits to `counts[0]` and misses to `counts[1]`, tells `sampler` of those that are due, and where
    `marking`, marks hits in `marks`, by stripe.
    """
    getters = tuple(stripe.entries().__getitem__ for stripe in stripes)
    # What is needed seldom is one argument, since each costs every call.
    seldom = read_locked, _make_mark_first(stripes, marks), sampler
    read_packed = Struct(HEADER).unpack_from
    read_deadline = Struct("<d").unpack_from

    def read(
        key: K,
        getters: tuple[Callable[[K], Entry[V] | bytes], ...] = getters,
        marks: list[bytearray] = marks,
        marking: bool = marking,
        mask: int = len(stripes) - 1,
        shift: int = SHIFT,
        counts: list[int] = counts,
        due: list[int] = sampler.due,
        seldom: tuple[ReadLocked[K, V], Callable[[int, int], None], Sampler] = seldom,
        types: tuple[str, ...] = (*COMMON_CONTENT_TYPES,),
        read_packed: Callable[..., tuple[int, int, int]] = read_packed,
        read_deadline: Callable[..., tuple[float]] = read_deadline,
        now: Callable[[], float] = monotonic,
        hash_of: Callable[[object], int] = hash,
        type_of: Callable[[object], type] = type,
        packed: type = bytes,
        not_there: type[KeyError] = KeyError,
    ) -> Entry[V] | None:
        at = hash_of((key,)) >> shift & mask
        try:
            record = getters[at](key)
        except not_there:
            counts[1] = misses = counts[1] + 1
            if misses >= due[1]:
                seldom[2].read(key, 1)
            return None
        entry: Entry[V] | None
        if type_of(record) is packed:
            slot, code, version = read_packed(record)
            if code < 64:  # MORTAL
                deadline: float = 0
                entry = record[13:], version, 0, types[code], slot  # type: ignore[assignment]
            else:
                (deadline,) = read_deadline(record, 13)
                entry = record[21:], version, deadline, types[code - 64], slot  # type: ignore[assignment]
        else:
            entry = record  # type: ignore[assignment]
            deadline, slot = entry[2], entry[4]  # type: ignore[index]
        if deadline and deadline <= now():
            # Since it was found another may have been written.
            entry = seldom[0](key, seldom[2])
            if entry is None:
                counts[1] = misses = counts[1] + 1
                if misses >= due[1]:
                    seldom[2].read(key, 1)
                return None
        elif marking:
            try:
                mine = marks[at]
                mine[slot] = mine[mine[slot]]
            except IndexError:
                seldom[1](at, slot)
        counts[0] = hits = counts[0] + 1
        if hits >= due[0]:
            seldom[2].read(key, 0)
        return entry

    return read


def _make_mark_first(
    stripes: tuple[Stripe[Any, Any], ...], marks: list[bytearray]
) -> Callable[[int, int], None]:
    slots = tuple(stripe.slots for stripe in stripes)

    def mark_first(at: int, slot: int) -> None:
        """Note a hit for which there is no place yet, if that needs no wait."""
        stripe = stripes[at]
        if not stripe.try_acquire():
            return
        try:
            if stripe.slots is slots[at]:  # or else the dicts were exchanged
                head, old = stripe.policy.head, marks[at]
                mine = slots[at].replace_marks(old, head) if old else slots[at].new_marks(head)
                if slot < len(mine):
                    mine[slot] = mine[mine[slot]]
                marks[at] = mine
        finally:
            stripe.release()

    return mark_first


def make_overwrite[K, V](
    stripes: tuple[Stripe[K, V], ...], sampler: Sampler, marks: list[bytearray], marking: bool
) -> Callable[[K, bytes, str], int]:
    """Return a function that writes a key over with a value as large, as most writes do.

    It returns the new version. It returns 0, and has done nothing, where that is not all there is to it: where
    the key is not there, or what is there has another size or content type, a deadline, or is no packed
    record. It tells `sampler` of a wait.
    """
    getters = tuple(stripe.entries().__getitem__ for stripe in stripes)
    codes = {text: code for code, text in enumerate(COMMON_CONTENT_TYPES)}
    header = Struct(HEADER)
    mark_first = _make_mark_first(stripes, marks)

    def overwrite(
        key: K,
        value: bytes,
        content_type: str,
        getters: tuple[Callable[[K], Record[V]], ...] = getters,
        stripes: tuple[Stripe[K, V], ...] = stripes,
        marks: list[bytearray] = marks,
        mark_first: Callable[[int, int], None] = mark_first,
        marking: bool = marking,
        sampler: Sampler = sampler,
        mask: int = len(stripes) - 1,
        shift: int = SHIFT,
        codes: dict[str, int] = codes,
        read_header: Callable[..., tuple[int, int, int]] = header.unpack_from,
        pack_header: Callable[..., bytes] = header.pack,
        hash_of: Callable[[object], int] = hash,
        size_of: Callable[[object], int] = len,  # type: ignore[assignment]
        type_of: Callable[[object], type] = type,
        packed: type = bytes,
    ) -> int:
        at = hash_of((key,)) >> shift & mask
        try:
            found = getters[at](key)
        except KeyError:
            return 0
        if type_of(found) is not packed or size_of(found) != size_of(value) + 13:  # VALUE_AT
            return 0
        slot, code, _version = read_header(found)
        if content_type not in codes or code != codes[content_type]:  # nor has it a deadline
            return 0
        stripe = stripes[at]
        waited = stripe.take()
        try:
            data = stripe.data
            if data is None or key not in data or data[key] is not found:
                return 0
            stripe.version = version = stripe.version + 1
            data[key] = pack_header(slot, code, version) + value
        finally:
            stripe.release()
            if waited:
                sampler.waited(key, waited)
        if marking:
            mine = marks[at]
            if slot < size_of(mine):
                mine[slot] = mine[mine[slot]]
            else:
                mark_first(at, slot)
        return version

    return overwrite


def make_locked_read[K, V](
    read_locked: ReadLocked[K, V], counts: list[int], sampler: Sampler
) -> Read[K, V]:
    """Return a function that reads a key by `read_locked`, and counts as others do."""

    def read(key: K) -> Entry[V] | None:
        entry = read_locked(key, sampler)
        found = int(entry is None)
        counts[found] += 1
        if counts[found] >= sampler.due[found]:
            sampler.read(key, found)
        return entry

    return read
