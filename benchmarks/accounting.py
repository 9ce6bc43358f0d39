"""What the store counts for its entries against what they really take.

    python -m benchmarks.accounting [--full] [--quick] [--rounds N] [--only WORD ...] [--output DIR]

Each case fills one namespace in a process of its own, and holds the bytes that are counted against the
growth of the process's resident memory. It runs on this interpreter and, where the project has one, on
the other kind (with or without the GIL), since allocators differ. Reads /proc, so it needs Linux.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import inprocess
from benchmarks.memory import resident
from cacheserver import Store
from cacheserver.store.entry import COMMON_CONTENT_TYPES, DEFAULT_CONTENT_TYPE

OTHERS: Final = (inprocess.ROOT / ".venv/bin/python", inprocess.ROOT / ".venv-gil/bin/python")
"""Interpreters that are measured too, where they are of another kind than the one that runs this."""
TABLE_BYTES: Final = 100_000_000
"""About so much is kept in each case of the table."""
TABLE_ENTRIES: Final = 200_000
QUICK_BYTES: Final = 5_000_000
"""About so much is kept in each case of a quick run: much beside what an interpreter has in reserve."""
WITHIN: Final = 0.1
"""What is counted may be off by this share of what is taken, in the cases that are targets."""
DAY: Final = 86_400.0
OWN_TYPE: Final = "application/vnd.bench+cbor"
"""A content type that is not one of the common ones."""


@dataclass(frozen=True, slots=True)
class Case:
    """Entries of one kind."""

    entries: int
    value_size: int
    key_size: int = 16
    ttl: float = 0
    content_type: str = DEFAULT_CONTENT_TYPE
    text: str = "ASCII"
    """The characters of keys: ASCII, or beyond it."""
    policy: str = "sieve"
    is_target: bool = False

    @property
    def name(self) -> str:
        """The case in words."""
        parts = [f"{self.entries:,} of {self.value_size:,} B", f"keys of {self.key_size}"]
        if self.text != "ASCII":
            parts.append(f"{self.text} keys")
        if self.ttl:
            parts.append("with TTL")
        if self.content_type != DEFAULT_CONTENT_TYPE:
            parts.append("own content type")
        if self.policy != "sieve":
            parts.append(self.policy)
        return ", ".join(parts)


def _cases() -> list[Case]:
    def sized(value_size: int, **more: Any) -> Case:
        entries = min(TABLE_ENTRIES, TABLE_BYTES // (value_size + 200))
        return Case(entries, value_size, **more)

    sizes = (0, 16, 64, 100, 256, 512, 1000, 1024, 1100, 4096, 16_384, 65_536, 262_144)
    return [
        Case(1_000_000, 64, is_target=True),
        Case(10_000, 65_536, is_target=True),
        *(sized(size) for size in sizes),
        *(sized(size, ttl=DAY) for size in sizes),
        *(sized(64, key_size=size) for size in (8, 40, 100, 1000)),
        sized(64, key_size=16, text="Cyrillic"),
        *(sized(size, content_type=OWN_TYPE) for size in (64, 1100)),
        *(sized(64, policy=policy) for policy in ("lru", "lfu", "s3fifo", "none")),
        *(Case(entries, 64) for entries in (100_000, 200_000, 700_000, 1_400_000, 2_000_000)),
    ]


CASES: Final = _cases()


def key(number: int, case: Case) -> str:
    """Return a key of the wanted length."""
    made = f"{number:0{case.key_size}d}"
    return made if case.text == "ASCII" else chr(0x434) + made[1:]


def fill(case: Case) -> dict[str, int]:
    """Fill a namespace in this process. Returns what is counted, and by how much memory grew."""
    store = Store(max_memory=1 << 40, max_value_size=1 << 30, policy=case.policy)
    other = store.namespace("other").view()  # so that all code has run once
    for number in range(100):
        other.put(key(number, case), b"", 0, case.content_type, None)
        other.read(key(number, case))
    view = store.namespace("bench").view()
    common = case.content_type in COMMON_CONTENT_TYPES
    gc.collect()
    before = _resident()
    for number in range(case.entries):
        # As a request brings them: every object made for this entry alone.
        value = b"%d" % number
        view.put(
            key(number, case),
            value[: case.value_size].ljust(case.value_size, b"."),
            case.ttl,
            case.content_type if common else case.content_type[:1] + case.content_type[1:],
            None,
        )
    counted = store.namespace("bench").statistics().bytes
    return {"taken": _resident() - before, "counted": counted}


def _resident() -> int:
    return resident(os.getpid())["rss"]


def measure(case: Case, interpreter: str) -> dict[str, int]:
    """Fill a namespace in a new process of this interpreter."""
    inside = json.dumps(dataclasses.asdict(case))
    command = [interpreter, "-m", "benchmarks.accounting", "--inside", inside]
    done = subprocess.run(
        command, cwd=inprocess.ROOT, stdout=subprocess.PIPE, encoding="utf-8", check=True
    )
    return dict(json.loads(done.stdout))


def interpreters() -> dict[str, str]:
    """Return this interpreter, and one of the other kind where there is one, by what they are."""
    found = {_kind(sys.executable): sys.executable}
    for other in OTHERS:
        if other.exists():
            found.setdefault(_kind(str(other)), str(other))
    return found


def _kind(interpreter: str) -> str:
    ask = "import sys, platform as p; print(p.python_version(), sys._is_gil_enabled())"
    done = subprocess.run([interpreter, "-c", ask], capture_output=True, text=True, check=True)
    version, gil = done.stdout.split()
    return f"{version} with the GIL" if gil == "True" else f"free-threaded {version}"


def run(cases: Sequence[Case], programs: dict[str, str], rounds: int) -> dict[str, Any]:
    """Measure all cases on all interpreters."""
    rows = []
    for case in cases:
        row: dict[str, Any] = {
            "case": case.name,
            "is_target": case.is_target,
            "entries": case.entries,
        }
        for kind, program in programs.items():
            print(f"{kind}: {case.name}", file=sys.stderr, flush=True)
            found = [measure(case, program) for _ in range(rounds)]
            row[kind] = {
                "taken": inprocess.spread([each["taken"] / case.entries for each in found]),
                "counted": inprocess.spread([each["counted"] / case.entries for each in found]),
            }
        rows.append(row)
    return {
        "benchmark": "accounting",
        "machine": inprocess.machine(),
        "interpreters": list(programs),
        "rows": rows,
        "targets": [
            inprocess.target(
                f"{row['case']}, {kind}: off by", abs(off(row, kind)), WITHIN, 0.02, at_most=True
            )
            for row in rows
            if row["is_target"]
            for kind in programs
        ],
    }


def off(row: dict[str, Any], kind: str) -> float:
    """Return by which share of what is taken more is counted."""
    taken, counted = (float(row[kind][name]["median"]) for name in ("taken", "counted"))
    return counted / taken - 1


def report(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    kinds = result["interpreters"]
    head = ["entries"]
    for kind in kinds:
        head += [f"taken, {kind}", "counted", "off"]
    rows = []
    for row in result["rows"]:
        line = [row["case"]]
        for kind in kinds:
            line += [f"{row[kind][name]['median']:.0f}" for name in ("taken", "counted")]
            line.append(f"{100 * off(row, kind):+.1f} %")
        rows.append(line)
    return "\n\n".join(
        [
            inprocess.describe(result["machine"]),
            "Bytes an entry: by how much resident memory grew, and what is counted.",
            inprocess.table(head, rows),
            inprocess.target_table(result["targets"]),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says. Returns the exit status."""
    parser = inprocess.parser("Hold what the store counts against what it takes.")
    parser.add_argument("--full", action="store_true", help="many more sizes and kinds of entries")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="WORD", help="cases whose name has one of these"
    )
    parser.add_argument(
        "--interpreter", action="append", default=[], help="instead of those that are found"
    )
    parser.add_argument("--inside", metavar="CASE", help="fill it in this process, as JSON tells")
    given = parser.parse_args(arguments)
    if given.inside:
        print(json.dumps(fill(Case(**json.loads(given.inside)))))
        return 0
    if not Path("/proc/self/smaps_rollup").exists():
        parser.error("this reads /proc/PID/smaps_rollup, which only Linux has")
    cases = [
        case
        for case in CASES
        if (any(word in case.name for word in given.only) if given.only else case.is_target)
        or given.full
    ]
    if given.quick:
        cases = [
            dataclasses.replace(
                case, entries=min(case.entries, QUICK_BYTES // (case.value_size + 200))
            )
            for case in cases
            if case.is_target
        ]
    programs = {_kind(program): program for program in given.interpreter} or interpreters()
    result = run(cases, programs, given.rounds)
    print(report(result))
    print(f"\nwritten: {inprocess.write_json(given.output, 'accounting.json', result)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
