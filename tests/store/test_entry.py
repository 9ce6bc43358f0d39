"""What is kept for a key: entries, packed records, and what they cost."""

from __future__ import annotations

import sys
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacheserver.store import record as records
from cacheserver.store.entry import (
    COMMON_CONTENT_TYPES,
    CONTENT_TYPE,
    DEADLINE,
    DEFAULT_CONTENT_TYPE,
    NEVER,
    PACKED_UP_TO,
    SLOT,
    VALUE,
    VERSION,
    Entry,
    Record,
)
from cacheserver.store.eviction.slots import FIRST_SLOT
from cacheserver.store.outcomes import Deleted
from cacheserver.store.record import cost, deadline_of, growth, slot_of, unpack, version_of
from cacheserver.store.striped import StripedDict
from tests.conftest import Maker
from tests.support.outcomes import written

MAX_VERSION = 2**53
LAST_SLOT = 2**32 - 1
RARE = "a/b"

keys = st.text(min_size=1)
sizes = st.sampled_from([0, 1, PACKED_UP_TO - 1, PACKED_UP_TO, PACKED_UP_TO + 1, 5_000])
values = st.binary(max_size=40) | sizes.map(bytes)
versions = st.integers(min_value=1, max_value=MAX_VERSION - 1)
deadlines = st.just(NEVER) | st.floats(min_value=5e-324, max_value=1e12)
content_types = st.sampled_from([*COMMON_CONTENT_TYPES, RARE, "x/long" * 20, ""])
slots = st.sampled_from([FIRST_SLOT, LAST_SLOT]) | st.integers(FIRST_SLOT, LAST_SLOT)
entries: st.SearchStrategy[Entry[bytes]] = st.tuples(
    values, versions, deadlines, content_types, slots
)


def pack(entry: Entry[bytes]) -> Record[bytes]:
    """The record of an entry."""
    return records.pack(*entry)


def test_entry_is_a_plain_tuple_of_five() -> None:
    """The indices name the five items of an entry."""
    entry: Entry[bytes] = (b"v", 7, NEVER, "text/plain", 64)
    assert entry[VALUE] == b"v"
    assert entry[VERSION] == 7
    assert entry[DEADLINE] == NEVER
    assert entry[CONTENT_TYPE] == "text/plain"
    assert entry[SLOT] == 64
    assert not NEVER
    assert type(NEVER) is int


# Packing


@given(entry=entries)
def test_packing_loses_nothing(entry: Entry[bytes]) -> None:
    """What was packed is unpacked to the same, type by type, and its parts can be had alone."""
    record = pack(entry)
    again: Entry[bytes] = unpack(record)
    assert again == entry
    assert list(map(type, again)) == list(map(type, entry))
    assert deadline_of(record) == entry[DEADLINE]
    assert version_of(record) == entry[VERSION]
    assert slot_of(record) == entry[SLOT]


@given(entry=entries)
def test_small_values_of_common_types_are_packed(entry: Entry[bytes]) -> None:
    """A value up to the limit and of a common type is one bytes object; all else is its own entry."""
    record = pack(entry)
    if len(entry[VALUE]) <= PACKED_UP_TO and entry[CONTENT_TYPE] in COMMON_CONTENT_TYPES:
        assert type(record) is bytes
    else:
        assert record == entry
        assert record[VALUE] is entry[VALUE]


@given(entry=entries)
def test_records_are_never_false(entry: Entry[bytes]) -> None:
    """A record is there: one of an empty value isn't taken for none."""
    assert pack(entry)


def test_without_packing_the_record_is_the_entry() -> None:
    """Values of any kind are kept as they are."""
    things = StripedDict[str, object]()
    value = object()
    version = written(things.put("k", value, content_type=RARE)).version
    entry = things.read("k")
    assert entry is not None
    assert entry[VALUE] is value
    assert entry == (value, version, NEVER, RARE, FIRST_SLOT)
    assert unpack(entry) is entry


def test_common_content_types_are_few_enough_for_their_code() -> None:
    """The code of a type, and whether there is a deadline, share a byte."""
    assert len(set(COMMON_CONTENT_TYPES)) == len(COMMON_CONTENT_TYPES) <= 64
    assert COMMON_CONTENT_TYPES[0] == DEFAULT_CONTENT_TYPE


@pytest.mark.parametrize("ttl", [0, 50.25])
@pytest.mark.parametrize("content_type", [*COMMON_CONTENT_TYPES, RARE, ""])
@pytest.mark.parametrize("size", [0, 1, PACKED_UP_TO - 1, PACKED_UP_TO, PACKED_UP_TO + 1])
def test_namespace_gives_back_what_it_was_given(
    make: Maker, ttl: float, content_type: str, size: int
) -> None:
    """Through the dict, as a read, a snapshot and a conflict show it, packed or not."""
    things = make.namespace()
    value = bytes(range(256)) * 5
    value = value[:size]
    outcome = things.put("k", value, ttl=ttl, content_type=content_type)
    deadline = make.clock.monotonic() + ttl if ttl else NEVER
    expected = (value, outcome.version, deadline, content_type)  # type: ignore[union-attr]
    conflict: Any = things.compare_and_set("k", 0, b"")
    for entry in (things.read("k"), things.snapshot()["k"], conflict.current):
        assert entry is not None
        assert entry[:4] == expected
        assert type(entry[VALUE]) is bytes


