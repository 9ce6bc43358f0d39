"""JSON: the same behaviour from every library that can be used on this interpreter."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import sysconfig
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacheserver.http import codec
from cacheserver.http.codec import MAX_DEPTH, Codec
from cacheserver.http.errors import MalformedJSON

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def importable() -> list[Codec]:
    """The codecs whose library is installed here."""
    codecs = []
    for make in codec.candidates():
        try:
            codecs.append(make())
        except ImportError:
            pass
    return codecs


@pytest.fixture(params=importable(), ids=lambda each: each.name)
def each(request: pytest.FixtureRequest) -> Codec:
    """Each codec that can be used here."""
    codec: Codec = request.param
    return codec


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def test_the_best_is_selected():
    """What is in use is the first of those that can be imported."""
    assert codec.CODEC.name == importable()[0].name


def test_the_standard_library_is_always_there():
    """The reference can be used everywhere."""
    assert importable()[-1].name == "json"


@pytest.mark.skipif(not FREE_THREADED, reason="needs a build without the GIL")
def test_orjson_is_never_imported_without_the_gil(tmp_path):
    """A free-threaded build does not import orjson even where it is installed: it would turn the GIL on."""
    (tmp_path / "orjson.py").write_text("raise SystemExit('orjson was imported')")
    code = "import cacheserver.http, sys; assert not sys._is_gil_enabled()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": f"{tmp_path}:{':'.join(filter(None, sys.path))}"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "text",
    [
        b"null",
        b" [1, 2.5, -0.0, 1e3, 1e-400] ",
        b'{"z": 1, "a": {"y": [], "b": {}}}',
        '"grüße \u2028 😀"'.encode(),
        b'"\\u0000\\ud83d\\ude00\\/\\n"',
        b'{"a": 1, "b": 2, "a": 3}',
        b"1234567890123456789",
        b"-9223372036854775809",
        b"[18446744073709551616, 123456789012345678901234567890]",
        b'"12345678901234567890"',
        nested(MAX_DEPTH),
        b'{"a":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH,
        b'"' + b"[" * 2 * MAX_DEPTH + b'"',
        b"[" + b"[],{}," * MAX_DEPTH + b"[]]",
    ],
)
def test_reads_as_the_standard_library_does(each: Codec, text: bytes):
    """Values, their types, the order of keys and integers of any size are the same."""
    value = each.loads(text)
    assert repr(value) == repr(json.loads(text))


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (b"", "line 1, column 1"),
        (b"{", "line 1, column 2"),
        (b"[1,\n2,]", "line 2"),
        (b"{'a': 1}", "line 1, column 2"),
        (b"01", "line 1, column 2"),
        (b"1 2", "line 1, column 3"),
        (b"nul", "not JSON"),
        (b'"\x01"', "not JSON"),
        (b"\x00", "not JSON"),
        (b"\xef\xbb\xbf1", "line 1, column 1"),
        (b'"\xff"', "byte 1"),
        (b'"\xed\xa0\x80"', "UTF-8"),
        ("1".encode("utf-16"), "UTF-8"),
        (b"NaN", "NaN"),
        (b"[Infinity]", "Infinity"),
        (b"-Infinity", "Infinity"),
        (b"1e999", "double"),
        (b"-1E400", "double"),
        (b'"\\ud800"', "surrogate"),
        (b'{"\\uDFFF": 1}', "surrogate"),
        (b'"\\ude00\\ud83d"', "surrogate"),
        (b"1" * 5000, "number"),
        (nested(MAX_DEPTH + 1), "deep"),
        (b'[{"a":' * MAX_DEPTH + b"1" + b"}]" * MAX_DEPTH, "deep"),
        (nested(100_000), "deep"),
        (b"[" * 100_000, "body"),
    ],
    ids=lambda value: str(value[:20]) if isinstance(value, bytes) else None,
)
def test_refuses_what_is_not_json(each: Codec, text: bytes, hint: str):
    """What is not JSON is MalformedJSON, which says where and why, the same from every library."""
    with pytest.raises(MalformedJSON, match=hint) as error:
        each.loads(text)
    with pytest.raises(MalformedJSON) as reference:
        codec.standard().loads(text)
    assert str(error.value) == str(reference.value)


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("abc\u00e9\n", max_size=3), inner),
    max_leaves=20,
)


@pytest.mark.parametrize("codec_", importable(), ids=lambda each: each.name)
@given(json_values)
def test_what_is_written_reads_back(codec_: Codec, value: Any):
    """Any value comes back from what was written, whichever library reads it."""
    written = codec_.dumps(value)
    for reader in importable():
        assert reader.loads(written) == value


def test_writes_compactly(each: Codec):
    """No blanks, no escapes that are not needed, keys in their order, integers of any size."""
    value = {"b": [1, None, True, "é\u2028\x7f/"], "a": 2**80, "": '"\\\n\x1f'}
    assert (
        each.dumps(value)
        == (
            '{"b":[1,null,true,"é\u2028\x7f/"],"a":1208925819614629174706176,"":"\\"\\\\\\n\\u001f"}'
        ).encode()
    )


def test_writes_deep_values(each: Codec):
    """What is as deep as may be read can be written again, with a level around it."""
    value = {"current_value": each.loads(nested(MAX_DEPTH))}
    assert each.dumps(value) == b'{"current_value":' + nested(MAX_DEPTH) + b"}"


def test_writes_floats_that_read_back(each: Codec):
    """A float's spelling may differ from library to library, its value does not."""
    for number in (1e16, 1e-7, 5e-324, 1.7976931348623157e308, 0.1, -0.0):
        back = each.loads(each.dumps(number))
        assert back == number
        assert math.copysign(1, back) == math.copysign(1, number)
