"""What it costs to measure: our server with everything on, beside one that counts and times nothing.

    make bench-metering ARGS="--rounds 31"

There is no switch to turn the measuring off, since nobody should want one. So the other server runs from a
copy of the package out of which the lines are cut that count, time and sample a read, and the thread that
collects figures each second. Both serve the same load in turns. With everything on means: metrics are
scraped every 5 seconds and the live page is open all the time, too.

Exits with 1 where measuring takes more of the CPU time of a GET than BOUND allows.
"""

from __future__ import annotations

import argparse
import http.client
import shutil
import statistics
import sys
import tempfile
import threading
from collections.abc import Generator as Iterating
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import peers
from benchmarks.cases import CASES, Case
from benchmarks.generator import CompilerError, Generator, build
from benchmarks.inprocess import machine, parser, spread, write_json
from benchmarks.measure import say
from benchmarks.peers import PeerError, Place, Running, Subject, running

BOUND: Final = 1.03
"""CPU time of a GET with everything on over that with nothing on, at most."""
SCRAPE_EVERY: Final = 5.0


@dataclass(frozen=True, slots=True)
class Cut:
    """Lines of a file that measure, and what stands there without them."""

    file: str
    lines: str
    instead: str = ""
    times: int = 1


CUTS: Final = (
    Cut(
        "store/readers.py",
        """\
            counts[1] = misses = counts[1] + 1
            if misses >= due[1]:
                seldom[2].read(key, 1)
""",
    ),
    Cut(
        "store/readers.py",
        """\
        counts[0] = hits = counts[0] + 1
        if hits >= due[0]:
            seldom[2].read(key, 0)
""",
    ),
    Cut(
        "http/fastpath.py",
        """\
                            spent = now() - started
                            if spent <= quick_bound:
                                quick(spent)
                            else:
                                got[0] += 1
                                recorder.took(spent)
                                if spent >= threshold or waits.count:
                                    self._settle(data, 200, 1, spent)
""",
    ),
    Cut(
        "http/fastpath.py",
        """\
                                    got[0] += 1
                                else:
""",
        """\
                                else:
""",
    ),
    Cut(
        "http/fastpath.py",
        """\
                spent = now() - started
                recorder.took(spent, number)
                if spent >= threshold or waits.count:
                    self._settle(data, int(out[0][9:12]), number, spent)
""",
    ),
)


def cut_out(package: Path) -> None:
    """Take the lines of CUTS out of a copy of the package. ValueError where one isn't there as told."""
    for cut in CUTS:
        path = package / cut.file
        text = path.read_text(encoding="utf-8")
        if text.count(cut.lines) != cut.times:
            raise ValueError(
                f"{cut.file} has no longer what is to be cut out, {cut.times} times:\n{cut.lines}"
            )
        path.write_text(text.replace(cut.lines, cut.instead), encoding="utf-8")
    thread = package / "insight" / "history.py"
    thread.write_text(
        thread.read_text(encoding="utf-8") + "\n\nRecord.tick = lambda self: 3600.0\n",
        encoding="utf-8",
    )


def _without(python: str, place: Place) -> list[str]:
    """Start the server from a copy that measures nothing."""
    copy = place.folder / "cacheserver"
    shutil.copytree(peers.ROOT / "cacheserver", copy, ignore=shutil.ignore_patterns("__pycache__"))
    cut_out(copy)
    main = f"import sys; sys.path.insert(0, {str(place.folder)!r}); "
    main += "import cacheserver.cli; sys.exit(cacheserver.cli.main())"
    flags = ["serve", "--port", "0", "--threads", "1", "--max-memory", "4g"]
    return [python, "-c", main, *flags, "--log-level", "warning"]


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


def main() -> int:
    """Measure and print; return the exit status."""
    given = _parser().parse_args()
    rounds = 2 if given.quick else given.rounds
    seconds = 0.3 if given.quick else given.seconds
    result: dict[str, Any] = {"benchmark": "metering", "machine": machine(), "cases": {}}
    with tempfile.TemporaryDirectory(prefix="cacheserver-bench-") as folder:
        try:
            generator = Generator(build(Path(folder)))
            for case in (case for case in CASES if case.name in ("get", "get-pipelined")):
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
    say(f"wrote {write_json(given.output, 'metering.json', result)}")
    return int(not given.quick and result["cases"]["get"]["over_off"]["watched"] > BOUND)


def _parser() -> argparse.ArgumentParser:
    made = parser("Measure what measuring costs a GET.")
    made.add_argument("--rounds", type=int, default=21, metavar="N", help="default: 21")
    made.add_argument("--seconds", type=float, default=1.0, metavar="S", help="default: 1")
    return made


if __name__ == "__main__":
    sys.exit(main())
