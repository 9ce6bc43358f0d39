"""The longest time for which a request waits while a server fills up, and when it is full.

    python -m benchmarks.pauses [--full] [--quick] [--entries N] [--output DIR]

A server process like any other, but for notes of its garbage collections, and that it collects every
few seconds even if there is no need. The load generator fills it with entries of 64 bytes; meanwhile a
client asks over one connection, by turns a GET and a PUT, and times every answer. How much of it is the
machine, is seen by a thread that does nothing but sleep, and by the same client beside the same load on a
server with few entries. Needs a C compiler.
"""

from __future__ import annotations

import gc
import http.client
import itertools
import json
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import inprocess
from benchmarks.generator import build, find_compiler
from benchmarks.inprocess_load import key
from benchmarks.memory import resident
from benchmarks.probe import Collections, Prober, Slowest, probing

FULL: Final = 5_000_000
DEFAULT: Final = 200_000
QUICK: Final = 5_000
OWN: Final = 1_000
"""Keys that the client writes."""
FEW: Final = 10_000
"""Entries of the server that shows what the machine does."""
COLLECT_EVERY: Final = 3.0
"""Seconds between two collections that are forced."""
SCRAPE_EVERY: Final = 1.0
"""Seconds between two looks at /metrics, as a monitoring system takes."""
MUST: Final = 0.02
_PATH: Final = "/v1/kv/bench/"


def serve(flags: Sequence[str]) -> int:
    """Be the server; when it has stopped, print the notes of its collections as JSON."""
    from cacheserver.cli import main as serve_until_stopped

    ended = threading.Event()

    def collect() -> None:
        while not ended.wait(COLLECT_EVERY):
            gc.collect()

    threading.Thread(target=collect, name="collector", daemon=True).start()
    with Collections() as collections:
        status = serve_until_stopped(["serve", "--port", "0", *flags])
    ended.set()
    print(json.dumps(collections.seen))
    return status


@dataclass(slots=True)
class Served:
    """A server process that can be asked."""

    process: subprocess.Popen[str]
    port: int

    def stop(self) -> list[tuple[float, float]]:
        """Stop it; return when it collected, and for how long."""
        self.process.send_signal(signal.SIGTERM)
        output, _ = self.process.communicate(timeout=120)
        return [(began, seconds) for began, seconds in json.loads(output.splitlines()[-1])]


def start(*flags: str) -> Served:
    """Start a server process, and wait until it listens."""
    command = [sys.executable, "-m", "benchmarks.pauses", f"--serve={' '.join(flags)}"]
    process = subprocess.Popen(command, cwd=inprocess.ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r":(\d+) \(", line)
    if found is None:
        process.kill()
        raise RuntimeError(f"the server did not start: {line!r}")
    return Served(process, int(found[1]))


