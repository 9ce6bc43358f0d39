"""Raw paths and queries, without an app."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacheserver.http import target
from cacheserver.http.errors import MalformedQuery, MalformedTarget, RequestError
from cacheserver.http.target import Parameters


@given(st.text())
def test_decode_undoes_encode(text: str):
    """Whatever text UTF-8 can carry comes back from its percent-encoding."""
    try:
        raw = target.encode_path(text)
    except UnicodeEncodeError:
        return
    assert target.decode(raw) == text


@given(st.binary(max_size=40))
def test_decode_gives_text_or_refuses(raw: bytes):
    """Any bytes are text or MalformedTarget, never another exception."""
    try:
        text = target.decode(raw)
    except MalformedTarget:
        return
    text.encode()


@given(st.binary(max_size=60), st.sampled_from([(), ("cas",), ("cas", "ttl")]))
def test_parse_query_gives_known_names_or_refuses(raw: bytes, known: tuple[str, ...]):
    """Any bytes are a query of known names or a RequestError, never another exception."""
    try:
        parameters = target.parse_query(raw, known)
    except RequestError:
        return
    assert set(parameters) <= set(known)


@pytest.mark.parametrize(
    ("raw_path", "root_path", "relative"),
    [
        (b"/v1/kv/n/k", "", b"/v1/kv/n/k"),
        (b"/cache/v1/kv/n/k", "/cache", b"/v1/kv/n/k"),
        (b"/a/b/v1/kv/n/k", "/a/b", b"/v1/kv/n/k"),
        (b"/a%20b/v1/kv/n/k", "/a b", b"/v1/kv/n/k"),
        (b"/%63ache/v1/kv/n/k", "/cache", b"/v1/kv/n/k"),
        (b"/gr%C3%BC%C3%9Fe/healthz", "/grüße", b"/healthz"),
        (b"/cache/cache/x", "/cache", b"/cache/x"),
        (b"/cache/", "/cache", b"/"),
        (b"/cache//x", "/cache", b"//x"),
        # What is not below the root is whole:
        (b"/v1/kv/n/k", "/cache", b"/v1/kv/n/k"),
        (b"/cachet/x", "/cache", b"/cachet/x"),
        (b"/cache", "/cache", b"/cache"),
        (b"", "/cache", b""),
    ],
)
def test_relative_path(raw_path: bytes, root_path: str, relative: bytes):
    """The part below the root is found by whole segments, however the root is spelled."""
    assert target.relative_path(raw_path, root_path) == relative


def test_query_names_what_is_known():
    """A parameter that is unknown is named, and so are those that are known."""
    with pytest.raises(MalformedQuery, match=r"'tll'.*cas, ttl"):
        target.parse_query(b"tll=1", ("cas", "ttl"))


def test_plus_in_a_query_is_a_plus():
    """A plus is no blank in a query either: the same rule as in a path."""
    assert target.parse_query(b"x=a+b%20c", ("x",)) == {"x": "a+b c"}


@given(st.integers(min_value=0, max_value=target.MAX_VERSION))
def test_every_version_can_be_expected(version: int):
    """Each version there can be is understood in ?cas=."""
    assert target.parse_cas(str(version)) == version


@pytest.mark.parametrize(("text", "seconds"), [("0", 0), ("60", 60), ("0.25", 0.25), ("007", 7)])
def test_ttl(text: str, seconds: float):
    """Decimal digits with or without a fraction are seconds."""
    assert target.parse_ttl(text) == seconds


@pytest.mark.parametrize("text", ["0", "-1", "-0", "9223372036854775807", "-9223372036854775808"])
def test_signed_numbers(text: str):
    """Every integer of 64 bits can be added, and be what a number begins with."""
    known = ("by", "initial")
    parameters = target.parse_parameters(f"by={text}&initial={text}".encode(), known)
    assert parameters == Parameters(by=int(text), initial=int(text))


def test_parameters_that_are_not_given():
    """Have their usual values."""
    assert target.parse_parameters(b"", ("cas", "ttl", "by")) == Parameters(None, None, 1, 0)
    assert target.parse_parameters(b"ttl=0.5&cas=0", ("cas", "ttl")) == Parameters(ttl=0.5, cas=0)


@given(st.binary(max_size=60))
def test_parse_parameters_gives_values_or_refuses(raw: bytes):
    """Any bytes are parameters or a RequestError, never another exception."""
    try:
        parameters = target.parse_parameters(b"by=" + raw, ("cas", "ttl", "by", "initial"))
    except RequestError:
        return
    assert -(2**63) <= parameters.by < 2**63
