"""What keys, namespaces and times to live may look like."""

from __future__ import annotations

import re
from typing import Final

from cacheserver.errors import InvalidKey, InvalidNamespace, InvalidTTL, KeyTooLong

MAX_KEY_BYTES: Final = 1024
MAX_TTL: Final = 10 * 366 * 86400
"""Ten years, in seconds."""

_NAMESPACE: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


def check_namespace(name: str) -> None:
    """Raise InvalidNamespace unless `name` is 1 to 64 of A-Z a-z 0-9 . _ and -."""
    if not _NAMESPACE.fullmatch(name):
        raise InvalidNamespace("a namespace is 1 to 64 of the characters A-Z a-z 0-9 . _ -")


def check_key(key: str) -> None:
    """Raise InvalidKey or KeyTooLong unless `key` is text of 1 to 1,024 bytes in UTF-8."""
    if not key:
        raise InvalidKey("a key is not empty: it has 1 to 1,024 bytes")
    try:
        size = len(key) if key.isascii() else len(key.encode())
    except UnicodeEncodeError:
        raise InvalidKey(
            "a key is text that UTF-8 can carry; this one has a lone surrogate"
        ) from None
    if size > MAX_KEY_BYTES:
        raise KeyTooLong(f"a key has at most {MAX_KEY_BYTES} bytes in UTF-8; this one has {size}")


def check_ttl(ttl: float) -> None:
    """Raise InvalidTTL unless `ttl` is a number of seconds from 0 to ten years."""
    if not 0 <= ttl <= MAX_TTL:  # which no NaN is
        raise InvalidTTL(f"a ttl is a number of seconds from 0 to {MAX_TTL}, 0 meaning for ever")
