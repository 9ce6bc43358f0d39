"""What is measured, as data: the cases, and which figures are wanted of them.

The first case has 64-byte values, 32 connections and one request at a time on each; every other one
differs from it in what its name says, so that two figures side by side show what one thing costs.
Where a target compares two loads of our own server, both are measured in turns in the same case: the
second one is the case's `beside`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

STORES: Final = ("cacheserver", "cacheserver-2", "redis", "memcached")
"""Subjects that hold many keys and are quick enough to be filled with a million."""

NEAR: Final = (*STORES, "no-fast-path", "echo")
"""What is left where the other servers of our app would tell nothing new."""

TOKEN: Final = "cacheserver-token"
"""Our server where everybody must show a token; in the cases that name it alone."""


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of load."""

    name: str
    operation: str
    """As the generator calls it."""
    title: str
    value_size: int = 64
    connections: int = 32
    pipeline: int = 1
    keys: int = 10_000
    distribution: str = "uniform"
    write_share: float = 0.0
    changing_header: bool = False
    """Whether each request has an X-Request-Id and a traceparent of its own."""
    changing_length: bool = False
    """Whether each write draws a length, from half of the size to one and a half."""
    ttl: int = 0
    """Seconds that all values live; 0: for ever."""
    beside: str | None = None
    """The operation that our servers are measured with too, in turns with this case's."""
    subjects: tuple[str, ...] | None = None
    """Those it is for; None for all that can do it."""
    is_latency: bool = False
    """Whether it asks for percentiles at a constant rate instead of what a request costs."""

    @property
    def description(self) -> str:
        """The case in words."""
        parts = [
            self.title,
            "integers" if self.operation == "incr" else size_in_words(self.value_size),
            f"{self.connections} connection{'s' * (self.connections > 1)}",
        ]
        if self.changing_length:
            parts[1] = f"{size_in_words(self.value_size // 2)} to {self.value_size * 3 // 2} B"
        if self.distribution != "uniform":
            parts.insert(1, f"{self.keys:,} keys")
        if self.pipeline > 1:
            parts.append(f"pipelined {self.pipeline}")
        return ", ".join(parts)

    @property
    def plain(self) -> Case:
        """What our servers are measured with too: `beside`, and nothing that changes or ends.

        It has none of the headers that change in the case, so it does not pay for their bytes.
        """
        assert self.beside is not None
        return replace(
            self,
            operation=self.beside,
            title={"get": "GET hit", "put": "PUT"}[self.beside],
            changing_header=False,
            changing_length=False,
            ttl=0,
            beside=None,
        )


def size_in_words(size: int) -> str:
    """`64 B`, `1 KiB`, `1 MiB`."""
    for unit, factor in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor and size % factor == 0:
            return f"{size // factor} {unit}"
    return f"{size} B"


def _by_size(operation: str, title: str) -> list[Case]:
    """The larger values, of which fewer fit into memory."""
    return [
        Case(f"{operation}-1k", operation, title, value_size=1 << 10),
        Case(f"{operation}-64k", operation, title, value_size=64 << 10, keys=1_000),
        Case(f"{operation}-1m", operation, title, value_size=1 << 20, keys=100),
    ]


def _by_connections(operation: str, title: str) -> list[Case]:
    return [
        Case(f"{operation}-1-connection", operation, title, connections=1),
        Case(f"{operation}-256-connections", operation, title, connections=256),
        Case(f"{operation}-pipelined", operation, title, pipeline=16),
    ]


