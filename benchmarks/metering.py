"""What it costs to measure: our server with everything on, beside one that counts and times nothing.

    make bench-metering ARGS="--rounds 31"

There is no switch to turn the measuring off, since nobody should want one. So the other server runs from a
copy of the package that was compiled anew without the lines that count, time and sample a request, and
without the thread that collects figures each second. Which lines these are, the sources say:

    hits += 1  # metering

    # metering: begin
    if spent > bound:
        self.tell(spent)
    # metering: instead: self.pay(spent)
    # metering: end

The line is cut, and so is all between the last two marks, but for what follows `instead:`, which then
stands there. Both servers have the same load in turns. With everything on means: metrics are
scraped every 5 seconds and the live page is open all the time, too.

Exits with 1 where measuring takes more of the CPU time of a GET than BOUND allows.
"""

from __future__ import annotations

import argparse
import http.client
import re
import statistics
import sys
import tempfile
import threading
from collections.abc import Generator as Iterating
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks import peers
from benchmarks.cases import CASES, Case
from benchmarks.copies import CopyError, compile_copy, copy_here
from benchmarks.generator import CompilerError, Generator, build
from benchmarks.inprocess import machine, parser, spread, target, target_table, write_json
from benchmarks.measure import say
from benchmarks.peers import PeerError, Place, Running, Subject, from_copy, running

BOUND: Final = 1.03
"""CPU time of a GET with everything on over that with nothing on, at most."""
DREAM: Final = 1.01
MEASURED: Final = ("get", "get-pipelined", "put", "cas")
"""Names of the cases; the first is what BOUND is for."""
SCRAPE_EVERY: Final = 5.0


_LINE: Final = re.compile(r"\S.*#\s*metering\s*$")
_BEGIN: Final = re.compile(r"^\s*#\s*metering: begin\s*$")
_INSTEAD: Final = re.compile(r"^(\s*)#\s*metering: instead: (.+)$")
_END: Final = re.compile(r"^\s*#\s*metering: end\s*$")
_MARK: Final = re.compile(r"#\s*metering\b")
_SOURCES: Final = frozenset((".py", ".pyx", ".pxd", ".pxi"))


def without_metering(text: str, name: str = "text") -> str:
    """Return source code without the lines that its marks say measure.

    ValueError, which tells the name and the line, where a mark can't be understood: a block that has no
    end or no beginning, or a comment that begins like a mark and is none.
    """
    kept: list[str] = []
    begun = 0
    for number, line in enumerate(text.splitlines(), 1):
        if begun and (instead := _INSTEAD.match(line)):
            kept.append(instead[1] + instead[2])
        elif begun and _END.match(line):
            begun = 0
        elif not begun and _BEGIN.match(line):
            begun = number
        elif not (begun or _MARK.search(line)):
            kept.append(line)
        elif _MARK.search(line) and (begun or not _LINE.search(line)):
            raise ValueError(
                f"{name}, line {number}: a mark that means nothing here: {line.strip()}"
            )
    if begun:
        raise ValueError(f"{name}, line {begun}: what begins here has no end")
    return "".join(f"{line}\n" for line in kept)


def cut_out(package: Path) -> int:
    """Take what measures out of a copy of the package; return how many files were changed.

    ValueError where no line at all is marked.
    """
    changed = 0
    for path in sorted(package.rglob("*")):
        if path.suffix in _SOURCES and _MARK.search(text := path.read_text(encoding="utf-8")):
            path.write_text(without_metering(text, path.name), encoding="utf-8")
            changed += 1
    if not changed:
        raise ValueError(f"no line in {package} is marked as one that measures")
    thread = package / "insight" / "history.py"
    thread.write_text(
        thread.read_text(encoding="utf-8") + "\n\nRecord.tick = lambda self: 3600.0\n",
        encoding="utf-8",
    )
    return changed


def _without(python: str, place: Place) -> list[str]:
    """Start the server from a copy that measures nothing."""
    try:
        cut_out(copy_here(place.folder))
        compile_copy(place.folder)
    except (ValueError, CopyError) as error:
        raise PeerError(f"no copy that measures nothing: {error}") from error
    return from_copy(place.folder)(python, place)


def _subject(name: str, title: str, command: peers.Command) -> Subject:
    return Subject(
        name=name,
        title=title,
        note="serve --threads 1",
        program="cacheserver",
        command=command,
        port_from_log=True,
    )


