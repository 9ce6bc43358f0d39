"""What keys, namespaces and times to live may look like."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacheserver.errors import InvalidKey, InvalidNamespace, InvalidTTL, KeyTooLong
from cacheserver.store.names import (
    MAX_KEY_BYTES,
    MAX_TTL,
    check_key,
    check_namespace,
    check_ttl,
)


@pytest.mark.parametrize(
    "name", ["a", "A", "0", ".", "..", "_", "-", "a.b_c-d", "x" * 64, "UPPER.lower-09_"]
)
def test_namespace_is_accepted(name: str) -> None:
    """1 to 64 of A-Z a-z 0-9 . _ - make a name."""
    check_namespace(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x" * 65,
        "a b",
        "a/b",
        "a\n",
        "\na",
        "\u00e9",
        "a\x00",
        "a%20",
        "a:b",
        "\u0660",
        "a\u0301",
    ],
)
def test_namespace_is_refused(name: str) -> None:
    """Anything else doesn't, a trailing line feed and digits of other scripts included."""
    with pytest.raises(InvalidNamespace):
        check_namespace(name)


@pytest.mark.parametrize(
    "key",
    [
        "k",
        " ",
        "a b",
        "a/b",
        "/",
        "%2F",
        "\x00",
        "\n",
        "\u00e9" * 512,
        "\U0001f600" * 256,
        "k" * 1024,
    ],
)
def test_key_is_accepted(key: str) -> None:
    """Any text of 1 to 1,024 bytes in UTF-8 is a key."""
    check_key(key)


def test_empty_key_is_refused() -> None:
    """A key is not empty."""
    with pytest.raises(InvalidKey):
        check_key("")


@pytest.mark.parametrize("key", ["\ud800", "a\udfff", "\udc80" * 10])
def test_key_that_utf8_cannot_carry_is_refused(key: str) -> None:
    """A lone surrogate is no text that could come back."""
    with pytest.raises(InvalidKey):
        check_key(key)


@pytest.mark.parametrize(
    "key", ["k" * 1025, "\u00e9" * 513, "\U0001f600" * 257, "k" * 1023 + "\u00e9"]
)
def test_key_too_long_is_refused(key: str) -> None:
    """What counts is bytes, not characters."""
    with pytest.raises(KeyTooLong, match=str(len(key.encode()))):
        check_key(key)


@given(st.text(max_size=600))
def test_key_is_accepted_if_it_survives_utf8(key: str) -> None:
    """A key is good exactly when it is 1 to 1,024 bytes long and comes back from UTF-8."""
    good = 1 <= len(key.encode()) <= MAX_KEY_BYTES
    try:
        check_key(key)
    except (InvalidKey, KeyTooLong):
        assert not good
    else:
        assert good


@pytest.mark.parametrize("ttl", [0, 0.0, -0.0, 1, 0.001, 5e-324, MAX_TTL, True])
def test_ttl_is_accepted(ttl: float) -> None:
    """From nothing, which means for ever, to ten years."""
    check_ttl(ttl)


@pytest.mark.parametrize(
    "ttl",
    [-1, -5e-324, MAX_TTL + 1, math.nextafter(MAX_TTL, math.inf), math.nan, math.inf, -math.inf],
)
def test_ttl_is_refused(ttl: float) -> None:
    """Negative, endless, beyond ten years, or no number."""
    with pytest.raises(InvalidTTL):
        check_ttl(ttl)


@pytest.mark.parametrize("ttl", [10**400, -(10**400)], ids=["long", "longer ago"])
def test_ttl_too_long_for_a_float_is_refused(ttl: int) -> None:
    """A whole number of hundreds of digits, as JSON can carry, is refused as any other."""
    with pytest.raises(InvalidTTL):
        check_ttl(ttl)
