"""JSON bodies of requests: from bytes to checked values, and why they are refused."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection
from typing import Any, Final, NamedTuple

from cacheserver.http import codec
from cacheserver.http.errors import MalformedBody, MalformedHeader
from cacheserver.http.target import MAX_VERSION
from cacheserver.store.entry import COMMON_CONTENT_TYPES, DEFAULT_CONTENT_TYPE

JSON_CONTENT_TYPE: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"
MAX_CONTENT_TYPE_BYTES: Final = 255

_COMMON: Final = {text.encode(): text for text in COMMON_CONTENT_TYPES}
_FIELDS: Final = ("expected_version", "value", "value_base64", "content_type", "ttl")


class CompareAndSet(NamedTuple):
    """What POST /v1/cas asks for."""

    expected_version: int
    """0: the key must not be there."""
    value: bytes
    content_type: str
    ttl: float | None


def parse_compare_and_set(body: bytes) -> CompareAndSet:
    """Read the body of POST /v1/cas. Raises MalformedBody for whatever is not as it should be."""
    fields = parse_object(body, _FIELDS)
    expected_version = _expected_version(fields)
    value, content_type = _value(fields)
    return CompareAndSet(expected_version, value, content_type, _ttl(fields))


def parse_object(body: bytes, known: Collection[str]) -> dict[str, Any]:
    """Read a JSON object. Raises MalformedBody for what is none, and for a field that isn't known."""
    fields = codec.loads(body)
    if not isinstance(fields, dict):
        raise MalformedBody(f"the body must be a JSON object with {', '.join(known)}")
    unknown = [name for name in fields if name not in known]
    if unknown:
        raise MalformedBody(f"unknown field {unknown[0][:64]!r}: known are {', '.join(known)}")
    return fields


def parse_content_type(raw: bytes | None) -> str:
    """Return the content type to keep for a header's value, the default one where there is none."""
    if not raw:
        return DEFAULT_CONTENT_TYPE
    if raw in _COMMON:
        return _COMMON[raw]
    text = raw.decode("latin-1")
    if _is_content_type(text):
        return text
    raise MalformedHeader(_BAD_CONTENT_TYPE.format("Content-Type"))


def is_json(content_type: str) -> bool:
    """Tell whether a content type is JSON's, or that of a format which is JSON: `*+json`."""
    essence = content_type.partition(";")[0].strip().lower()
    return essence == JSON_CONTENT_TYPE or essence.endswith("+json")


def is_of(content_type: bytes | None, media_types: Collection[str]) -> bool:
    """Tell whether a request's content type is one of these, in UTF-8 if a charset is named."""
    essence, *parameters = (content_type or b"").decode("latin-1").lower().split(";")
    return essence.strip() in media_types and all(
        parameter.strip().replace('"', "") in ("", "charset=utf-8", "charset=utf8")
        for parameter in parameters
    )


_BAD_CONTENT_TYPE: Final = (
    f"{{}} must be 1 to {MAX_CONTENT_TYPE_BYTES} characters of printable ASCII"
)


def _is_content_type(text: str) -> bool:
    return len(text) <= MAX_CONTENT_TYPE_BYTES and text.isascii() and text.isprintable()


def _expected_version(fields: dict[str, Any]) -> int:
    if "expected_version" not in fields:
        raise MalformedBody(
            "expected_version is missing: null or 0 means that the key is not there"
        )
    expected = fields["expected_version"]
    if expected is None:
        return 0
    if type(expected) is not int or not 0 <= expected <= MAX_VERSION:
        raise MalformedBody(f"expected_version must be null or an integer from 0 to {MAX_VERSION}")
    return expected


def _value(fields: dict[str, Any]) -> tuple[bytes, str]:
    if ("value" in fields) == ("value_base64" in fields):
        raise MalformedBody("give either value (any JSON) or value_base64 (bytes in base64)")
    if "value" in fields:
        if "content_type" in fields:
            raise MalformedBody(
                f"content_type goes with value_base64; a value in JSON is {JSON_CONTENT_TYPE}"
            )
        return codec.dumps(fields["value"]), JSON_CONTENT_TYPE
    return _from_base64(fields["value_base64"]), _content_type(fields)


def _from_base64(text: object) -> bytes:
    if isinstance(text, str):
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            pass
    raise MalformedBody("value_base64 must be a string of base64 with its padding (RFC 4648)")


def _content_type(fields: dict[str, Any]) -> str:
    content_type = fields.get("content_type", DEFAULT_CONTENT_TYPE)
    if isinstance(content_type, str) and content_type and _is_content_type(content_type):
        return content_type
    raise MalformedBody(_BAD_CONTENT_TYPE.format("content_type"))


def _ttl(fields: dict[str, Any]) -> float | None:
    ttl = fields.get("ttl")
    if ttl is None:
        return None
    if type(ttl) is int or type(ttl) is float:
        try:
            return float(ttl)
        except OverflowError:
            pass
    raise MalformedBody("ttl must be a number of seconds, 0 for a value that never expires")