_ON: Final = next(subject for subject in peers.SUBJECTS if subject.name == "cacheserver").command
SUBJECTS: Final = (
    _subject("off", "nothing measured", _without),
    _subject("on", "measured", _ON),
    _subject("watched", "measured, scraped and watched", _ON),
)


@contextmanager
def watched(server: Running) -> Iterating[None]:
    """Scrape the metrics again and again and follow the events of the page, as long as the block runs."""
    ended = threading.Event()
    failures: list[Exception] = []

    def guarded(work: Any) -> threading.Thread:
        def run() -> None:
            try:
                work()
            except Exception as error:
                failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)) as page:
        page.request("GET", "/ui/events")
        events = page.getresponse()

        def follow() -> None:
            while not ended.is_set() and events.readline():
                pass

        def scrape() -> None:
            with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)) as each:
                while not ended.wait(SCRAPE_EVERY):
                    each.request("GET", "/metrics")
                    if each.getresponse().read().count(b"\n") < 100:
                        raise PeerError("a scrape gave next to nothing")

        threads = [guarded(follow), guarded(scrape)]
        try:
            yield
        finally:
            ended.set()
            for thread in threads:
                thread.join()
    if failures:
        raise failures[0]


def measure(generator: Generator, case: Case, rounds: int, seconds: float) -> dict[str, Any]:
    """Return CPU microseconds a request of each subject, and the ratios to the one that measures nothing."""
    samples: dict[str, list[float]] = {subject.name: [] for subject in SUBJECTS}
    with ExitStack() as stack:
        servers = [stack.enter_context(running(subject)) for subject in SUBJECTS]
        for server in servers:
            filled = generator.fill(server, case)
            if filled.invalid:
                raise PeerError(filled.invalid)
        stack.enter_context(watched(servers[-1]))
        for number in range(rounds):
            turn = number % len(servers)
            for server in (*servers[turn:], *servers[:turn]):
                run = generator.run(server, case, seconds=seconds, warmup=0.25)
                if run.invalid:
                    raise PeerError(f"{server.subject.title}: {run.invalid}")
                samples[server.subject.name].append(run.cpu_us)
    off = samples["off"]
    return {
        "cpu_us": {name: spread(those) for name, those in samples.items()},
        "over_off": {
            name: statistics.median(each / base for each, base in zip(those, off, strict=True))
            for name, those in samples.items()
        },
    }


def targets(cases: dict[str, Any]) -> list[dict[str, Any]]:
    """Hold the cases against what measuring may cost; the exit status is that of the first."""
    return [
        target(
            f"CPU, {name}, everything measured over nothing measured",
            case["over_off"]["watched"],
            BOUND,
            DREAM,
            at_most=True,
        )
        for name, case in cases.items()
    ]


def main() -> int:
    """Measure and print; return the exit status."""
    given = _parser().parse_args()
    rounds = 2 if given.quick else given.rounds
    seconds = 0.3 if given.quick else given.seconds
    result: dict[str, Any] = {"benchmark": "metering", "machine": machine(), "cases": {}}
    with tempfile.TemporaryDirectory(prefix="cacheserver-bench-") as folder:
        try:
            generator = Generator(build(Path(folder)))
            for case in (case for case in CASES if case.name in MEASURED):
                result["cases"][case.name] = measure(generator, case, rounds, seconds)
        except (CompilerError, PeerError) as error:
            say(str(error))
            return 1
    print(
        "| load | subject | CPU us a request | over nothing measured |\n| --- | --- | --- | --- |"
    )
    for name, case in result["cases"].items():
        for subject in SUBJECTS:
            figures = case["cpu_us"][subject.name]
            over = case["over_off"][subject.name]
            print(f"| {name} | {subject.title} | {figures['median']:.2f} | {over:.3f} |")
    result["targets"] = targets(result["cases"])
    print(f"\n{target_table(result['targets'])}")
    say(f"wrote {write_json(given.output, 'metering.json', result)}")
    return int(not given.quick and result["cases"][MEASURED[0]]["over_off"]["watched"] > BOUND)


def _parser() -> argparse.ArgumentParser:
    made = parser("Measure what measuring costs a GET.")
    made.add_argument("--rounds", type=int, default=21, metavar="N", help="default: 21")
    made.add_argument("--seconds", type=float, default=1.0, metavar="S", help="default: 1")
    return made


if __name__ == "__main__":
    sys.exit(main())
