"""How connections are spread over event loops: three ways, built from the server's own parts.

    python -m benchmarks.spread [--quick] [--json FILE]

- acceptor: one thread accepts and deals the connections out in turn. This is what the server does.
- reuseport: each loop has a listening socket of its own, and the kernel chooses by a hash.
- shared: all loops accept on one listening socket, and the quickest gets the connection.

The last two let the loop itself accept (`create_server`), the cheapest way there is: libuv accepts
one connection a turn. They keep no limit of connections. When they stop, each loop first closes its
server, then takes what the kernel has completed, so that none of the three is worse at stopping
than it must be. "Not accepted yet" is how many still waited late in the window, though all had come
before the warm-up.

A server of each kind runs the whole time, and they take turns. The stop alone has a new one each time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import inprocess
from benchmarks.generator import CompilerError, build
from cacheserver.server.loops import LoopThread
from cacheserver.server.server import Server
from cacheserver.server.sockets import BACKLOG
from cacheserver.settings import Settings

VARIANTS: Final = ("acceptor", "reuseport", "shared")
HOST: Final = "127.0.0.1"

_KEYS: Final = 1000
_CONNECTING: Final = 64
"""Clients that connect anew for each request."""
_CONNECTS_AT_STOP: Final = 1000
"""Connections a second that come in while a server stops."""
_STOP_SECONDS: Final = 0.6
"""How long they come in; in the middle of it the server stops."""
_GRACE: Final = 5.0
_DEADLINE: Final = 30.0


# The server's side: one process a variant.


class LoopListener:
    """A listening socket on which a loop accepts for itself."""

    def __init__(self, loop: LoopThread, sock: socket.socket) -> None:
        self._loop = loop
        self._sock = sock
        self._server: asyncio.Server
        self._run(self._start())

    def stop(self) -> None:
        """Take what the kernel has completed, and close."""
        self._run(self._stop())

    def _run(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop._loop).result(_DEADLINE)

    async def _start(self) -> None:
        self._server = await asyncio.get_running_loop().create_server(
            self._loop._new_protocol, sock=self._sock.dup(), backlog=BACKLOG
        )

    async def _stop(self) -> None:
        self._server.close()
        await asyncio.sleep(0)  # the server's own descriptor is closed in the loop's next turn
        await asyncio.sleep(0)
        while True:
            try:
                sock, _address = self._sock.accept()
            except BlockingIOError:
                break
            sock.setblocking(False)
            self._loop._adopt(sock)
        self._sock.close()


class AcceptingLoops(Server):
    """The server, with loops that accept for themselves."""

    def __init__(self, settings: Settings, *, reuseport: bool) -> None:
        super().__init__(settings)
        self._reuseport = reuseport
        self._own: list[LoopListener] = []

    def _start_acceptor(self, listeners: list[socket.socket]) -> None:
        (listener,) = listeners
        sockets = [listener.dup() for _ in self._loops]
        listener.close()
        if self._reuseport:
            for sock in sockets:
                sock.close()
            sockets = [_reuseport_listener(self.port) for _ in self._loops]
        for sock in sockets:
            sock.setblocking(False)
        self._own = [LoopListener(*pair) for pair in zip(self._loops, sockets, strict=True)]

    def drain(self, grace: float) -> float:
        """Begin to stop, as the server does once its acceptor has ended."""
        for listener in self._own:
            listener.stop()
        return super().drain(grace)


def _reuseport_listener(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((HOST, port))
    sock.listen(BACKLOG)
    return sock


def serve(variant: str, loops: int) -> int:
    """Serve until told to stop on standard input; answer how many connections each loop has."""
    settings = Settings(host=HOST, port=0, threads=loops)
    if variant == "acceptor":
        server = Server(settings)
    else:
        server = AcceptingLoops(settings, reuseport=variant == "reuseport")
    server.start()
    gc.collect()
    gc.freeze()
    print(server.port, flush=True)
    for line in sys.stdin:
        if line.strip() == "stop":
            break
        print(json.dumps(server.connections), flush=True)
    return 0 if server.stop(_GRACE) else 1


# The other side: it starts the processes, has load put on them, and tells what it saw.


class Served:
    """A process that serves."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.port = int(self._line())

    def connections(self) -> list[int]:
        """Return how many connections each loop has."""
        self._tell("count")
        counts: list[int] = json.loads(self._line())
        return counts

    def stop(self) -> None:
        """Let it stop as it does, and wait for its end."""
        self._tell("stop")
        if status := self.process.wait(_DEADLINE):
            raise RuntimeError(f"a server ended with status {status}")

    def _tell(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


@contextlib.contextmanager
def served(variant: str, loops: int) -> Generator[Served]:
    """Run a server; it is gone at the end of the block."""
    command = [sys.executable, "-m", "benchmarks.spread", "--serve", variant, "--loops", str(loops)]
    with subprocess.Popen(
        command, cwd=inprocess.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Served(process)
        finally:
            process.kill()


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int
    stops: int
    seconds: float
    warmup: float
    connections: Sequence[int]
    loops: Sequence[int] = (2, 4)


FULL: Final = Plan(rounds=5, stops=10, seconds=0.8, warmup=0.4, connections=(8, 64, 1000))
QUICK: Final = Plan(rounds=1, stops=1, seconds=0.4, warmup=0.3, connections=(8, 64), loops=(2,))

type Samples = dict[str, list[float]]
"""From the name of a figure to its value in each round."""


class Load:
    """The load generator on one server."""

    def __init__(self, program: Path) -> None:
        self._program = program

    @contextlib.contextmanager
    def on(self, server: Served, *flags: object) -> Generator[subprocess.Popen[str]]:
        """Put load on a server; inside the block the window has begun."""
        command = [str(self._program), "--port", str(server.port), "--keys", str(_KEYS)]
        command += ["--server-pid", str(server.process.pid), *map(str, flags)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.stderr is not None
                if (line := process.stderr.readline()) != "measuring\n":
                    raise RuntimeError(f"the generator does not measure: {line}")
                yield process
            finally:
                process.kill()

    def fill(self, server: Served) -> None:
        """Store the keys."""
        with self.on(server, "--operation", "fill", "--connections", 8) as process:
            _report(process)

    def steady(self, server: Served, connections: int, plan: Plan) -> dict[str, float]:
        """Measure connections that stay, each with one request after the other."""
        flags = ("--operation", "get", "--connections", connections)
        more = connections / 1000  # seconds: under load, loops that accept for themselves are slow
        with self.on(server, *flags, *_times(plan, more)) as process:
            counts = _settled(server, connections, 0.8 * plan.seconds)
            report = _report(process)
        if report["errors"]:
            raise RuntimeError(f"wrong answers: {report['error_examples']}")
        return {
            "emptiest": min(counts),
            "fullest": max(counts),
            "waiting": connections - sum(counts),
            **_cost(report),
        }

    def connects(self, server: Served, plan: Plan) -> dict[str, float]:
        """Measure connections that carry one request each."""
        flags = ("--operation", "connect", "--connections", _CONNECTING)
        with self.on(server, *flags, *_times(plan)) as process:
            report = _report(process)
        return {"failures": report["errors"], **_cost(report)}

    def stop(self, server: Served) -> dict[str, float]:
        """Stop a server while connections come in, and count those that it let down."""
        flags = ("--operation", "connect", "--connections", 200, "--rate", _CONNECTS_AT_STOP)
        with self.on(server, *flags, "--seconds", _STOP_SECONDS) as process:
            time.sleep(_STOP_SECONDS / 2)
            began = time.monotonic()
            server.stop()
            stopped = time.monotonic() - began
            report = _report(process)
        kinds = report["error_kinds"]
        wrong = {kind: kinds[kind] for kind in kinds.keys() - {"connect", "lost"}}
        if wrong:
            raise RuntimeError(f"wrong answers: {wrong}, {report['error_examples']}")
        return {
            "answered": report["requests"],
            "lost": kinds.get("lost", 0),
            "stop_ms": stopped * 1e3,
        }


def _settled(server: Served, connections: int, seconds: float) -> list[int]:
    """Connections on each loop: when all are accepted, or as they are after so long."""
    deadline = time.monotonic() + seconds
    while sum(counts := server.connections()) != connections and time.monotonic() < deadline:
        time.sleep(0.02)
    return counts


def _times(plan: Plan, more: float = 0.0) -> tuple[object, ...]:
    return ("--seconds", plan.seconds, "--warmup", plan.warmup + more)


def _report(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, errors = process.communicate(timeout=_DEADLINE)
    if process.returncode not in (0, 3):
        raise RuntimeError(f"the generator failed: {errors}")
    report: dict[str, Any] = json.loads(output)
    return report


def _cost(report: dict[str, Any]) -> dict[str, float]:
    return {
        "rate": report["rate"],
        "cpu_us": 1e6 * report["server_cpu_seconds"] / report["requests"],
        "p99_ms": report["latency_us"]["p99"] / 1e3,
    }


def turned(names: Sequence[str], places: int) -> list[str]:
    """The names in an order that differs from round to round."""
    places %= len(names)
    return [*names[places:], *names[:places]]


class Benchmark:
    """The whole measurement; figures by case and variant."""

    def __init__(self, load: Load, plan: Plan) -> None:
        self._load = load
        self._plan = plan
        self.results: dict[str, dict[str, Samples]] = defaultdict(
            lambda: defaultdict(lambda: defaultdict(list))
        )

    def run(self) -> None:
        """Measure all cases."""
        for loops in self._plan.loops:
            with contextlib.ExitStack() as stack:
                servers = {name: stack.enter_context(served(name, loops)) for name in VARIANTS}
                for server in servers.values():
                    self._load.fill(server)
                self._compare(loops, servers)
                for server in servers.values():
                    server.stop()
            self._compare_stops(loops)

    def _compare(self, loops: int, servers: dict[str, Served]) -> None:
        for name in self._turns(self._plan.rounds):
            for connections in self._plan.connections:
                case = f"{loops} loops, {connections} connections"
                self._keep(case, name, self._load.steady(servers[name], connections, self._plan))
            case = f"{loops} loops, connects"
            self._keep(case, name, self._load.connects(servers[name], self._plan))

    def _compare_stops(self, loops: int) -> None:
        for name in self._turns(self._plan.stops):
            with served(name, loops) as server:
                self._load.fill(server)
                figures = self._load.stop(server)
            self._keep(f"{loops} loops, stop", name, figures)

    def _turns(self, rounds: int) -> Iterator[str]:
        for round_ in range(rounds):
            yield from turned(VARIANTS, round_)

    def _keep(self, case: str, variant: str, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self.results[case][variant][name].append(value)


_COLUMNS: Final = {
    "emptiest": ("on the emptiest loop", ".0f"),
    "fullest": ("on the fullest loop", ".0f"),
    "waiting": ("not accepted yet", ".0f"),
    "rate": ("requests/s", ",.0f"),
    "cpu_us": ("server CPU us a request", ".1f"),
    "p99_ms": ("p99 ms", ".1f"),
    "failures": ("failures", ".0f"),
    "answered": ("answered", ",.0f"),
    "lost": ("lost", ".0f"),
    "stop_ms": ("stop took ms", ".0f"),
}


def tables(results: dict[str, dict[str, Samples]]) -> Iterator[str]:
    """Yield the lines of a table for each sort of case."""
    sorts: dict[tuple[str, ...], list[list[str]]] = defaultdict(list)
    for case, variants in results.items():
        for variant, samples in variants.items():
            cells = [_cell(values, _COLUMNS[name][1]) for name, values in samples.items()]
            sorts[tuple(samples)].append([case, variant, *cells])
    for names, rows in sorts.items():
        yield from _table(["case", "variant", *(_COLUMNS[name][0] for name in names)], rows)
        yield ""


def _table(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    for row in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(row)} |"


def _cell(values: Sequence[float], form: str) -> str:
    middle, low, high = (
        format(value, form) for value in (statistics.median(values), min(values), max(values))
    )
    return middle if low == high else f"{middle} ({low} to {high})"


def measure(plan: Plan, output: Path | None) -> int:
    """Measure, print the tables and write the JSON."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            program = build(Path(folder))
        except CompilerError as error:
            print(error, file=sys.stderr)
            return 1
        benchmark = Benchmark(Load(program), plan)
        benchmark.run()
    about = inprocess.machine()
    print(
        f"{inprocess.describe(about)}. Medians of {plan.rounds} rounds, stops of {plan.stops} "
        "(lowest to highest).\n"
    )
    print("\n".join(tables(benchmark.results)))
    if output is not None:
        output.write_text(json.dumps({"machine": about, "results": benchmark.results}, indent=1))
    return 0


def main() -> int:
    """Measure, or be one of the servers that are measured."""
    parser = argparse.ArgumentParser(description="Compare ways to spread connections over loops.")
    parser.add_argument("--quick", action="store_true", help="a small run that proves it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    parser.add_argument("--serve", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--loops", type=int, default=2, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.serve:
        return serve(flags.serve, flags.loops)
    return measure(QUICK if flags.quick else FULL, flags.json)


if __name__ == "__main__":
    sys.exit(main())
