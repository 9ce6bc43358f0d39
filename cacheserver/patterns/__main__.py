"""`python -m cacheserver.patterns`: measure, and print Markdown tables."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from cacheserver.patterns.measure import (
    Row,
    describe,
    machine,
    measure,
    thread_counts,
    usable_cpus,
)
from cacheserver.patterns.sections import SECTIONS, of_section

MAX_THREADS: Final = 256
MAX_SECONDS: Final = 10.0
MAX_ROUNDS: Final = 1000


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as the arguments say, print the tables, write the files; return the exit status."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    _refuse_unusable(parser, chosen)
    threads = thread_counts(chosen.threads)
    names = [name for name in SECTIONS if not chosen.only or name in chosen.only]
    found = machine()
    rows = measure(
        [case for name in names for case in SECTIONS[name].cases(threads)],
        rounds=chosen.rounds,
        seconds=chosen.seconds,
        progress=lambda number: _say(f"round {number + 1} of {chosen.rounds}"),
    )
    settings = {"threads": threads, "rounds": chosen.rounds, "seconds": chosen.seconds}
    print(_report(found, settings, names, rows))
    if chosen.output is not None:
        result = {"machine": found, "settings": settings, "rows": [row.as_json() for row in rows]}
        chosen.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        _say(f"wrote {chosen.output}")
    if chosen.plot is not None:
        from cacheserver.patterns import plot

        plot.draw(rows, describe(found), chosen.plot)
        _say(f"wrote {chosen.plot}")
    return 0


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m cacheserver.patterns",
        description="Measure the locking patterns on this interpreter and print Markdown tables.",
    )
    made.add_argument(
        "--threads",
        type=_whole(1, MAX_THREADS),
        default=len(usable_cpus()),
        metavar="N",
        help="measure with 1, 2, 4 ... and N threads; default: the usable CPUs (%(default)s)",
    )
    made.add_argument(
        "--seconds",
        type=_seconds,
        default=0.03,
        metavar="S",
        help="length of one sample; default: %(default)s",
    )
    made.add_argument(
        "--rounds",
        type=_whole(1, MAX_ROUNDS),
        default=12,
        metavar="N",
        help="samples of each case, taken in turn; default: %(default)s",
    )
    made.add_argument(
        "--only",
        action="append",
        choices=list(SECTIONS),
        metavar="SECTION",
        help=f"measure this section alone; may be repeated: {', '.join(SECTIONS)}",
    )
    made.add_argument("--output", type=Path, metavar="FILE", help="write all samples as JSON")
    made.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw a plot, PNG or SVG; needs matplotlib"
    )
    return made


def _whole(least: int, most: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(
                f"must be a whole number from {least} to {most}, not {text!r}"
            )
        return number

    return whole


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= MAX_SECONDS:
        raise argparse.ArgumentTypeError(
            f"must be seconds above 0 and at most {MAX_SECONDS:g}, not {text!r}"
        )
    return number


def _refuse_unusable(parser: argparse.ArgumentParser, chosen: Any) -> None:
    """End with a clear line before anything is measured, not after."""
    for path in (chosen.output, chosen.plot):
        if path is not None and not path.absolute().parent.is_dir():
            parser.error(f"cannot write {path}: there is no folder {path.absolute().parent}")
    if chosen.plot is not None:
        if chosen.plot.suffix not in {".png", ".svg"}:
            parser.error(f"--plot writes .png or .svg, not {chosen.plot.name!r}")
        if find_spec("matplotlib") is None:
            parser.error("--plot needs matplotlib, which is not installed here")


def _report(
    found: dict[str, Any], settings: dict[str, Any], names: Sequence[str], rows: Sequence[Row]
) -> str:
    load = found["load_average"]
    head = (
        f"{describe(found)}.\n"
        f"{settings['rounds']} samples of {settings['seconds']:g} s each, taken in turn, a thread "
        "bound to a CPU; how long one operation takes a thread: the median, and the best in brackets."
        + (f" Load average before the start: {load:.2f}." if load is not None else "")
    )
    parts = [
        f"## {SECTIONS[name].title}\n\n{SECTIONS[name].report(of_section(rows, name))}"
        for name in names
    ]
    return "\n\n".join([head, *parts])


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
