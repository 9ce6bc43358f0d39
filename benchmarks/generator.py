"""The load generator: compiled when it is needed, run as a process, and not believed on errors."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.cases import Case
from benchmarks.peers import Running

SOURCE: Final = Path(__file__).with_name("loadgen.c")

_FILLERS: Final = (8, 16)
"""Connections and pipeline of a fill."""
_SPARE_SECONDS: Final = 60.0
"""What a run may take beyond its own time: reading tags, waiting for last answers."""
_FILL_SECONDS: Final = (30.0, 0.002)
"""What a fill may take: so much, and so much for each key."""
_RATE_KEPT: Final = 0.98
"""Share of the intended rate below which a run at a constant rate was none."""


class CompilerError(Exception):
    """There is no generator, for there is no C compiler or it failed."""


def find_compiler() -> str | None:
    """Return the C compiler: $CC, or cc."""
    return shutil.which(os.environ.get("CC") or "cc")


def build(folder: Path, source: Path = SOURCE) -> Path:
    """Compile the generator into a folder. Raises CompilerError."""
    compiler = find_compiler()
    if compiler is None:
        raise CompilerError("there is no C compiler: scripts/peers installs one, or set CC")
    program = folder / "loadgen"
    command = [compiler, "-O2", "-o", str(program), str(source), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CompilerError(f"{compiler} cannot compile {source.name}:\n{done.stderr}")
    return program


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of the generator gave."""

    report: dict[str, Any]
    """As the generator printed it."""
    invalid: str | None = None
    """Why its figures say nothing; None where they do."""

    @property
    def rate(self) -> float:
        """Answered requests a second."""
        return float(self.report["rate"])

    @property
    def cpu_us(self) -> float:
        """CPU microseconds that the server took for an answered request."""
        return 1e6 * float(self.report["server_cpu_seconds"]) / float(self.report["requests"])

    @property
    def fell_behind(self) -> bool:
        """Whether fewer requests a second were answered than were sent at a constant rate."""
        intended = self.report["intended_rate"]
        return intended is not None and self.rate < _RATE_KEPT * float(intended)

    @property
    def generator_share(self) -> float:
        """How much of one CPU the generator took: near 1 it is what was measured."""
        return float(self.report["generator_cpu_seconds"]) / float(self.report["seconds"])


class Generator:
    """Puts load on subjects."""

    def __init__(self, program: Path) -> None:
        self._program = str(program)

    def fill(self, server: Running, case: Case) -> Run:
        """Store every key of a case."""
        connections, pipeline = _FILLERS
        arguments = [
            *_address(server),
            *("--operation", "fill", "--keys", str(case.keys), *_headers(server)),
            *_values(case),
            *(["--integers"] if case.operation == "incr" else []),
            *("--connections", str(connections), "--pipeline", str(pipeline)),
        ]
        start, per_key = _FILL_SECONDS
        return self._run(arguments, start + per_key * case.keys)

    def run(
        self,
        server: Running,
        case: Case,
        *,
        seconds: float,
        warmup: float,
        rate: float | None = None,
    ) -> Run:
        """Run a case; at a constant rate where one is given."""
        arguments = [
            *_address(server),
            *_load(server, case),
            *("--seconds", str(seconds), "--warmup", str(warmup)),
            *([] if rate is None else ["--rate", str(rate)]),
            *(word for pid in server.pids() for word in ("--server-pid", str(pid))),
        ]
        return self._run(arguments, seconds + warmup + _SPARE_SECONDS)

    def _run(self, arguments: list[str], limit: float) -> Run:
        try:
            done = subprocess.run(
                [self._program, *arguments],
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=limit,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Run({}, f"the generator did not end within {limit:g} s")
        return judge(done.returncode, done.stdout, done.stderr)


def judge(status: int, output: str, errors: str) -> Run:
    """Make a Run of how the generator ended: any error at all makes its figures invalid."""
    try:
        report: dict[str, Any] = json.loads(output)
    except ValueError:
        return Run({}, f"the generator ended with status {status}: {errors.strip()[-500:]}")
    if report["errors"]:
        examples = "; ".join(report["error_examples"])
        return Run(report, f"{report['errors']} wrong or missing answers: {examples}")
    if status:
        return Run(report, f"the generator ended with status {status}: {errors.strip()[-500:]}")
    if not report["requests"]:
        return Run(report, "no request was answered in time")
    return Run(report)


def _address(server: Running) -> list[str]:
    return [
        "--protocol",
        server.subject.protocol,
        "--host",
        "127.0.0.1",
        "--port",
        str(server.port),
    ]


def _headers(server: Running) -> list[str]:
    return [word for header in server.subject.headers for word in ("--header", header)]


def _values(case: Case) -> list[str]:
    """Return what a fill and a run must be told alike, so that one finds what the other stored."""
    lasting = ["--ttl", str(case.ttl)] if case.ttl else []
    return ["--value-size", str(case.value_size), *lasting]


def _load(server: Running, case: Case) -> list[str]:
    arguments = [
        *("--operation", server.subject.operation(case), "--keys", str(case.keys)),
        *_values(case),
        *_headers(server),
        *("--connections", str(case.connections), "--pipeline", str(case.pipeline)),
        *("--distribution", case.distribution, "--write-share", str(case.write_share)),
    ]
    if not server.subject.keeps:  # a path as long as the others' paths
        arguments += ["--fixed-path", "/v1/kv/bench/key:000000000000"]
    if case.changing_header and server.subject.protocol == "http":
        arguments.append("--changing-header")
    if case.changing_length:
        arguments.append("--changing-length")
    return arguments
