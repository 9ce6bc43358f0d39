"""Rounds: in each one every subject of a case is measured once, so that what drifts, drifts for all.

The order is turned by one place a round: nobody always comes after the same neighbour. All subjects
of a case run meanwhile, those that wait doing nothing.
"""

from __future__ import annotations

import dataclasses
import http.client
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.cases import Case
from benchmarks.generator import Generator, Run
from benchmarks.inprocess import spread
from benchmarks.peers import OURS, SUBJECTS, PeerError, Running, Subject, running

PERCENTILES: Final = ("p50", "p99", "p99.9")
QUICK_KEYS: Final = 1_000
"""Keys of a case in a smoke run, at most."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how often each case is measured."""

    rounds: int
    seconds: float
    warmup: float
    latency_seconds: float
    """Likewise, of a run for percentiles."""
    quick: bool

    def cut(self, case: Case) -> Case:
        """Return the case as it is measured."""
        return dataclasses.replace(case, keys=min(case.keys, QUICK_KEYS)) if self.quick else case


BESIDE: Final = " beside"
"""What stands behind a subject's name in the label of its second load."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What is done once a round: one load on one server."""

    server: Running
    load: Callable[[Running], Run]
    suffix: str = ""

    @property
    def label(self) -> str:
        """The name under which its runs are kept."""
        return self.server.subject.name + self.suffix


class Benchmark:
    """Measures cases, one after the other."""

    def __init__(self, generator: Generator, plan: Plan, folder: Path) -> None:
        self._generator = generator
        self._plan = plan
        self._folder = folder

    def measure(self, case: Case, subjects: Sequence[Subject]) -> dict[str, Any]:
        """Measure one case with the subjects that can do it; return it as it stands in the JSON."""
        case = self._plan.cut(case)
        chosen = [subject for subject in subjects if subject.can(case)]
        invalid: dict[str, list[str]] = defaultdict(list)
        with ExitStack() as stack:
            say(f"{case.name}: {case.description}")
            servers = self._start(stack, case, chosen, invalid)
            results = (self._latency if case.is_latency else self._cost)(case, servers, invalid)
        for name, reasons in invalid.items():
            say(f"  INVALID {name}: {reasons[0]}")
        return {**dataclasses.asdict(case), **results, "invalid": invalid}

    def _start(
        self,
        stack: ExitStack,
        case: Case,
        subjects: Sequence[Subject],
        invalid: dict[str, list[str]],
    ) -> list[Running]:
        """Start and fill them; those that fail are told and left out."""
        servers = []
        for subject in subjects:
            try:
                answer = None if subject.name != "echo" else self._real_answer(case.value_size)
                server = stack.enter_context(running(subject, answer))
            except PeerError as error:
                invalid[subject.name].append(str(error))
                continue
            filled = self._fill(server, case)
            if filled is not None and filled.invalid:
                invalid[subject.name].append(f"not filled: {filled.invalid}")
                continue
            servers.append(server)
        return servers

    def _fill(self, server: Running, case: Case) -> Run | None:
        if not server.subject.keeps:
            return None
        return self._generator.fill(server, case)

    def _cost(
        self, case: Case, servers: Sequence[Running], invalid: dict[str, list[str]]
    ) -> dict[str, Any]:
        plan = self._plan

        def load(server: Running) -> Run:
            return self._generator.run(server, case, seconds=plan.seconds, warmup=plan.warmup)

        def load_plainly(server: Running) -> Run:
            return self._generator.run(server, case.plain, seconds=plan.seconds, warmup=plan.warmup)

        turns = [Turn(server, load) for server in servers]
        if case.beside:
            ours = (server for server in servers if server.subject.name in OURS)
            turns += [Turn(server, load_plainly, BESIDE) for server in ours]
        runs = self._rounds(turns, invalid)
        figures = {label: _cost_figures(those) for label, those in runs.items()}
        names = {server.subject.name for server in servers}
        results = {label: found for label, found in figures.items() if label in names}
        return {
            "results": results,
            "ratios": ratios(results),
            "plain": {
                server.subject.name: _over_plain(server.subject.name, figures)
                for server in servers
                if {server.subject.name, server.subject.name + BESIDE} <= figures.keys()
            },
            "stand_ins": {
                server.subject.name: server.subject.operation(case)
                for server in servers
                if server.subject.operation(case) != case.operation
            },
        }

    def _latency(
        self, case: Case, servers: Sequence[Running], invalid: dict[str, list[str]]
    ) -> dict[str, Any]:
        """Find everybody's maximum, then ask for half of their own and for half of ours."""
        maxima = self._cost(case, servers, invalid)["results"]
        halves = {name: result["rate"]["median"] / 2 for name, result in maxima.items()}
        found = {"own half": self._at(halves, case, servers, invalid)}
        for ours in (name for name in OURS if name in halves):
            rate = halves[ours]
            able = {
                name: rate
                for name, half in halves.items()
                if half >= rate or (2 * half > rate and name not in OURS)
            }
            found[f"half of {ours}"] = self._at(able, case, servers, invalid)
        return {"maxima": maxima, "at": found}

    def _at(
        self,
        rates: dict[str, float],
        case: Case,
        servers: Sequence[Running],
        invalid: dict[str, list[str]],
    ) -> dict[str, Any]:
        """Measure latencies at constant rates; who falls behind has none."""

        def load(server: Running) -> Run:
            return self._generator.run(
                server,
                case,
                seconds=self._plan.latency_seconds,
                warmup=self._plan.warmup,
                rate=rates[server.subject.name],
            )

        asked = [server for server in servers if server.subject.name in rates]
        runs = self._rounds([Turn(server, load) for server in asked], invalid)
        return {
            "results": {
                name: _latency_figures(those, rates[name])
                for name, those in runs.items()
                if not any(run.fell_behind for run in those)
            },
            "fell_behind": {
                name: f"{min(run.rate for run in those):,.0f} of {rates[name]:,.0f} a second answered"
                for name, those in runs.items()
                if any(run.fell_behind for run in those)
            },
        }

    def _rounds(
        self,
        turns: Sequence[Turn],
        invalid: dict[str, list[str]],
    ) -> dict[str, list[Run]]:
        """Do every turn in every round; what had an invalid run has no figures."""
        runs: dict[str, list[Run]] = {turn.label: [] for turn in turns}
        for number in range(self._plan.rounds):
            first = number % max(1, len(turns))
            for turn in (*turns[first:], *turns[:first]):
                run = turn.load(turn.server)
                runs[turn.label].append(run)
                if run.invalid:
                    invalid[turn.server.subject.name].append(run.invalid)
        return {label: those for label, those in runs.items() if not any(r.invalid for r in those)}

    def _real_answer(self, value_size: int) -> Path:
        """Write down the bytes that our server answers to a GET of so large a value."""
        path = self._folder / f"answer-{value_size}"
        if not path.exists():
            ours = next(subject for subject in SUBJECTS if subject.name == OURS[0])
            with running(ours) as server:
                path.write_bytes(answer_of(server.port, value_size))
        return path


