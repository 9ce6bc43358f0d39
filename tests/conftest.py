"""Fixtures that all tests share. What stores a test makes with `make` are checked at its end."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import fields
from typing import Any

import pytest

from cacheserver.store.namespace import Namespace, NamespaceConfig
from cacheserver.store.store import Store
from cacheserver.store.striped import StripedDict
from tests.support.clock import ManualClock
from tests.support.invariants import check_invariants


class Maker:
    """Makes stores, with the test's clock where none is given, and remembers them."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.made: list[Store | Namespace | StripedDict[Any, Any]] = []

    def striped(self, stripes: int = 64, **options: Any) -> StripedDict[Any, Any]:
        made = StripedDict[Any, Any](stripes, **{"clock": self.clock, **options})
        self.made.append(made)
        return made

    def namespace(self, name: str = "things", **options: Any) -> Namespace:
        """With a configuration of what its fields are named for among the options."""
        names = {field.name for field in fields(NamespaceConfig)}
        config = NamespaceConfig(**{name: options.pop(name) for name in names & options.keys()})
        made = Namespace(name, config, **{"clock": self.clock, **options})
        self.made.append(made)
        return made

    def store(self, **options: Any) -> Store:
        made = Store(**{"clock": self.clock, **options})
        self.made.append(made)
        return made


@pytest.fixture
def clock() -> ManualClock:
    """Time that stands still until the test moves it."""
    return ManualClock()


@pytest.fixture
def make(clock: ManualClock) -> Generator[Maker]:
    """Make stores whose invariants are checked when the test is done."""
    maker = Maker(clock)
    yield maker
    check_invariants(*maker.made)


@pytest.fixture(params=[1, 64])
def stripes(request: pytest.FixtureRequest) -> int:
    """One stripe and many: the same behaviour is asked of both."""
    return int(request.param)
