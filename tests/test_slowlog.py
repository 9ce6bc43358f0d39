"""Slow operations are kept, the latest of them."""

from __future__ import annotations

import threading

import pytest

from cacheserver.metrics import Metrics
from cacheserver.slowlog import SlowLog
from cacheserver.store.locks import Wait
from tests.support.threads import in_thread, run_threads, start


def note(log: SlowLog, number: int = 0) -> None:
    """Note an operation that can be told from others."""
    log.note(
        operation="put", method="PUT", namespace="n", key=f"k{number}", status=204, seconds=0.5
    )


def test_what_is_noted_comes_back() -> None:
    """An operation comes back as it was noted, with its number, its time and its thread."""
    log = SlowLog(wall=lambda: 1_700_000_000.25)
    waits = (Wait("stripe", 2_000, 3, "write"),)
    noting = start(
        lambda: log.note(
            operation="put",
            method="PUT",
            namespace="n",
            key="k",
            status=204,
            seconds=0.5,
            requests=2,
            lock_wait_seconds=0.25,
            waits=waits,
            trace_id="a" * 32,
        ),
        name="loop-3",
    )
    noting.result()
    [kept] = log.latest()
    assert kept == (
        *(
            1,
            1_700_000_000.25,
            "put",
            "PUT",
            "n",
            "k",
            204,
            0.5,
            2,
            0.25,
            waits,
            "loop-3",
            "a" * 32,
        ),
    )


def test_only_the_latest_are_kept() -> None:
    """Of more than the log keeps the oldest go; the count is of all, and numbers go on."""
    log = SlowLog(size=3)
    for number in range(5):
        note(log, number)
    assert [(each.id, each.key) for each in log.latest()] == [(5, "k4"), (4, "k3"), (3, "k2")]
    assert log.total == 5


@pytest.mark.parametrize(("limit", "ids"), [(0, []), (1, [3]), (2, [3, 2]), (9, [3, 2, 1])])
def test_as_many_as_are_asked_for(limit: int, ids: list[int]) -> None:
    """A limit gives the newest."""
    log = SlowLog()
    for number in range(3):
        note(log, number)
    assert [each.id for each in log.latest(limit)] == ids


def test_nothing_is_lost_among_threads() -> None:
    """Of operations that several threads note at once each has a number of its own."""
    log = SlowLog(size=10_000)

    def work() -> None:
        for _ in range(500):
            note(log)

    run_threads([work] * 4)
    assert log.total == 2000
    assert [each.id for each in log.latest(10_000)] == list(range(2000, 0, -1))


@pytest.mark.parametrize("threshold", [-0.001, float("nan"), float("inf")])
def test_a_threshold_is_a_time(threshold: float) -> None:
    """What no operation could be compared with is refused."""
    with pytest.raises(ValueError, match="threshold"):
        SlowLog(threshold)


def test_a_log_keeps_something() -> None:
    """A log without room is refused."""
    with pytest.raises(ValueError, match="at least one"):
        SlowLog(size=0)


def test_metrics_have_a_slow_log() -> None:
    """Metrics come with a slow log of the threshold that they were given, 10 ms by default."""
    assert Metrics().slowlog.threshold == 0.01
    assert Metrics(slow_threshold=0).slowlog.threshold == 0
    metrics = Metrics()
    in_thread(lambda: note(metrics.slowlog))
    assert metrics.slowlog.latest()[0].thread != threading.current_thread().name