@pytest.mark.parametrize("first", [0, 10, PACKED_UP_TO, PACKED_UP_TO + 1, 100_000])
@pytest.mark.parametrize("second", [0, 10, PACKED_UP_TO, PACKED_UP_TO + 1, 100_000])
def test_packed_and_unpacked_replace_each_other(make: Maker, first: int, second: int) -> None:
    """A key may go from small to large and back, with deadlines and without; it keeps its slot."""
    things = make.namespace(stripes=1)
    slots = set()
    for turn, (size, ttl) in enumerate(product((first, second, first), (0, 5, 5, 0))):
        value = bytes([turn]) * size
        things.put("k", value, ttl=ttl)
        entry = things.read("k")
        assert entry is not None
        assert entry[VALUE] == value
        assert bool(entry[DEADLINE]) == bool(ttl)
        slots.add(entry[SLOT])
    assert len(slots) == 1
    assert isinstance(things.delete("k"), Deleted)


# Cost


def test_cost_grows_with_key_and_value() -> None:
    """A longer key, a longer value, a rare content type and a deadline cost more."""

    def of(
        key: str = "k", size: int = 10, deadline: float = NEVER, kind: str = "text/plain"
    ) -> int:
        return cost(key, pack((bytes(size), 1, deadline, kind, 64)))

    assert of(key="k" * 100) > of()
    assert of(key="\u00e9" * 100) > of(key="k" * 100)
    assert of(size=PACKED_UP_TO) > of(size=500) > of()
    assert 45_000 <= of(size=100_000) - of(size=50_000) <= 55_000
    assert of(kind=RARE) > of()
    assert of(kind="a/" + "b" * 250) > of(kind=RARE)
    assert of(deadline=7.5, size=2_000) > of(size=2_000)


@given(key=keys, old=st.none() | entries, new=st.none() | entries)
def test_growth_is_the_difference_of_the_costs(
    key: str, old: Entry[bytes] | None, new: Entry[bytes] | None
) -> None:
    """Replacing an entry, making one and removing one grow by what the costs differ."""
    before, after = old and pack(old), new and pack(new)
    expected = (cost(key, after) if after else 0) - (cost(key, before) if before else 0)
    assert growth(key, before, after) == expected


@given(key=keys, entry=entries, version=versions, slot=slots)
def test_cost_depends_on_neither_version_nor_slot(
    key: str, entry: Entry[bytes], version: int, slot: int
) -> None:
    """An entry that moves to another slot, as when stripes are changed, costs what it did."""
    value, _, deadline, content_type, _ = entry
    moved = pack((value, version, deadline, content_type, slot))
    assert cost(key, moved) == cost(key, pack(entry))


@given(key=keys, entry=entries)
def test_equal_keys_cost_the_same(key: str, entry: Entry[bytes]) -> None:
    """What is added for an entry is what is taken away for it, however the key was made."""
    again = "".join(list(key))
    value, *rest = entry
    same = (bytes(bytearray(value)), *rest)
    assert cost(key, pack(entry)) == cost(again, pack(same))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "key",
    [
        pytest.param("k", id="one letter"),
        pytest.param("k" * 1024, id="long"),
        pytest.param("\u00e9" * 100, id="latin"),
        pytest.param("\u4e16" * 100, id="two bytes each"),
        pytest.param("\U0001f600" * 50, id="four bytes each"),
    ],
)
@pytest.mark.parametrize("size", [0, 1, 64, 1_000, 1_024, 1_025, 20_000, 100_000])
@pytest.mark.parametrize("content_type", ["text/plain", RARE, "a/" + "b" * 253])
@pytest.mark.parametrize("deadline", [NEVER, 1234.5])
def test_cost_is_at_least_what_the_objects_take(
    key: str, size: int, content_type: str, deadline: float
) -> None:
    """The figure is no less than the objects that are kept, so that a limit is a limit."""
    record = pack((bytes(size), 1_700_000_000_000_000, deadline, content_type, 1 << 20))
    parts: list[object] = [key, record]
    if not isinstance(record, bytes):
        parts += [record[VALUE], record[VERSION], record[SLOT]]
        parts += [record[DEADLINE]] if deadline else []
        parts += [content_type] if content_type not in COMMON_CONTENT_TYPES else []
    place = 24 + 8  # in a full dict: hash, key and value, and the index
    by_slot = 8 + 4 + 4 + 1  # the list of keys, two links, and the policy's place
    assert cost(key, record) >= sum(map(sys.getsizeof, parts)) + place + by_slot
