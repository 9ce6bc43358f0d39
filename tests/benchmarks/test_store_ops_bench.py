"""The benchmarks of memory, pauses and whole-namespace operations, and the soak, still run and judge."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import accounting, soak, whole
from benchmarks.generator import find_compiler
from benchmarks.probe import Slowest, longest_bucket, since
from cacheserver.store.locks import Histogram, TimedLock
from tests.support.server import ROOT

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def run_quick(part: str, output: Path, *more: str) -> dict[str, Any]:
    """Run a benchmark, as small as it gets, and return its figures."""
    command = [sys.executable, "-m", f"benchmarks.{part}", "--output", str(output), *more]
    subprocess.run(command, cwd=ROOT, check=True, timeout=240, stdout=subprocess.DEVNULL)
    found: dict[str, Any] = json.loads((output / f"{part}.json").read_text(encoding="utf-8"))
    return found


@on_linux
def test_accounting_counts_and_measures(tmp_path: Path) -> None:
    """What is counted and what is taken are figures of the same order."""
    found = run_quick("accounting", tmp_path, "--quick", "--interpreter", sys.executable)
    (kind,) = found["interpreters"]
    assert len(found["rows"]) == sum(case.is_target for case in accounting.CASES)
    for row in found["rows"]:
        assert -0.7 < accounting.off(row, kind) < 2, row
    assert "|" in accounting.report(found)


@on_linux
@pytest.mark.skipif(find_compiler() is None, reason="the load generator needs a C compiler")
def test_pauses_are_seen_in_every_phase(tmp_path: Path) -> None:
    """Requests are answered in all phases, and collections are noted."""
    found = run_quick("pauses", tmp_path, "--quick")
    for rows in found["rows"].values():
        phases = [phase for row in rows for phase in row["phases"]]
        assert len({phase["name"] for phase in phases}) == 4
        assert all(phase["count"] and phase["longest"] > 0 for phase in phases)
        assert any(phase["collections"] for phase in phases)


@on_linux
def test_whole_namespace_operations_are_measured(tmp_path: Path) -> None:
    """Each scenario runs, and says how long the lock was held where it is one that takes it."""
    found = run_quick("whole", tmp_path, "--quick")["rows"]
    assert found.keys() == whole.SCENARIOS.keys()
    for name in found.keys() - {"fill", "expiry", "max_entries halved"}:
        assert found[name][0]["held"]["times"] > 0, name
    (expiry,) = found["expiry"]
    assert expiry["swept"] > 0
    assert expiry["entries_left"] <= whole.PROBED


@on_linux
def test_a_short_soak_finds_nothing_wrong(tmp_path: Path) -> None:
    """Ten seconds of everything at once: no wrong answer, exact accounting, no lost update."""
    found = run_quick("soak", tmp_path, "--seconds", "10")
    assert found["wrong"] == []
    assert found["operations"]["increment"] > 0
    assert found["looks"] > 0


def test_a_soak_that_lost_an_increment_says_so() -> None:
    """A counter that isn't the sum of its increments is named."""
    broken = soak.Soak(threads=1, seed=1)
    broken.workers[0].increments["counter-7"] = 1
    with pytest.raises(soak.Wrong, match="counter-7 was incremented 1 times and is 0"):
        broken.settle()


def test_a_soak_in_which_a_version_falls_says_so() -> None:
    """A version that a thread has seen never falls, and a write's is never one that was there."""
    worker = soak.Soak(threads=1, seed=1).workers[0]
    worker._note("mixed-0", "key", 7)
    worker._note("mixed-0", "key", 7, again=True)
    with pytest.raises(soak.Wrong, match="had version 7, and then 7"):
        worker._note("mixed-0", "key", 7)
    with pytest.raises(soak.Wrong, match="had version 7, and then 6"):
        worker._note("mixed-0", "key", 6, again=True)


def test_growth_compares_the_halves_after_the_warm_up() -> None:
    """What was resident in the first quarter doesn't count."""
    seen = soak.Seen(rss=[(second, 10 if second < 25 else 100) for second in range(62)])
    seen.rss += [(second, 120) for second in range(63, 100)]
    assert soak.grown(seen, 100) == pytest.approx(0.2)
    assert soak.grown(soak.Seen(), 100) is None


def test_the_slowest_are_kept_in_order() -> None:
    """Of many the longest stay, the longest of all the last."""
    slowest = Slowest()
    for number in range(100):
        slowest.add(number / 1000, 0.0)
    assert slowest.most == 0.099
    assert [seconds for seconds, _ in slowest.longest] == [n / 1000 for n in range(80, 100)]


def test_waits_in_between_are_told_apart() -> None:
    """The longest wait is that of the time in question, as the bound of its bucket."""
    before, longer, shorter = Histogram(), [0] * 22, [0] * 22
    longer[10] = 1
    shorter[3] = 2
    earlier = before + Histogram(1, 0.001, tuple(longer))
    later = earlier + Histogram(2, 0.00001, tuple(shorter))
    assert longest_bucket(since(later, earlier)) == pytest.approx(8e-6)
    assert longest_bucket(TimedLock().statistics().waits) == 0
