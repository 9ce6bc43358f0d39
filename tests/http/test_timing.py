"""Server-Timing and traceparent, as text."""

from __future__ import annotations

import pytest

from cacheserver.http.timing import server_timing, trace_id
from cacheserver.store.locks import WaitLog

TRACE = "0af7651916cd43dd8448eb211c80319c"


def test_nothing_was_waited_for() -> None:
    """Milliseconds with three decimals."""
    assert server_timing(0.0012344, WaitLog()) == b"lock;dur=0.000, app;dur=1.234"


def test_the_longest_wait_is_described() -> None:
    """With its stripe and what held it, where these are known; the sum is that of all."""
    waits = WaitLog()
    waits.add("namespace_read", 400_000, -1, "clear")
    assert server_timing(1, waits) == (
        b'lock;dur=0.400;desc="namespace_read, clear", app;dur=1000.000'
    )
    waits.add("stripe", 1_500_000, 17, "write")
    waits.add("lock", 700_000, -1, "")
    assert server_timing(1, waits) == b'lock;dur=2.600;desc="stripe 17, write", app;dur=1000.000'
    alone = WaitLog()
    alone.add("lock", 1_000, -1, "")
    assert server_timing(0.5, alone) == b'lock;dur=0.001;desc="lock", app;dur=500.000'


@pytest.mark.parametrize(
    "given",
    [
        f"00-{TRACE}-b7ad6b7169203331-01",
        f"00-{TRACE}-b7ad6b7169203331-00",
        f" 00-{TRACE}-b7ad6b7169203331-01\t",
        f"01-{TRACE}-b7ad6b7169203331-01",
        f"cc-{TRACE}-b7ad6b7169203331-01-what-a-later-version-adds",
    ],
)
def test_a_trace(given: str) -> None:
    """Of every version, as far as it is known."""
    assert trace_id(given.encode()) == TRACE


@pytest.mark.parametrize(
    "given",
    [
        "",
        TRACE,
        f"00-{TRACE}-b7ad6b7169203331",
        f"00-{TRACE}-b7ad6b7169203331-01-more",
        f"00-{TRACE}-b7ad6b7169203331-01,00-{TRACE}-b7ad6b7169203331-01",
        f"00-{TRACE.upper()}-b7ad6b7169203331-01",
        f"00-{TRACE[:-1]}-b7ad6b7169203331-01",
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-b7ad6b7169203331-01",
        f"cc-{TRACE}-b7ad6b7169203331-01.",
        "00-\xff",
    ],
)
def test_no_trace(given: str) -> None:
    """What the recommendation calls malformed is none."""
    assert trace_id(given.encode("latin-1")) == ""
