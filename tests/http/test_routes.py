"""The table of routes."""

from __future__ import annotations

import inspect

from cacheserver.http.handlers import Handlers
from cacheserver.http.routes import ROUTES, RouteTable


def test_every_operation_has_a_handler_and_every_handler_a_route():
    """The table and the handlers name the same operations."""
    handlers = {
        name
        for name, _ in inspect.getmembers(Handlers, inspect.iscoroutinefunction)
        if not name.startswith("_")
    }
    assert {route.operation for route in ROUTES} == handlers


def test_routes_are_there_once():
    """No two routes have the same method and path."""
    assert len({(route.method, route.path) for route in ROUTES}) == len(ROUTES)


def test_find_splits_before_decoding():
    """A raw path is split at its raw slashes: the key is all the rest."""
    found = RouteTable(ROUTES).find(b"/v1/kv/n%2Fs/a/b%2Fc//")
    assert found is not None
    assert found.namespace == b"n%2Fs"
    assert found.key == b"a/b%2Fc//"
    assert found.resource.allow == "GET, HEAD, PUT, DELETE"


def test_find_namespaces():
    """A namespace may stand alone, or before a literal that must be there letter by letter."""
    table = RouteTable(ROUTES)
    alone, clear = table.find(b"/v1/namespaces/n%2Fs"), table.find(b"/v1/namespaces/n/clear")
    assert alone is not None
    assert (alone.namespace, alone.key) == (b"n%2Fs", b"")
    assert alone.resource.allow == "GET, HEAD, PUT, PATCH, DELETE"
    assert clear is not None
    assert (clear.namespace, clear.resource.allow) == (b"n", "POST")
    every = table.find(b"/v1/namespaces")
    assert every is not None
    assert every.resource.allow == "GET, HEAD"
    assert table.find(b"/v1/namespaces/") is not None  # a name that is empty


def test_find_nothing():
    """What is no route is None."""
    table = RouteTable(ROUTES)
    for path in (
        b"",
        b"/",
        b"/v1/kv/n",
        b"v1/kv/n/k",
        b"x/v1/kv/n/k",
        b"/v2/kv/n/k",
        b"/healthz/x",
        b"/v1/namespaces/n/",
        b"/v1/namespaces/n/x",
        b"/v1/namespaces/n/clear/",
        b"/v1/namespaces/n/%63lear",
        b"/v1/incr/n",
        b"/v1/n/clear",
        b"//v1/namespaces/n",
    ):
        assert table.find(path) is None
