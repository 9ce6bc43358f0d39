"""Conditions from header values, without an app."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacheserver.http import conditions
from cacheserver.http.errors import MalformedCondition
from cacheserver.store.outcomes import Condition


def test_no_header_is_no_condition():
    """Without a header there is nothing to check."""
    assert conditions.if_match(None) is None
    assert conditions.if_none_match(None) is None
    assert conditions.all_of(None, None) is None


def test_star():
    """A star asks for the key to be there, or not to be there."""
    assert conditions.if_match(b"*") == Condition(must_exist=True)
    assert conditions.if_none_match(b" *\t") == Condition(must_be_absent=True)


def test_strong_and_weak_comparison():
    """Weak tags count for If-None-Match only."""
    value = b'"1", W/"2"'
    assert conditions.if_match(value) == Condition(match=frozenset({1}))
    assert conditions.if_none_match(value) == Condition(none_match=frozenset({1, 2}))


def test_tags_that_are_no_versions_match_nothing():
    """A list without any version of ours is a condition that no key fulfils, or every key."""
    assert conditions.if_match(b'"abc", "007", ""') == Condition(match=frozenset())
    assert conditions.if_none_match(b'"abc"') == Condition()


def test_all_of_wants_all():
    """Conditions that are given together must all hold."""
    both = conditions.all_of(Condition.version(5), None, conditions.if_match(b'"5", "6"'))
    assert both is not None
    assert [version for version in range(8) if both.holds(version)] == [5]


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 10**15)), min_size=1))
def test_every_list_of_versions_is_understood(tags: list[tuple[bool, int]]):
    """Any list of weak and strong tags gives exactly its versions."""
    value = b",".join((b"W/" if weak else b"") + conditions.etag(version) for weak, version in tags)
    strong = frozenset(version for weak, version in tags if not weak)
    assert conditions.if_match(value) == Condition(match=strong)
    expected = Condition(none_match=frozenset(version for _, version in tags))
    assert conditions.if_none_match(value) == expected


@given(st.binary(max_size=40))
def test_any_bytes_are_a_condition_or_refused(value: bytes):
    """Any bytes are understood or MalformedCondition, never another exception."""
    for parse in (conditions.if_match, conditions.if_none_match):
        try:
            assert parse(value) is not None
        except MalformedCondition:
            pass


@pytest.mark.parametrize(
    "value", [b" " * 60_000 + b"x", b'"1"' + b" \t" * 30_000 + b"x", b"," * 60_000 + b"x"]
)
def test_long_nonsense_is_refused_quickly(value: bytes):
    """The time for a header grows with its length and not with the square of it."""
    started = time.process_time()
    with pytest.raises(MalformedCondition):
        conditions.if_match(value)
    assert time.process_time() - started < 1
