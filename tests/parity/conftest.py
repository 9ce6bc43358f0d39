"""The servers whose answers are compared."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Mapping
from typing import Final

import pytest

from tests.support.planes import LIVE, Planes
from tests.support.server import RunningServer

MAX_VALUE_SIZE: Final = 60_000
SETTINGS: Final = {
    "CACHESERVER_THREADS": "2",
    "CACHESERVER_MAX_VALUE_SIZE": str(MAX_VALUE_SIZE),
    "CACHESERVER_MAX_NAMESPACES": "100000",
    # The same keys share a stripe in all of them, and with it the counter of their versions.
    "PYTHONHASHSEED": "0",
}
NAMESPACE: Final = "namespace-000000"
"""Stands for a namespace in requests, and is as long as each that takes its place."""

type Pair = tuple[RunningServer, RunningServer]

_numbers: Final = itertools.count(1)


def fresh(raw: bytes, namespace: str) -> bytes:
    """Return a request with that namespace in the place of NAMESPACE."""
    return raw.replace(NAMESPACE.encode(), namespace.encode())


@pytest.fixture(scope="session")
def planes() -> Generator[Planes]:
    """The servers, which all tests here share."""
    with Planes() as running:
        yield running


@pytest.fixture(scope="session")
def pair_with(planes: Planes) -> Callable[[Mapping[str, str]], Pair]:
    """Start, with some settings more, the server without the fast path and the one with it."""

    def start(settings: Mapping[str, str]) -> Pair:
        live, asgi = (planes.start(name, {**SETTINGS, **settings}) for name in LIVE)
        return asgi, live

    return start


@pytest.fixture(scope="session")
def pair(pair_with: Callable[[Mapping[str, str]], Pair]) -> Pair:
    """The server without the fast path, and the one with it."""
    return pair_with({})


@pytest.fixture
def namespace() -> str:
    """A namespace that this test has for itself."""
    return next_namespace()


def next_namespace() -> str:
    """Return a namespace that nothing else here uses."""
    return f"namespace-{next(_numbers):06d}"