CASES: Final = (
    Case("get", "get", "GET hit"),
    *_by_connections("get", "GET hit"),
    Case(
        "get-changing-header",
        "get",
        "GET hit, headers that change",
        changing_header=True,
        beside="get",
        subjects=NEAR,
    ),
    Case("get-ttl", "get", "GET hit, of values with a deadline", ttl=3600, subjects=NEAR),
    Case(
        "get-token",
        "get",
        "GET hit, without a token and with one",
        subjects=("cacheserver", TOKEN),
    ),
    *_by_size("get", "GET hit"),
    Case("miss", "miss", "GET miss", beside="get"),
    Case("put", "put", "PUT"),
    *_by_connections("put", "PUT"),
    *_by_size("put", "PUT"),
    Case(
        "put-changing-length",
        "put",
        "PUT, a length that changes",
        changing_length=True,
        beside="put",
        subjects=NEAR,
    ),
    Case(
        "put-changing-all",
        "put",
        "PUT, headers and a length that change",
        changing_header=True,
        changing_length=True,
        beside="put",
        subjects=NEAR,
    ),
    Case("put-ttl", "put", "PUT ?ttl=", ttl=3600, beside="put", subjects=NEAR),
    Case("put-token", "put", "PUT, without a token and with one", subjects=("cacheserver", TOKEN)),
    # The generator reads all tags before each run, so there are fewer keys.
    Case(
        "conditional-get",
        "conditional-get",
        "conditional GET (304)",
        keys=1_000,
        beside="get",
    ),
    Case("cas", "cas", "compare-and-set", keys=1_000, beside="put"),
    Case(
        "cas-changing-all",
        "cas",
        "compare-and-set, headers and a length that change",
        keys=1_000,
        changing_header=True,
        changing_length=True,
        beside="put",
        subjects=STORES,
    ),
    Case("cas-conflict", "cas-conflict", "compare-and-set, conflict", keys=1_000, beside="put"),
    Case("incr", "incr", "incr", subjects=NEAR),
    Case("incr-pipelined", "incr", "incr", pipeline=16, subjects=STORES),
    Case(
        "mix-zipf",
        "mix",
        "90 % GET, 10 % PUT, Zipf",
        keys=1_000_000,
        distribution="zipf:0.99",
        write_share=0.1,
        subjects=STORES,
    ),
    Case("connect", "connect", "GET hit, each on a new connection"),
    Case("latency-get", "get", "GET hit", subjects=(*STORES, "nginx"), is_latency=True),
    Case("latency-put", "put", "PUT", subjects=STORES, is_latency=True),
)

QUICK: Final = ("get", "get-pipelined", "put", "latency-get")
"""Names of the cases of a smoke run."""


@dataclass(frozen=True, slots=True)
class Target:
    """How a figure of ours is to compare with another: at most `must`, at best `dream` times."""

    case: str
    peer: str | None
    """Whom it is compared with; None: ourselves with the operation `beside` the case's."""
    must: float
    dream: float
    figure: str = "cpu_us"
    """`cpu_us`: server CPU a request; `p99`: at half of our maximum rate, for both."""
    ours: tuple[str, ...] = ("cacheserver", "cacheserver-2")


TARGETS: Final = (
    Target("get", "redis", must=1.35, dream=1.1),
    Target("get-changing-header", None, must=1.1, dream=1.03),
    Target("miss", None, must=1.15, dream=1.0),
    Target("conditional-get", None, must=1.15, dream=1.0),
    Target("put", "redis", must=1.7, dream=1.3),
    Target("put-changing-length", "redis", must=1.7, dream=1.3),
    Target("cas", None, must=1.2, dream=1.05),
    Target("cas-conflict", None, must=1.3, dream=1.1),
    Target("get-token", "cacheserver", must=1.1, dream=1.03, ours=(TOKEN,)),
    Target("put-token", "cacheserver", must=1.1, dream=1.03, ours=(TOKEN,)),
    Target("get-pipelined", "redis", must=2.0, dream=1.4),
    Target("put-pipelined", "redis", must=2.5, dream=1.4),
    Target("incr", "redis", must=2.0, dream=1.4),
    Target("get", "echo", must=1.1, dream=0.95),
    Target("get", "uvicorn", must=0.25, dream=0.15),
    Target("latency-get", "redis", figure="p99", must=2.0, dream=1.0),
)
