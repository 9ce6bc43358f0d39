"""What an entry costs."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacheserver.store.entry import (
    CONTENT_TYPE,
    DEADLINE,
    NEVER,
    OVERHEAD,
    TEXT_OVERHEAD,
    VALUE,
    VERSION,
    Entry,
    cost,
    growth,
)


def test_entry_is_a_plain_tuple_of_four() -> None:
    """The indices name the four items of an entry."""
    entry: Entry[bytes] = (b"v", 7, NEVER, "text/plain")
    assert entry[VALUE] == b"v"
    assert entry[VERSION] == 7
    assert entry[DEADLINE] == NEVER
    assert entry[CONTENT_TYPE] == "text/plain"
    assert not NEVER
    assert type(NEVER) is int


def test_cost_grows_with_key_and_value() -> None:
    """An entry costs its value, its key, a rare content type and a fixed share for the rest."""
    assert cost("k", (b"", 1, NEVER, "text/plain")) == OVERHEAD + 1
    assert cost("key", (b"12345", 1, NEVER, "text/plain")) == OVERHEAD + 8
    assert cost("\u00e9", (b"", 1, NEVER, "text/plain")) == OVERHEAD + 4
    assert cost("k", (b"", 1, NEVER, "a/b")) == OVERHEAD + 1 + TEXT_OVERHEAD + 3


entries = st.tuples(
    st.binary(), st.just(1), st.just(NEVER), st.sampled_from(("text/plain", "a/b", "x/long"))
)


@given(key=st.text(min_size=1), old=st.none() | entries, new=st.none() | entries)
def test_growth_is_the_difference_of_the_costs(
    key: str, old: Entry[bytes] | None, new: Entry[bytes] | None
) -> None:
    """Replacing an entry, making one and removing one grow by what the costs differ."""
    assert growth(key, old, new) == (cost(key, new) if new else 0) - (cost(key, old) if old else 0)


@given(key=st.text(min_size=1), value=st.binary())
def test_equal_keys_cost_the_same(key: str, value: bytes) -> None:
    """What is added for an entry is what is taken away for it, however the key was made."""
    again = "".join(list(key))
    entry, same = (value, 1, NEVER, "a/b"), (bytes(bytearray(value)), 1, NEVER, "a/b")
    assert cost(key, entry) == cost(again, same)


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
@pytest.mark.parametrize("size", [0, 1, 1_000, 100_000])
@pytest.mark.parametrize("content_type", ["a/b", "a/" + "b" * 253])
def test_cost_is_at_least_what_the_objects_take(key: str, size: int, content_type: str) -> None:
    """The figure is no less than the objects that are kept, so that a limit is a limit."""
    value = bytes(size)
    deadline, version = 1234.5, 1_700_000_000_000_000
    entry = (value, version, deadline, content_type)
    parts = [key, *entry, entry]
    slot = 24 + 8  # in a full dict: hash, key and value, and the index
    assert cost(key, entry) >= sum(map(sys.getsizeof, parts)) + slot
