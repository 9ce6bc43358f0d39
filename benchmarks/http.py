"""The HTTP benchmark: our server and its peers, side by side on loopback.

    .venv-bench/bin/python -m benchmarks.http [--quick] [--only CASE ...] [--subjects NAME ...] \
        [--before REVISION]

Prints a table for each case and the targets, and writes http.json, http.png and http.svg. Subjects
that are not installed are left out and named. A figure of which one run had a wrong or missing answer
is none: it is told, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import math
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import report
from benchmarks.cases import CASES, QUICK, Case
from benchmarks.copies import CopyError, compile_copy, copy_revision
from benchmarks.generator import CompilerError, Generator, build
from benchmarks.inprocess import machine, parser, write_json
from benchmarks.measure import Benchmark, Plan, say
from benchmarks.peers import BEFORE, ROOT, SUBJECTS, Subject, before

_FULL: Final = Plan(rounds=5, seconds=1.0, warmup=0.25, latency_seconds=4.0, quick=False)
_QUICK: Final = Plan(rounds=1, seconds=0.3, warmup=0.1, latency_seconds=0.5, quick=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for; return the exit status."""
    given = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that subjects are stopped
    with tempfile.TemporaryDirectory(prefix="cacheserver-bench-") as name:
        folder = Path(name)
        try:
            generator = Generator(build(folder))
        except CompilerError as error:
            say(str(error))
            return 1
        benchmark = Benchmark(generator, _plan(given), folder)
        subjects = _subjects(given)
        if given.before:
            try:
                subjects.append(_before(given.before, folder / BEFORE))
            except CopyError as error:
                say(str(error))
                return 1
        result = measure_all(benchmark, _cases(given), subjects, _plan(given))
    say(f"wrote {write_json(given.output, 'http.json', result)}")
    _plot(result, given.output)
    return int(any(case["invalid"] for case in result["cases"].values()))


def measure_all(
    benchmark: Benchmark, cases: Sequence[Case], subjects: Sequence[Subject], plan: Plan
) -> dict[str, Any]:
    """Measure and print; return what goes into the JSON."""
    found = [subject for subject in subjects if subject.find()]
    result: dict[str, Any] = {
        "benchmark": "http",
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "revision": _revision(),
        "machine": machine(),
        "plan": dataclasses.asdict(plan),
        "subjects": {
            subject.name: {
                "title": subject.title,
                "version": subject.version(),
                "note": subject.note,
            }
            for subject in found
        },
        "missing": {s.name: s.why_missing() for s in subjects if s not in found},
        "cases": {},
    }
    report.print_head(result)
    for case in cases:
        result["cases"][case.name] = benchmark.measure(case, found)
        report.print_case(result["cases"][case.name])
    result["targets"] = report.judge_targets(result["cases"])
    report.print_targets(result["targets"])
    return result


def _parser() -> argparse.ArgumentParser:
    made = parser("Measure our server and its peers over HTTP, side by side on loopback.")
    names = [case.name for case in CASES]
    made.add_argument("--only", nargs="+", choices=names, metavar="CASE", help=" ".join(names))
    names = [subject.name for subject in SUBJECTS]
    made.add_argument("--subjects", nargs="+", choices=names, metavar="NAME", help=" ".join(names))
    made.add_argument(
        "--before", metavar="REVISION", help="measure our server of that revision, too"
    )
    made.add_argument("--rounds", type=_positive(int), metavar="N", help=f"default: {_FULL.rounds}")
    made.add_argument(
        "--seconds",
        type=_positive(float),
        metavar="S",
        help=f"of one measurement; default: {_FULL.seconds:g}",
    )
    return made


def _positive[T: (int, float)](kind: type[T]) -> Any:
    def parse(text: str) -> T:
        value = kind(text)
        if not 0 < value < math.inf:
            raise ValueError
        return value

    parse.__name__ = "positive number"  # as argparse words its error
    return parse


def _plan(given: argparse.Namespace) -> Plan:
    plan = _QUICK if given.quick else _FULL
    return dataclasses.replace(
        plan, rounds=given.rounds or plan.rounds, seconds=given.seconds or plan.seconds
    )


def _cases(given: argparse.Namespace) -> list[Case]:
    wanted = given.only or (QUICK if given.quick else [case.name for case in CASES])
    return [case for case in CASES if case.name in wanted]


def _subjects(given: argparse.Namespace) -> list[Subject]:
    return [s for s in SUBJECTS if given.subjects is None or s.name in given.subjects]


def _before(revision: str, folder: Path) -> Subject:
    folder.mkdir()
    copy_revision(revision, folder)
    compile_copy(folder)
    return before(revision, folder)


def _revision() -> str | None:
    """Return the commit that was measured, None where this is no checkout."""
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None


def _plot(result: dict[str, Any], folder: Path) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        say("no plot: matplotlib is not installed here; make bench runs where it is")
        return
    from benchmarks.plot import draw

    for path in draw(result, folder):
        say(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
