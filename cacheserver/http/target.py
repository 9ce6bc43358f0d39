"""The request target: from raw bytes to namespace, key and query, without any framework.

A target is split before it is decoded, and decoded once. So `%2F` in a key is a slash of the key,
`+` is a plus, and `.`, `..` and `//` are kept: nothing is normalised.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple
from urllib.parse import quote, unquote, unquote_to_bytes

from cacheserver.http.errors import MalformedQuery, MalformedTarget

MAX_VERSION: Final = 2**53 - 1
_BROKEN_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_INTEGER: Final = re.compile(r"[0-9]{1,16}", re.ASCII)
_SIGNED: Final = re.compile(r"-?[0-9]{1,19}", re.ASCII)
_DECIMAL: Final = re.compile(r"[0-9]{1,16}(?:\.[0-9]{1,16})?", re.ASCII)


class Parameters(NamedTuple):
    """What the query of a request for a key asks for."""

    ttl: float | None = None
    """Seconds; None: the namespace's default."""
    cas: int | None = None
    """The version that is expected, 0: no key; None: any."""
    by: int = 1
    initial: int = 0
    timing: bool = False
    """Whether the answer is to tell where its time went."""


def decode(raw: bytes) -> str:
    """Return percent-encoded bytes as text. Raises MalformedTarget where that is impossible."""
    if not raw.isascii():
        raise MalformedTarget("the request target has bytes beyond ASCII: percent-encode them")
    if b"%" in raw:
        broken = _BROKEN_ESCAPE.search(raw)
        if broken:
            escape = raw[broken.start() : broken.start() + 3].decode("latin-1")
            raise MalformedTarget(
                f"{escape!r} is no percent-encoding: two hex digits follow a %, "
                "and a % of the key itself is written %25"
            )
        raw = unquote_to_bytes(raw)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedTarget(
            f"the request target is not UTF-8 once decoded: byte 0x{raw[error.start]:02x} "
            f"at position {error.start} of {raw[:32]!r}"
        ) from None


def relative_path(raw_path: bytes, root_path: str) -> bytes:
    """Return the part of `raw_path` below `root_path`, where the app is mounted.

    `root_path` is decoded and `raw_path` is not, so it is compared segment by segment. A path that
    does not lie below `root_path` is returned whole, as servers that strip it themselves give it.
    """
    if not root_path:
        return raw_path
    end = raw_path.find(b"/")
    while end != -1:
        if end >= len(root_path) and unquote(raw_path[:end]) == root_path:
            return raw_path[end:]
        end = raw_path.find(b"/", end + 1)
    return raw_path


def encode_path(path: str) -> bytes:
    """Return a raw path for a decoded one, for servers that give no raw path."""
    return quote(path).encode("ascii")


def parse_query(raw: bytes, known: tuple[str, ...], untold: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the query's parameters, each at most once and each one of `known`.

    Raises MalformedQuery otherwise, and says which are known: a mistyped `ttl` must not store
    something for ever. Those in `untold` are known too, and not named.
    """
    parameters: dict[str, str] = {}
    for pair in raw.split(b"&"):
        if not pair:
            continue
        raw_name, _, raw_value = pair.partition(b"=")
        name = decode(raw_name)
        if name not in known and name not in untold:
            raise MalformedQuery(f"unknown query parameter {name!r}: {_known(known)}")
        if name in parameters:
            raise MalformedQuery(f"query parameter {name!r} is given twice: give it once")
        parameters[name] = decode(raw_value)
    return parameters


def parse_parameters(
    raw: bytes, known: tuple[str, ...], untold: tuple[str, ...] = ()
) -> Parameters:
    """Return what the query of a request asks for. Raises as `parse_query` does."""
    given = parse_query(raw, known, untold)
    values = {name: _PARSERS[name](text) for name, text in given.items()}
    return Parameters(**values)


def parse_cas(text: str) -> int:
    """Return the version that `?cas=` expects, 0 for a key that must not be there."""
    if _INTEGER.fullmatch(text) and int(text) <= MAX_VERSION:
        return int(text)
    raise MalformedQuery(
        f"cas={text[:64]!r} is no version: write the ETag's number without its quotes, "
        f"0 (create only) to {MAX_VERSION}"
    )


def parse_ttl(text: str) -> float:
    """Return the seconds that `?ttl=` gives, 0 for never."""
    if _DECIMAL.fullmatch(text):
        return float(text)
    raise MalformedQuery(
        f"ttl={text[:64]!r} is no number of seconds: write decimal digits like 60 or 0.5, "
        "and 0 for a value that never expires"
    )


def asks_for_timing(raw: bytes) -> bool:
    """Tell whether a query has `timing=1`, whatever else stands in it."""
    pairs = (pair.partition(b"=") for pair in raw.split(b"&"))
    return any(
        unquote_to_bytes(name) == b"timing" and unquote_to_bytes(value) == b"1"
        for name, _, value in pairs
    )


def _parse_timing(text: str) -> bool:
    if text in ("0", "1"):
        return text == "1"
    raise MalformedQuery(
        f"timing={text[:64]!r} is neither 0 nor 1: with 1 the answer tells in Server-Timing where "
        "its time went"
    )


def _parse_by(text: str) -> int:
    return _signed("by", text)


def _parse_initial(text: str) -> int:
    return _signed("initial", text)


def _signed(name: str, text: str) -> int:
    if _SIGNED.fullmatch(text) and -(2**63) <= int(text) < 2**63:
        return int(text)
    raise MalformedQuery(
        f"{name}={text[:64]!r} is no integer that fits in 64 bits: write digits, with a - before "
        "them if it is negative"
    )


_PARSERS: Final[dict[str, Callable[[str], Any]]] = {
    "cas": parse_cas,
    "ttl": parse_ttl,
    "by": _parse_by,
    "initial": _parse_initial,
    "timing": _parse_timing,
}


def _known(names: tuple[str, ...]) -> str:
    return f"known here: {', '.join(names)}" if names else "this request takes none"
