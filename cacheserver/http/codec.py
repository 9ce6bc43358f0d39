"""JSON, and the only module that knows which library speaks it.

Guarantees, the same with every library:
- Text is UTF-8 as RFC 8259 has it: no NaN, no Infinity, no number that would become infinite, no lone
  surrogate, no byte order mark, at most MAX_DEPTH levels deep. Else `loads` raises MalformedJSON.
- Integers beyond 64 bits and the order of keys survive; of a key that is given twice the last one counts.
- `dumps` writes no blanks and no ASCII escapes. A float may be spelled 1e16 or 1e+16.

The standard library is the reference. A faster one is asked first; what it refuses, the standard
library decides, so that errors read the same everywhere.

orjson turns the GIL on where it is off, and msgspec before free-threaded 3.14 may: they are not even
imported there.
"""

from __future__ import annotations

import importlib
import json
import math
import re
import sys
import sysconfig
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from cacheserver.http.errors import MalformedJSON

MAX_DEPTH: Final = 500
"""Levels of arrays and objects inside each other that are read."""

_SURROGATE_ESCAPE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_LONG_INTEGER: Final = re.compile(rb"[0-9]{19}")
"""Digits that may not fit in 64 bits, and that orjson would turn into a float."""


class Codec(NamedTuple):
    """One way of reading and writing JSON."""

    name: str
    loads: Callable[[bytes], Any]
    dumps: Callable[[object], bytes]


def standard() -> Codec:
    """Return the codec of the standard library."""
    return Codec("json", _refuse_too_deep(_loads), _dumps)


def with_msgspec() -> Codec:
    """Return the codec that asks msgspec first. Raises ImportError where there is none."""
    msgspec = importlib.import_module("msgspec")
    return _faster("msgspec", msgspec.json.Decoder().decode, msgspec.json.Encoder().encode)


def with_orjson() -> Codec:
    """Return the codec that asks orjson first. Raises ImportError where there is none."""
    orjson = importlib.import_module("orjson")
    return _faster("orjson", orjson.loads, orjson.dumps)


def candidates() -> tuple[Callable[[], Codec], ...]:
    """Return what may be used on this interpreter, the best first."""
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        return with_orjson, with_msgspec, standard
    if sys.version_info >= (3, 14):
        return with_msgspec, standard
    return (standard,)


def _faster(name: str, loads: Callable[[bytes], Any], dumps: Callable[[object], bytes]) -> Codec:
    def fast_loads(text: bytes) -> Any:
        if _LONG_INTEGER.search(text):
            return _loads(text)
        try:
            return loads(text)
        except (ValueError, RecursionError):
            return _loads(text)

    def fast_dumps(value: object) -> bytes:
        try:
            return dumps(value)
        except (TypeError, ValueError, ArithmeticError, RecursionError):
            return _dumps(value)

    return Codec(name, _refuse_too_deep(fast_loads), fast_dumps)


def _loads(text: bytes) -> Any:
    try:
        value = _decode(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise MalformedJSON(f"the body is not UTF-8: see byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise MalformedJSON(
            f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:  # among them integers of more digits than Python converts
        raise MalformedJSON(f"the body holds a number that cannot be kept: {error}") from None
    if _SURROGATE_ESCAPE.search(text):
        _refuse_lone_surrogates(value)
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits[:32]} is beyond what a double can hold")
    return number


def _refuse_lone_surrogates(value: object) -> None:
    try:
        _dumps(value)
    except UnicodeEncodeError:
        raise MalformedJSON(
            "the body holds a surrogate without its pair: write the character itself, "
            "or both halves of it as \\uXXXX\\uXXXX"
        ) from None


_decode: Final = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite).decode
_encode: Final = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":")
).encode


def _dumps(value: object) -> bytes:
    return _encode(value).encode("utf-8")


def _too_deep() -> MalformedJSON:
    return MalformedJSON(f"the body is nested too deep: {MAX_DEPTH} levels are the most")


def _refuse_too_deep(loads: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def checked(text: bytes) -> Any:
        value = loads(text)
        if text.count(b"[") + text.count(b"{") > MAX_DEPTH and _is_too_deep(value):
            raise _too_deep()
        return value

    return checked


def _is_too_deep(value: object) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        containers = [item for item in level if isinstance(item, dict | list)]
        if not containers:
            return False
        level = [
            item
            for container in containers
            for item in (container.values() if isinstance(container, dict) else container)
        ]
    return True


def _select() -> Codec:
    for make in candidates():
        try:
            return make()
        except ImportError:
            pass
    raise AssertionError("the standard library's codec can always be imported")


CODEC: Final = _select()
"""The codec in use."""

loads: Final = CODEC.loads
"""Read JSON. Raises MalformedJSON, and nothing else."""

dumps: Final = CODEC.dumps
"""Write JSON, compact."""
