"""Puts what was measured into words: tables on standard output, and the targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from benchmarks.cases import CASES, TARGETS, Case, Target
from benchmarks.inprocess import describe, table, target, target_table
from benchmarks.measure import PERCENTILES
from benchmarks.peers import BEFORE, OURS, SUBJECTS

TITLES: Final = {
    **{subject.name: subject.title for subject in SUBJECTS},
    BEFORE: f"cacheserver, {BEFORE}",
}
_BUSY: Final = 0.9
"""Share of a CPU above which the generator may be what limits the rate."""


def print_head(result: Mapping[str, Any]) -> None:
    """Say what is measured, on what, and who is not there."""
    plan = result["plan"]
    print(f"# HTTP benchmark: {describe(result['machine'])}\n")
    print(
        f"All of it on loopback, on these {result['machine']['cpus']} CPUs: the load generator, one "
        f"thread, takes up to one of them. Medians (lowest-highest) of {rounds_in_words(plan)}; "
        "subjects alternate within a round. CPU is user and system "
        "time of the server's processes over answered requests. Ratios are of medians.\n"
    )
    for name, subject in result["subjects"].items():
        print(f"- {TITLES[name]} {subject['version']}: {subject['note']}")
    for name, reason in result["missing"].items():
        print(f"- left out: {TITLES[name]}: {reason}")
    print(flush=True)


def print_case(case: Mapping[str, Any]) -> None:
    """Print one case as it stands in the JSON."""
    print(f"## {case['name']}: {description(case)}\n")
    if case["is_latency"]:
        _print_latency(case)
    else:
        _print_cost(case)
    for name, reasons in case["invalid"].items():
        print(f"INVALID {TITLES[name]}: {len(reasons)} of its runs: {reasons[0]}")
    print(flush=True)


def print_targets(targets: list[dict[str, Any]]) -> None:
    """Print what was aimed at and what came of it, of the cases that were measured."""
    if not targets:
        return
    print("## Targets: our median over theirs\n")
    print(target_table(targets), flush=True)


def description(case: Mapping[str, Any]) -> str:
    """A case of the JSON in words."""
    words = Case(**{name: case[name] for name in Case.__dataclass_fields__}).description
    return f"{words}, latency at a constant rate" if case["is_latency"] else words


def _print_cost(case: Mapping[str, Any]) -> None:
    head = ["subject", "CPU us/request", "requests/s"]
    ours = [name for name in OURS if name in case["ratios"]]
    head += [f"{_threads(name)} / it, {figure}" for name in ours for figure in ("CPU", "rate")]
    rows = []
    for name, result in case["results"].items():
        busy = " *" if result["generator_share"]["median"] > _BUSY else ""
        stand_in = case["stand_ins"].get(name)
        title = f"{TITLES[name]}: a plain {stand_in}" if stand_in else TITLES[name]
        row = [title, spread_in_words(result["cpu_us"], 1)]
        row.append(spread_in_words(result["rate"], 0) + busy)
        for subject in ours:
            found = case["ratios"][subject].get(name)
            row += [f"{found[f]:.2f}" if found else "" for f in ("cpu_us", "rate")]
        rows.append(row)
    if rows:
        print(table(head, rows))
    for name, plain in case["plain"].items():
        print(
            f"{TITLES[name]}, in turns with this: {_plain_in_words(case)}: "
            f"{spread_in_words(plain['cpu_us'], 1)} us; this takes {plain['over']:.2f} of it"
        )
    if any(row[2].endswith("*") for row in rows):
        print(f"* The generator took over {_BUSY:.0%} of a CPU, and may be what limits this rate.")


def _print_latency(case: Mapping[str, Any]) -> None:
    head = ["subject", "maximum/s"]
    rows = [[TITLES[n], spread_in_words(r["rate"], 0)] for n, r in case["maxima"].items()]
    if rows:
        print(table(head, rows))
    for rate, found in case["at"].items():
        print(f"\nus at {rate_in_words(rate)}:\n")
        if found["results"]:
            _print_percentiles(found["results"])
        for name, words in found["fell_behind"].items():
            print(f"{TITLES[name]} fell behind: {words}")


def _print_percentiles(results: Mapping[str, Any]) -> None:
    rows = [
        [
            TITLES[name],
            f"{result['intended_rate']:,.0f}",
            *(spread_in_words(result[p], 0) for p in PERCENTILES),
            spread_in_words(result["generator_lag_p99"], 0),
        ]
        for name, result in results.items()
    ]
    print(table(["subject", "rate/s", *PERCENTILES, "generator late, p99"], rows))


def rate_in_words(rate: str) -> str:
    """`half of their own maximum`, `half of the maximum of cacheserver, 1 thread`."""
    if rate == "own half":
        return "half of their own maximum"
    return f"half of the maximum of {TITLES[rate.removeprefix('half of ')]}"


def rounds_in_words(plan: Mapping[str, Any]) -> str:
    """`5 rounds of 1 s (latency: 4 s)`."""
    rounds = plan["rounds"]
    return (
        f"{rounds} round{'s' * (rounds > 1)} of {plan['seconds']:g} s "
        f"(latency: {plan['latency_seconds']:g} s)"
    )


def _threads(ours: str) -> str:
    return TITLES[ours].rpartition(", ")[2]


def spread_in_words(spread: Mapping[str, Any], digits: int) -> str:
    """`12.3 (11.9-13.0)`."""
    median, low, high = (f"{spread[part]:,.{digits}f}" for part in ("median", "min", "max"))
    return f"{median} ({low}-{high})"


# ---- targets ----


def judge_targets(cases: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Hold the cases that were measured against the targets, for each number of threads."""
    return [
        target(
            f"{_target_in_words(wanted)}: {TITLES[ours]}",
            _value(wanted, ours, cases[wanted.case]),
            wanted.must,
            wanted.dream,
            at_most=True,
        )
        for wanted in TARGETS
        if wanted.case in cases
        for ours in wanted.ours
    ]


def _plain_in_words(case: Mapping[str, Any]) -> str:
    return Case(**{name: case[name] for name in Case.__dataclass_fields__}).plain.description


def _target_in_words(wanted: Target) -> str:
    case = next(case for case in CASES if case.name == wanted.case)
    if wanted.peer is None:
        return f"CPU, {case.description}, against our own {case.plain.title}"
    if wanted.figure == "cpu_us":
        return f"CPU, {case.description}, against {TITLES[wanted.peer]}"
    return f"{wanted.figure} at half our maximum, {case.description}, against {TITLES[wanted.peer]}"


def _value(wanted: Target, ours: str, case: Mapping[str, Any]) -> float | None:
    """Return the ratio; None where one of the two has no valid figure."""
    if wanted.peer is None:
        plain = case["plain"].get(ours)
        return float(plain["over"]) if plain else None
    if case["is_latency"]:
        case = case["at"].get(f"half of {ours}", {"results": {}})
    figures = case["results"]
    if ours not in figures or wanted.peer not in figures:
        return None
    mine, theirs = (figures[name][wanted.figure]["median"] for name in (ours, wanted.peer))
    return float(mine / theirs)
