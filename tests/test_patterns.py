"""The program that measures the patterns: what it counts adds up, and what it prints is whole."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from cacheserver.patterns import counters, locks, maps, measure, updates, waiting
from cacheserver.patterns.__main__ import main
from cacheserver.patterns.measure import Case, Loop, Row, repeat, run_threads, thread_counts
from cacheserver.patterns.references import _ReferenceTrial
from cacheserver.patterns.sections import SECTIONS
from cacheserver.store.atomics import LockedReference
from tests.support.server import ROOT

QUICK = ["--seconds", "0.0002", "--rounds", "1"]
EXAMPLES = re.findall(
    r"^```python\n(.*?)^```",
    (ROOT / "docs/patterns.md").read_text(encoding="utf-8"),
    re.MULTILINE | re.DOTALL,
)


SHARES = ("waited", "wait_share", "missed", "gave_up", "lost")
"""Figures that are shares of a whole."""


class CountingTrial:
    """Does nothing, and remembers who prepared."""

    def __init__(self) -> None:
        self.prepared: list[int] = []

    def prepare(self, worker: int) -> Loop:
        self.prepared.append(worker)
        return lambda _seconds: (10, 0.5)

    def figures(self, operations: int, seconds: float) -> dict[str, float]:
        return {"operations": operations, "seconds": seconds}


def row(
    section: str, subject: str, setting: str, threads: int, *samples: float, **figures: float
) -> Row:
    """A row as if measured."""
    case = Case(section, subject, setting, threads, CountingTrial)
    return Row(case, list(samples), {name: [value] for name, value in figures.items()})


# Measuring


def test_sample_is_the_time_that_an_operation_takes_a_thread() -> None:
    """Two threads that each do ten operations in half a second need 50 ms for one."""
    trials: list[CountingTrial] = []

    def make() -> CountingTrial:
        trials.append(CountingTrial())
        return trials[-1]

    (found,) = measure.measure([Case("s", "subject", "", 2, make)], rounds=3, seconds=0.001)
    assert found.nanoseconds == [pytest.approx(50e6)] * 3
    assert (found.figure("operations"), found.figure("seconds")) == (20, 1.0)
    assert [sorted(trial.prepared) for trial in trials] == [[0, 1]] * 3


def test_samples_are_taken_in_turn() -> None:
    """A round has one sample of each case, before any case has its next."""
    made: list[str] = []

    def case(name: str) -> Case:
        def make() -> CountingTrial:
            made.append(name)
            return CountingTrial()

        return Case("s", name, "", 1, make)

    rounds: list[int] = []
    measure.measure([case("a"), case("b")], rounds=2, seconds=0.001, progress=rounds.append)
    assert made == ["a", "b", "a", "b"]
    assert rounds == [0, 1]


def test_row_tells_median_and_best() -> None:
    """The best sample is the shortest."""
    found = row("s", "subject", "", 1, 5, 1, 3, waited=0.25)
    assert (found.median, found.best, found.figure("waited")) == (3, 1, 0.25)
    assert found.as_json()["nanoseconds"] == {"median": 3, "best": 1, "samples": [5, 1, 3]}


def test_thread_that_fails_fails_the_measurement() -> None:
    """Nobody waits for ever for one that could not prepare."""

    def prepare(worker: int) -> Loop:
        if worker:
            raise ZeroDivisionError
        return repeat(lambda: None)

    with pytest.raises(ZeroDivisionError):
        run_threads(2, prepare, 0.001)


def test_loop_works_for_the_time_it_is_given() -> None:
    """It does at least one batch, tells how many, and does not stop before the time is up."""
    calls: list[None] = []
    operations, elapsed = repeat(lambda: calls.append(None))(0.002)
    assert operations == len(calls) >= measure.BATCH
    assert elapsed >= 0.002


@pytest.mark.parametrize(
    ("most", "counts"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])]
)
def test_thread_counts_are_powers_of_two_and_the_most(most: int, counts: list[int]) -> None:
    """Each doubling is measured, and what was asked for."""
    assert thread_counts(most) == counts


def test_spin_takes_longer_for_longer() -> None:
    """The work is counted in turns of a loop, at least one unless there is to be none."""
    assert measure.spins_for(0) == 0
    assert 1 <= measure.spins_for(1) < measure.spins_for(1000)


# The sections


@pytest.mark.parametrize("name", SECTIONS)
def test_section_counts_add_up(name: str) -> None:
    """Each section runs with one thread and with two; what the subjects counted is what was done."""
    cases = SECTIONS[name].cases([1, 2])
    assert {case.section for case in cases} == {name}
    assert {case.threads for case in cases} == {1, 2}
    rows = measure.measure(cases, rounds=1, seconds=0.0002)
    assert all(found.median > 0 for found in rows)
    lines = [line for line in SECTIONS[name].report(rows).splitlines() if line.startswith("|")]
    assert len(lines) > 2
    assert len({line.count("|") for line in lines}) == 1
    for found in rows:
        for share in SHARES:
            assert 0 <= found.figures.get(share, [0])[0] <= 1, (found.case, share)


def test_one_thread_never_waits() -> None:
    """Where nobody else is there is nothing to wait for and nothing to lose; all have a table."""
    cases = [case for name in SECTIONS for case in SECTIONS[name].cases([1])]
    rows = measure.measure(cases, rounds=1, seconds=0.0002)
    for name, section in SECTIONS.items():
        assert section.report([found for found in rows if found.case.section == name])
    for found in rows:
        for share in SHARES:
            assert found.figures.get(share, [0])[0] == 0, found.case


@pytest.mark.parametrize(
    "trial",
    [
        pytest.param(lambda: locks._WaitTrial(total=1), id="increment under a lock"),
        pytest.param(lambda: counters._AddTrial(counters._Unprotected(), False), id="counter"),
        pytest.param(lambda: updates._UpdateTrial(1, 0, False), id="update"),
        pytest.param(lambda: _ReferenceTrial(LockedReference((1,)), True), id="reference"),
    ],
)
def test_sums_that_do_not_add_up_are_an_error(trial: Callable[[], measure.Trial]) -> None:
    """A subject that lost something gives no figures."""
    with pytest.raises(RuntimeError):
        trial().figures(5, 1.0)


def test_waits_are_summed_up() -> None:
    """Shares, percentiles and the longest come from the waits of all threads."""
    trial = locks._WaitTrial(total=1000, waits=[[1_000] * 50, [3_000] * 49 + [9_000_000]])
    assert trial.figures(1000, 0.1) == {
        "waited": 0.1,
        "wait_share": pytest.approx(0.09197),
        "wait_median_us": 3.0,
        "wait_p99_us": 9_000.0,
        "wait_longest_us": 9_000.0,
    }


def test_stripes_report_says_who_waited() -> None:
    """A cell has the median, the best and the share of the puts that waited."""
    rows = [row(maps.STRIPES, "put", "4", 2, 1500.4, 1400, 1600, waited=0.0123)]
    assert "1,500 (1,400), 1.23% waited" in maps.stripes_report(rows)


def test_counters_report_says_what_was_lost() -> None:
    """The losses are those of the most threads."""
    rows = [
        row(counters.NAME, counters.UNPROTECTED, counters.ADD, 1, 100, lost=0),
        row(counters.NAME, counters.UNPROTECTED, counters.ADD, 2, 100, lost=0.5),
    ]
    assert "2 threads lost 50.00% of the additions" in counters.report(rows)


def test_updates_report_compares_both_ways() -> None:
    """The last column is how much longer the optimistic way takes."""
    rows = [
        row(updates.NAME, updates.OPTIMISTIC, "4 10", 2, 3000, missed=0.2, gave_up=0),
        row(updates.NAME, updates.LOCKED, "4 10", 2, 1500, missed=0.1, gave_up=0),
    ]
    last = updates.report(rows).splitlines()[-1]
    cells = [cell.strip() for cell in last.strip("|").split("|")]
    assert cells == [
        *("2", "4", "10", "20.00%", "0.000%", "10.00%"),
        *("3.00 (3.00)", "1.50 (1.50)", "2.00"),
    ]


@pytest.mark.parametrize(
    ("shares", "crossing"),
    [
        ([0.5, 0.2, 0.05, 0.01, 0, 0, 0], "4"),
        ([0.05, 0.2, 0.05, 0.01, 0, 0, 0], "4"),
        ([0.05, 0.04, 0.03, 0.02, 0, 0, 0], "1"),
        ([0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.1], "more"),
    ],
)
def test_waiting_report_says_where_the_limit_is_crossed(shares: list[float], crossing: str) -> None:
    """It is the number of stripes from which on the share stays below a tenth."""
    rows = [row(waiting.NAME, "2", "1", 1, 1000, wait_share=0)] + [
        row(waiting.NAME, "2", str(stripes), 2, 1500, wait_share=share)
        for stripes, share in zip(waiting.STRIPES, shares, strict=True)
    ]
    last = waiting.report(rows).split("\n\n")[0].splitlines()[-1]
    cells = [cell.strip() for cell in last.strip("|").split("|")]
    assert cells[0] == "2"
    assert cells[1] == f"{shares[0]:.1%}, 1.50x"
    assert cells[-1] == crossing


# The program


def test_program_prints_every_section_and_writes_its_samples(tmp_path: Path) -> None:
    """Run as a user runs it, it prints a table a section, and JSON has every sample."""
    output = tmp_path / "patterns.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "cacheserver.patterns", *QUICK),
            *("--threads", "2", "--output", str(output)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    titles = re.findall(r"^## (.+)$", done.stdout, re.MULTILINE)
    assert titles == [section.title for section in SECTIONS.values()]
    assert "round 1 of 1" in done.stderr
    result = json.loads(output.read_text(encoding="utf-8"))
    assert result["settings"] == {"threads": [1, 2], "rounds": 1, "seconds": 0.0002}
    assert len(result["rows"]) == sum(len(s.cases([1, 2])) for s in SECTIONS.values())
    assert all(len(each["nanoseconds"]["samples"]) == 1 for each in result["rows"])


def test_program_measures_what_it_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """With --only the other sections are left out."""
    assert main([*QUICK, "--threads", "1", "--only", "waits"]) == 0
    assert re.findall(r"^## (.+)$", capsys.readouterr().out, re.MULTILINE) == [
        SECTIONS["waits"].title
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--threads", "0"], "whole number from 1 to 256, not '0'"),
        (["--threads", "257"], "whole number from 1 to 256"),
        (["--threads", "two"], "not 'two'"),
        (["--rounds", "0"], "whole number from 1 to 1000"),
        (["--seconds", "0"], "seconds above 0 and at most 10, not '0'"),
        (["--seconds", "-1"], "seconds above 0"),
        (["--seconds", "nan"], "seconds above 0"),
        (["--seconds", "soon"], "not 'soon'"),
        (["--only", "colours"], "locks"),
        (["--output", "/nowhere/at/all.json"], "there is no folder /nowhere/at"),
        (["--plot", "plot.txt"], "writes .png or .svg, not 'plot.txt'"),
        (["--frobnicate"], "--frobnicate"),
    ],
)
def test_program_says_what_is_wrong_with_its_arguments(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bad argument ends it with status 2 and a line that says what would be right."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.skipif(find_spec("matplotlib") is not None, reason="matplotlib is installed")
def test_program_needs_matplotlib_for_a_plot(capsys: pytest.CaptureFixture[str]) -> None:
    """Without it --plot is refused before anything is measured."""
    with pytest.raises(SystemExit):
        main(["--plot", "plot.png"])
    assert "needs matplotlib" in capsys.readouterr().err


def test_program_draws_where_there_is_matplotlib(tmp_path: Path) -> None:
    """The benchmarks' environment, where it is there, draws every panel."""
    python = ROOT / ".venv-bench/bin/python"
    if not python.exists():
        pytest.skip("there is no .venv-bench: make bench-patterns makes it")
    path = tmp_path / "patterns.png"
    arguments: list[Any] = [python, "-m", "cacheserver.patterns", *QUICK, "--threads", "2"]
    done = subprocess.run(
        [*arguments, "--plot", path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert path.read_bytes().startswith(b"\x89PNG")


# The page


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_examples_of_the_page_run(number: int) -> None:
    """Each example in docs/patterns.md runs by itself, and what it asserts is true."""
    exec(compile(EXAMPLES[number], f"docs/patterns.md, example {number + 1}", "exec"), {})  # noqa: S102


def test_page_has_an_example_of_every_pattern() -> None:
    """Each class that the page is about is used in one of its examples."""
    names = {
        *("LockedCounter", "ShardedCounter", "AtomicReference", "OptimisticDict"),
        *("StripedDict", "RWCache", "TimedLock"),
    }
    assert [name for name in sorted(names) if not any(name in each for each in EXAMPLES)] == []