def answer_of(port: int, value_size: int) -> bytes:
    """Store a value in a server of ours and return its answer to a GET, byte for byte."""
    target = "/v1/kv/bench/key:000000000000"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("PUT", target, b"x" * value_size)
    connection.getresponse().read()
    sock = connection.sock
    sock.sendall(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
    answer = b""
    while (end := answer.find(b"\r\n\r\n")) < 0 or len(answer) < end + 4 + value_size:
        piece = sock.recv(1 << 20)
        if not piece:
            raise PeerError(f"cacheserver broke its answer off after {len(answer)} bytes")
        answer += piece
    connection.close()
    return answer


def ratios(results: dict[str, Any]) -> dict[str, Any]:
    """Return our medians over everybody else's: below 1 we take less CPU, above 1 we serve more."""
    return {
        ours: {
            peer: {
                figure: results[ours][figure]["median"] / results[peer][figure]["median"]
                for figure in ("cpu_us", "rate")
            }
            for peer in results
            if peer != ours
        }
        for ours in OURS
        if ours in results
    }


def say(words: str) -> None:
    """Tell how far it is; results go to standard output, this doesn't."""
    print(words, file=sys.stderr, flush=True)


def _cost_figures(runs: Sequence[Run]) -> dict[str, Any]:
    return {
        "cpu_us": spread([run.cpu_us for run in runs]),
        "rate": spread([run.rate for run in runs]),
        "generator_share": spread([run.generator_share for run in runs]),
        "requests": sum(run.report["requests"] for run in runs),
    }


def _over_plain(name: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the plain load took, and how much more (or less) the case's own took."""
    own, plain = figures[name], figures[name + BESIDE]
    return {
        "cpu_us": plain["cpu_us"],
        "rate": plain["rate"],
        "over": own["cpu_us"]["median"] / plain["cpu_us"]["median"],
    }


def _latency_figures(runs: Sequence[Run], rate: float) -> dict[str, Any]:
    return {
        "intended_rate": rate,
        **{p: spread([run.report["latency_us"][p] for run in runs]) for p in PERCENTILES},
        "cpu_us": spread([run.cpu_us for run in runs]),
        "generator_lag_p99": spread([run.report["generator_lag_us"]["p99"] for run in runs]),
        "requests": sum(run.report["requests"] for run in runs),
    }
