"""What is measured, as data: the cases, and which figures are wanted of them.

The first case has 64-byte values, 32 connections and one request at a time on each; every other one
differs from it in what its name says, so that two figures side by side show what one thing costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

STORES: Final = ("cacheserver", "cacheserver-2", "redis", "memcached")
"""Subjects that hold many keys and are quick enough to be filled with a million."""


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
    subjects: tuple[str, ...] | None = None
    """Those it is for; None for all that can do it."""
    is_latency: bool = False
    """Whether it asks for percentiles at a constant rate instead of what a request costs."""

    @property
    def description(self) -> str:
        """The case in words."""
        parts = [
            self.title,
            size_in_words(self.value_size),
            f"{self.connections} connection{'s' * (self.connections > 1)}",
        ]
        if self.distribution != "uniform":
            parts.insert(1, f"{self.keys:,} keys")
        if self.pipeline > 1:
            parts.append(f"pipelined {self.pipeline}")
        return ", ".join(parts)


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
    Case("get-changing-header", "get", "GET hit, a header that changes", changing_header=True),
    *_by_size("get", "GET hit"),
    Case("miss", "miss", "GET miss"),
    Case("put", "put", "PUT"),
    *_by_connections("put", "PUT"),
    *_by_size("put", "PUT"),
    # The generator reads all tags before each run, so there are fewer keys.
    Case("conditional-get", "conditional-get", "conditional GET (304)", keys=1_000),
    Case("cas", "cas", "compare-and-set", keys=1_000),
    Case("cas-conflict", "cas-conflict", "compare-and-set, conflict", keys=1_000),
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
    """How a figure of ours is to compare with a peer's: at most `must`, at best `dream` times."""

    case: str
    peer: str
    figure: str
    """`cpu_us`: server CPU a request; `p99`: at half of our maximum rate, for both."""
    must: float
    dream: float


TARGETS: Final = (
    Target("get", "redis", "cpu_us", must=1.25, dream=1.0),
    Target("get", "echo", "cpu_us", must=1.6, dream=1.3),
    Target("get", "uvicorn", "cpu_us", must=0.25, dream=0.15),
    Target("put", "redis", "cpu_us", must=1.5, dream=1.1),
    Target("get-pipelined", "redis", "cpu_us", must=3.0, dream=2.0),
    Target("latency-get", "redis", "p99", must=2.0, dream=1.0),
)