class Client:
    """One connection over which a request follows the other."""

    def __init__(self, port: int, keys: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._keys = keys

    def ask(self, turn: int) -> None:
        """Send a request and wait for its answer. RuntimeError for one that isn't as it should be."""
        if turn % 2:
            line, rest = f"GET {_PATH}{key(random.randrange(self._keys))}", ""
        else:  # keys of its own: the generator checks what it reads
            line, rest = f"PUT {_PATH}own:{turn % OWN}", f"Content-Length: 64\r\n\r\n{'.' * 64}"
        head = f"{line} HTTP/1.1\r\nHost: localhost\r\n"
        self._socket.sendall((head + (rest or "\r\n")).encode())
        status, *words = self._read_answer()
        if status not in (b"200", b"201", b"204", b"404"):
            raise RuntimeError(f"an answer with {status!r}: {words}")

    def _read_answer(self) -> list[bytes]:
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._receive()
        head, _, body = received.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        left = int(length[1]) - len(body) if length else 0
        while left > 0:
            left -= len(self._receive())
        return head.split(b" ", 2)[1:]

    def _receive(self) -> bytes:
        more = self._socket.recv(1 << 16)
        if not more:
            raise RuntimeError("the server closed the connection")
        return more


@contextmanager
def asking(port: int, keys: int) -> Generator[Prober]:
    """Have a client ask."""
    gc.disable()  # its own collections are no pauses of the server
    prober = Prober(lambda: Client(port, keys).ask)
    prober.start()
    try:
        yield prober
    finally:
        prober.stop()
        gc.enable()


@contextmanager
def scraping(port: int) -> Generator[None]:
    """Have somebody look at the metrics again and again."""
    ended = threading.Event()

    def scrape() -> None:
        while not ended.wait(SCRAPE_EVERY):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30).read()
            except (OSError, http.client.HTTPException) as error:
                print(f"/metrics: {error}", file=sys.stderr)

    thread = threading.Thread(target=scrape, name="scraper")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def load(generator: Path, port: int, operation: str, keys: int, *more: str) -> None:
    """Run the load generator; RuntimeError if an answer was wrong."""
    words = ["--protocol", "http", "--host", "127.0.0.1", "--port", str(port), "--path", _PATH]
    words += ["--keys", str(keys), "--key-size", "16", "--value-size", "64"]
    words += ["--operation", operation, "--connections", "4", "--pipeline", "4", *more]
    done = subprocess.run([str(generator), *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the load failed: {done.stderr.strip()} {done.stdout.strip()}")


def phases(generator: Path, entries: int, seconds: float) -> dict[str, Any]:
    """Take one server through: nothing, the fill, idle when full, loaded when full."""
    mixed = ("--write-share", "0.1", "--seconds", str(seconds), "--distribution", "zipf:0.99")
    served = start("--max-memory", "16g", "--log-level", "warning")
    marks: list[tuple[str, float, float]] = []
    seen: dict[str, Slowest] = {}
    asleep: dict[str, Slowest] = {}
    try:
        # The first write makes the namespace; then the server settles for a moment.
        Client(served.port, entries).ask(0)
        time.sleep(1.0)
        sleeper = Prober(lambda: lambda turn: None)
        with (
            asking(served.port, entries) as prober,
            probing(sleeper=sleeper),
            scraping(served.port),
        ):
            for name, do in (
                ("idle, empty", lambda: time.sleep(seconds)),
                ("filling", lambda: load(generator, served.port, "fill", entries)),
                ("idle, full", lambda: time.sleep(seconds)),
                ("loaded, full", lambda: load(generator, served.port, "mix", entries, *mixed)),
            ):
                prober.cut()
                sleeper.cut()
                began = time.monotonic()
                do()
                marks.append((name, began, time.monotonic()))
                seen[name], asleep[name] = prober.cut(), sleeper.cut()
        rss = resident(served.process.pid)["rss"]
    except BaseException:
        served.process.kill()
        raise
    collections = served.stop()
    return {
        "entries": entries,
        "rss": rss,
        "phases": [
            {
                "name": name,
                "seconds": ended - began,
                **seen[name].numbers(),
                "machine": asleep[name].most,
                **_collected(collections, began, ended, seen[name]),
            }
            for name, began, ended in marks
        ],
    }


def _collected(
    collections: Sequence[tuple[float, float]], began: float, ended: float, seen: Slowest
) -> dict[str, Any]:
    """Return the collections of a phase, and the longest pause that none of them was part of."""
    here = [(start, took) for start, took in collections if began <= start < ended]
    apart = [
        seconds
        for seconds, end in seen.longest
        if not any(start < end and start + took > end - seconds for start, took in here)
    ]
    return {
        "collections": len(here),
        "longest_collection": max((took for _, took in here), default=0.0),
        "longest_apart": max(apart, default=0.0),
    }


def run(generator: Path, entries: int, seconds: float, rounds: int) -> dict[str, Any]:
    """Measure a server with few entries, and one with many, by turns."""
    rows: dict[str, list[dict[str, Any]]] = {"few": [], "many": []}
    for _, (which, number) in itertools.product(
        range(rounds), (("few", min(FEW, entries)), ("many", entries))
    ):
        print(f"{number:,} entries", file=sys.stderr, flush=True)
        rows[which].append(phases(generator, number, seconds))
    full = [phase for row in rows["many"] for phase in row["phases"]]
    worst = max(phase["longest"] for phase in full)
    collected = max(phase["longest_collection"] for phase in full)
    return {
        "benchmark": "pauses",
        "machine": inprocess.machine(),
        "rows": rows,
        "targets": [
            inprocess.target("longest answer, ms", 1e3 * worst, 1e3 * MUST, 5, at_most=True),
            inprocess.target(
                "longest collection, ms", 1e3 * collected, 1e3 * MUST, 1, at_most=True
            ),
        ],
    }


def report(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    head = ["entries", "phase", "seconds", "answers", "longest, ms", "next, ms"]
    head += ["beside no collection, ms", "machine, ms", "collections", "longest of them, ms"]
    rows = [
        [
            f"{row['entries']:,}",
            phase["name"],
            f"{phase['seconds']:.1f}",
            f"{phase['count']:,}",
            f"{1e3 * phase['longest']:.1f}",
            ", ".join(f"{1e3 * seconds:.1f}" for seconds in phase["next"][-4:-1][::-1]),
            f"{1e3 * phase['longest_apart']:.1f}",
            f"{1e3 * phase['machine']:.1f}",
            str(phase["collections"]),
            f"{1e3 * phase['longest_collection']:.2f}",
        ]
        for rows_of_size in result["rows"].values()
        for row in rows_of_size
        for phase in row["phases"]
    ]
    return "\n\n".join(
        [
            inprocess.describe(result["machine"]),
            "Answers to one client that asks every 0.3 ms, from when it was to ask; `machine`: by how much a "
            "thread that only sleeps was late.",
            inprocess.table(head, rows),
            inprocess.target_table(result["targets"]),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says. Returns the exit status."""
    parser = inprocess.parser("Measure the longest pauses that a request meets.")
    parser.add_argument("--full", action="store_true", help=f"{FULL:,} entries")
    parser.add_argument("--entries", type=int)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--serve", metavar="FLAGS", help="be the server")
    given = parser.parse_args(arguments)
    if given.serve is not None:
        return serve(given.serve.split())
    if find_compiler() is None or not Path("/proc/self/smaps_rollup").exists():
        parser.error("it needs Linux, and a C compiler: scripts/peers installs one")
    entries = given.entries or (QUICK if given.quick else FULL if given.full else DEFAULT)
    folder = Path(tempfile.mkdtemp(prefix="cacheserver-pauses-"))
    try:
        result = run(build(folder), entries, 1.0 if given.quick else 10.0, given.rounds)
    finally:
        shutil.rmtree(folder)
    print(report(result))
    print(f"\nwritten: {inprocess.write_json(given.output, 'pauses.json', result)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
