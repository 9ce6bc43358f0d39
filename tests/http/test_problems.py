"""Every error of the package has its status, and what a problem looks like."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from types import ModuleType
from typing import Any

import pytest

from cacheserver import errors
from cacheserver.http import create_app, problems
from cacheserver.http import errors as http_errors
from cacheserver.http.messages import problem
from cacheserver.http.problems import INTERNAL, KINDS, WITHOUT_STATUS, Kind
from cacheserver.metrics import Metrics
from cacheserver.store.store import Store
from tests.support.http_client import AppClient


def classes(module: ModuleType) -> list[type[Exception]]:
    """The exceptions that a module defines."""
    return [
        value
        for _, value in inspect.getmembers(module, inspect.isclass)
        if issubclass(value, Exception) and value.__module__ == module.__name__
    ]


def kinds() -> list[Kind]:
    """All kinds of problems that the module defines."""
    return [value for value in vars(problems).values() if isinstance(value, Kind)]


@pytest.mark.parametrize("module", [errors, http_errors])
def test_every_error_has_a_status(module: ModuleType):
    """Each class of the tree is in the table, or said to be one that no client meets."""
    missing = [cls for cls in classes(module) if cls not in KINDS and cls not in WITHOUT_STATUS]
    assert not missing
    assert not [cls for cls in KINDS if cls in WITHOUT_STATUS]


@pytest.mark.parametrize("module", [errors, http_errors])
def test_the_tree_in_the_docstring_is_whole(module: ModuleType):
    """The drawing at the top of the module has every class."""
    drawn = set(re.findall(r"[|`]-- (\w+)", module.__doc__ or "")) | {"CacheServerError"}
    assert {cls.__name__ for cls in classes(module)} <= drawn


def test_every_error_is_in_one_tree():
    """Whoever catches CacheServerError catches all of them."""
    for cls in (*classes(errors), *classes(http_errors)):
        assert issubclass(cls, errors.CacheServerError)


def test_slugs_name_one_kind_each():
    """Programs can tell kinds apart by their slug, and read them in a URN."""
    slugs = [kind.slug for kind in kinds()]
    assert len(set(slugs)) == len(slugs)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", slug) for slug in slugs)


def test_a_class_without_a_kind_takes_that_of_its_parent():
    """A new error below InvalidInput is the client's fault before anybody says so."""

    class Novel(errors.InvalidInput):
        pass

    assert problems.kind_of(Novel()).status == 400
    assert problems.kind_of(ZeroDivisionError()) is INTERNAL


def test_render():
    """A problem has type, title, status and detail, then its own fields."""
    body = json.loads(problems.CONDITION_FAILED.render("because", current_version=None))
    assert body == {
        "type": "urn:cacheserver:problem:condition-failed",
        "title": problems.CONDITION_FAILED.title,
        "status": 412,
        "detail": "because",
        "current_version": None,
    }


def test_what_passes_by_itself_says_when_to_ask_again():
    """Every answer of 503 has a Retry-After, and no other has."""
    for kind in kinds():
        headers = dict(problem(kind, "because").raw_headers)
        assert headers.get(b"retry-after") == (b"1" if kind.status == 503 else None)


class _BrokenStore(Store):
    """A store with a defect."""

    def __init__(self) -> None:
        super().__init__()
        self.view = self._broken

    def _broken(self) -> Any:
        raise ZeroDivisionError("the inside")


def test_an_unexpected_error_tells_nothing_of_the_inside():
    """A defect gives 500 as a problem without a word from the exception, and is counted as such."""
    metrics = Metrics()
    client = AppClient(create_app(_BrokenStore(), metrics=metrics))
    answer = client.request("GET", "/v1/kv/n/k")
    client.close()
    assert answer.status == 500
    assert answer.header("content-type") == "application/problem+json"
    assert answer.json()["type"] == "urn:cacheserver:problem:internal"
    assert b"inside" not in answer.body
    assert b"ZeroDivision" not in answer.body
    assert metrics.totals().requests == {("GET", 500): 1}


def test_an_unexpected_error_is_raised_to_the_server():
    """The server gets to see the exception, so that it can be logged."""
    app = create_app(_BrokenStore())

    async def drop(message: Any) -> None:
        pass

    async def nothing() -> Any:
        raise AssertionError("nothing is to be read")

    scope = {"type": "http", "method": "GET", "path": "/v1/kv/n/k", "query_string": b""}
    with pytest.raises(ZeroDivisionError):
        asyncio.run(app({**scope, "headers": []}, nothing, drop))
