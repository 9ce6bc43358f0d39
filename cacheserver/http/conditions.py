"""Conditional requests (RFC 9110, section 13): from header values to a `Condition` of the store.

A version is the opaque part of a strong entity tag. A tag that is well-formed but no version of
ours is no error: it matches nothing. Comparison is strong for `If-Match`, weak for `If-None-Match`.
Where a header stands on several lines, hand in the lines joined with commas.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from cacheserver.http.errors import MalformedCondition
from cacheserver.store.outcomes import Condition

# An element of a list: a tag, or nothing at all. Nothing in it may be tried twice (the + after the
# quantifiers), or blanks without end would take time without end.
_ELEMENT: Final = re.compile(
    rb'[ \t]*+(?:(?P<weak>W/)?"(?P<opaque>[\x21\x23-\x7e\x80-\xff]*+)")?+[ \t]*+(?:,|\Z)'
)
_VERSION: Final = re.compile(rb"[1-9][0-9]{0,15}")


class _Tags(NamedTuple):
    strong: frozenset[int]
    weak: frozenset[int]


def if_match(value: bytes | None) -> Condition | None:
    """Return what `If-Match` asks for, None without the header. `*`: the key exists."""
    if value is None:
        return None
    if _is_star(value):
        return Condition(must_exist=True)
    return Condition(match=_parse("If-Match", value).strong)


def if_none_match(value: bytes | None) -> Condition | None:
    """Return what `If-None-Match` asks for, None without the header. `*`: the key is not there."""
    if value is None:
        return None
    if _is_star(value):
        return Condition(must_be_absent=True)
    tags = _parse("If-None-Match", value)
    return Condition(none_match=tags.strong | tags.weak)


def all_of(*conditions: Condition | None) -> Condition | None:
    """Return one condition that holds where all those given hold, None where none is given."""
    combined = None
    for condition in conditions:
        if condition is not None:
            combined = condition if combined is None else combined & condition
    return combined


def etag(version: int) -> bytes:
    """Return the entity tag of a version."""
    return b'"%d"' % version


def _is_star(value: bytes) -> bool:
    return value.strip(b" \t") == b"*"


def _parse(header: str, value: bytes) -> _Tags:
    elements = [element for element in _elements(header, value) if element["opaque"] is not None]
    if not elements:
        raise _malformed(header, value)
    versions = [element for element in elements if _VERSION.fullmatch(element["opaque"])]
    return _Tags(
        strong=frozenset(int(element["opaque"]) for element in versions if not element["weak"]),
        weak=frozenset(int(element["opaque"]) for element in versions if element["weak"]),
    )


def _elements(header: str, value: bytes) -> Iterator[re.Match[bytes]]:
    at = 0
    while at < len(value):
        element = _ELEMENT.match(value, at)
        if element is None:
            raise _malformed(header, value)
        yield element
        at = element.end()


def _malformed(header: str, value: bytes) -> MalformedCondition:
    given = value[:64].decode("latin-1")
    return MalformedCondition(
        f"{header}: {given!r} is neither * nor a list of entity tags: "
        f'a version stands in double quotes, as in {header}: "17"'
    )
