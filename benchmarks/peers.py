"""The subjects: our server and what it is compared with, each a process on a free port.

Guarantees:
- A subject runs in a temporary folder, keeps nothing, and is gone when its block ends.
- Inside the block it accepts connections.
- Nothing in the environment that would set up one of them differently reaches it.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.cases import TOKEN, Case

ROOT: Final = Path(__file__).resolve().parents[1]
OURS: Final = ("cacheserver", "cacheserver-2")
"""The subjects that targets are for."""
BEFORE: Final = "before"
"""The subject that is our server of another revision."""

_DEADLINE: Final = 30.0
"""Seconds that a subject may take to start, and to end."""
_SETTINGS: Final = ("CACHESERVER_", "UVICORN_", "GRANIAN_", "WEB_CONCURRENCY", "PYTHON")
_LISTENING: Final = re.compile(rb"listening on http://127\.0\.0\.1:(\d+) ")

_APP: Final = frozenset(
    ("get", "miss", "put", "conditional-get", "cas", "cas-conflict", "incr", "connect")
)
_KEEPER: Final = frozenset(("get", "miss", "put", "mix", "incr"))
"""What Redis and memcached do."""
_NEAREST: Final = {"conditional-get": "get", "cas": "put", "cas-conflict": "put"}
"""What they are measured with where they have no such operation, which the report says."""
_VERSIONED: Final = frozenset(("cas", "cas-conflict"))
"""What memcached does too, in one request each, with its meta commands."""
_SECRET: Final = "a-token-for-one-benchmark"


class PeerError(Exception):
    """A subject that did not start; says what it wrote."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a subject is started."""

    folder: Path
    port: int
    answer: Path | None
    """Holds the bytes that our server answers to a GET."""


type Command = Callable[[str, Place], list[str]]


@dataclass(frozen=True, slots=True)
class Subject:
    """A server that can be measured."""

    name: str
    title: str
    note: str
    """How it is set up."""
    program: str
    """A program on the PATH, or a package of this interpreter."""
    command: Command
    """Given the program's path, or the interpreter's, and the place."""
    protocol: str = "http"
    operations: frozenset[str] = _APP
    nearest: Mapping[str, str] = field(default_factory=dict)
    """For operations that it hasn't, the ones that are nearest to them."""
    headers: tuple[str, ...] = ()
    """What each request to it has."""
    environment: Mapping[str, str] = field(default_factory=dict)
    sizes: tuple[int, ...] | None = None
    """Those of values that it has; None for all."""
    keeps: bool = True
    """Whether it keeps what it is given; else it answers the same to everything."""
    is_python: bool = True
    like: str | None = None
    """Another subject, in whose cases it is too."""
    is_named_only: bool = False
    """Whether it is for cases alone that name it."""
    port_from_log: bool = False

    def can(self, case: Case) -> bool:
        """Tell whether the case is one for this subject."""
        name = self.like or self.name
        named = name in case.subjects if case.subjects else not self.is_named_only
        return (
            named
            and self.operation(case) in self.operations
            and (self.sizes is None or case.value_size in self.sizes)
        )

    def operation(self, case: Case) -> str:
        """Return what it is measured with in the case: the case's own operation where it has it."""
        return self.nearest.get(case.operation, case.operation)

    def find(self) -> str | None:
        """Return what to start; None where it is not installed."""
        if not self.is_python:
            return shutil.which(self.program, path=_search_path())
        try:
            importlib.metadata.version(self.program)
        except importlib.metadata.PackageNotFoundError:
            return None
        return sys.executable

    def version(self) -> str:
        """Return the version of a subject that is installed."""
        if self.is_python:
            return importlib.metadata.version(self.program)
        option = "-v" if self.program == "nginx" else "--version"
        done = subprocess.run(
            [self.find() or self.program, option], capture_output=True, text=True, check=True
        )
        found = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
        return found[0] if found else "unknown"

    def why_missing(self) -> str:
        """Say what to do about a subject that is not installed."""
        if self.is_python:
            return f"the package {self.program} is not installed: make bench runs where it is"
        return f"{self.program} is not installed: scripts/peers installs it"


@dataclass(frozen=True, slots=True)
class Running:
    """A subject that accepts connections."""

    subject: Subject
    port: int
    process: subprocess.Popen[bytes] = field(repr=False)

    def pids(self) -> list[int]:
        """Return its process and all that came from it."""
        return _family(self.process.pid)


# ---- how each is started ----


def _cacheserver(*flags: str) -> Command:
    def command(python: str, place: Place) -> list[str]:
        serve = [python, "-m", "cacheserver", "serve", "--port", "0", "--max-memory", "4g"]
        return [*serve, "--log-level", "warning", *flags]

    return command


def _uvicorn(python: str, place: Place) -> list[str]:
    flags = ["--http", "httptools", "--loop", "uvloop", "--no-access-log", "--log-level", "warning"]
    where = ["--host", "127.0.0.1", "--port", str(place.port)]
    return [python, "-m", "uvicorn", *flags, *where, "--factory", "benchmarks.app:create"]


def _granian(python: str, place: Place) -> list[str]:
    flags = ["--interface", "asgi", "--workers", "1", "--loop", "uvloop", "--no-ws"]
    quiet = ["--no-access-log", "--log-level", "warning"]
    where = ["--host", "127.0.0.1", "--port", str(place.port)]
    return [python, "-m", "granian", *flags, *quiet, *where, "--factory", "benchmarks.app:create"]


def _redis(program: str, place: Place) -> list[str]:
    where = ["--bind", "127.0.0.1", "--port", str(place.port), "--dir", str(place.folder)]
    return [program, *where, "--save", "", "--appendonly", "no", "--daemonize", "no"]


def _memcached(program: str, place: Place) -> list[str]:
    where = ["-l", "127.0.0.1", "-p", str(place.port), "-U", "0"]
    user = ["-u", "root"] if os.geteuid() == 0 else []
    return [program, *where, *user, "-t", "1", "-m", "4096", "-I", "4m", "-c", "4096"]


_NGINX: Final = """
worker_processes 1;
daemon off;
pid nginx.pid;
error_log stderr;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{
        listen 127.0.0.1:{port};
        default_type application/octet-stream;
        location / {{ return 200 {body}; }}
    }}
}}
"""
_NGINX_BODY: Final = 64


def _nginx(program: str, place: Place) -> list[str]:
    text = _NGINX.format(port=place.port, body="x" * _NGINX_BODY)
    (place.folder / "nginx.conf").write_text(text, encoding="ascii")
    return [program, "-p", str(place.folder), "-c", "nginx.conf", "-e", "stderr"]


def _echo(python: str, place: Place) -> list[str]:
    where = ["--port", str(place.port), "--answer", str(place.answer)]
    return [python, "-m", "benchmarks.echo", *where]


SUBJECTS: Final = (
    Subject(
        name="cacheserver",
        title="cacheserver, 1 thread",
        note="serve --threads 1",
        program="cacheserver",
        command=_cacheserver("--threads", "1"),
        operations=_APP | {"mix"},
        port_from_log=True,
    ),
    Subject(
        name="cacheserver-2",
        title="cacheserver, 2 threads",
        note="serve --threads 2",
        program="cacheserver",
        command=_cacheserver("--threads", "2"),
        operations=_APP | {"mix"},
        port_from_log=True,
    ),
    Subject(
        name=TOKEN,
        title="cacheserver, 1 thread, with a token",
        note="serve --threads 1, CACHESERVER_TOKEN set, Authorization in each request",
        program="cacheserver",
        command=_cacheserver("--threads", "1"),
        headers=(f"Authorization: Bearer {_SECRET}",),
        environment={"CACHESERVER_TOKEN": _SECRET},
        is_named_only=True,
        port_from_log=True,
    ),
    Subject(
        name="no-fast-path",
        title="cacheserver --no-fast-path",
        note="serve --threads 1 --no-fast-path: the same app, as ASGI, in our server",
        program="cacheserver",
        command=_cacheserver("--threads", "1", "--no-fast-path"),
        port_from_log=True,
    ),
    Subject(
        name="uvicorn",
        title="plain uvicorn",
        note="the same app on uvicorn's own httptools protocol and uvloop, one process",
        program="uvicorn",
        command=_uvicorn,
    ),
    Subject(
        name="granian",
        title="granian",
        note="the same app by its ASGI interface, one worker, uvloop",
        program="granian",
        command=_granian,
    ),
    Subject(
        name="redis",
        title="Redis",
        note="one thread, no persistence",
        program="redis-server",
        command=_redis,
        protocol="resp",
        operations=_KEEPER,
        nearest=_NEAREST,
        is_python=False,
    ),
    Subject(
        name="memcached",
        title="memcached",
        note="-t 1, text protocol; compare-and-set by meta commands",
        program="memcached",
        command=_memcached,
        protocol="memcached",
        operations=_KEEPER | _VERSIONED,
        nearest={name: other for name, other in _NEAREST.items() if name not in _VERSIONED},
        is_python=False,
    ),
    Subject(
        name="nginx",
        title="nginx, a constant",
        note="worker_processes 1, a constant answer from its configuration, no access log",
        program="nginx",
        command=_nginx,
        operations=frozenset(("get", "connect")),
        sizes=(_NGINX_BODY,),
        keeps=False,
        is_python=False,
    ),
    Subject(
        name="echo",
        title="uvloop echo",
        note="an asyncio protocol on uvloop that writes the bytes of our GET answer, unread",
        program="uvloop",
        command=_echo,
        operations=frozenset(("get",)),
        keeps=False,
    ),
)


def from_copy(folder: Path) -> Command:
    """Return how our server is started from a copy of the package in this folder."""

    def command(python: str, place: Place) -> list[str]:
        main = f"import sys; sys.path.insert(0, {str(folder)!r}); "
        main += "import cacheserver.cli; sys.exit(cacheserver.cli.main())"
        _, _, _, *serve = _cacheserver("--threads", "1")(python, place)
        return [python, "-c", main, *serve]

    return command


def before(revision: str, folder: Path) -> Subject:
    """Return our server of another revision, whose package is in the folder, ready to be imported."""
    return Subject(
        name=BEFORE,
        title=f"cacheserver, {BEFORE}",
        note=f"revision {revision}: serve --threads 1",
        program="cacheserver",
        command=from_copy(folder),
        operations=_APP | {"mix"},
        like=OURS[0],
        port_from_log=True,
    )


# ---- running ----


@contextmanager
def running(subject: Subject, answer: Path | None = None) -> Generator[Running]:
    """Start a subject and stop it at the end of the block. Raises PeerError."""
    with tempfile.TemporaryDirectory(prefix="cacheserver-bench-") as name:
        place = Place(Path(name), _free_port(), answer)
        with (place.folder / "log").open("wb") as log:
            process = subprocess.Popen(
                subject.command(subject.find() or subject.program, place),
                cwd=place.folder,
                env={**_environment(), **subject.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield Running(subject, _wait_for(subject, place, process), process)
        finally:
            _stop(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(_SETTINGS)}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def _search_path() -> str:
    return os.pathsep.join((os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"))


def _wait_for(subject: Subject, place: Place, process: subprocess.Popen[bytes]) -> int:
    """Wait until it accepts connections; return where."""
    deadline = time.monotonic() + _DEADLINE
    log = place.folder / "log"
    while process.poll() is None and time.monotonic() < deadline:
        port = _port_of(log) if subject.port_from_log else place.port
        if port and _accepts(port):
            return port
        time.sleep(0.02)
    said = log.read_text(encoding="utf-8", errors="replace")[-2000:].strip()
    raise PeerError(f"{subject.title} did not start: {said or 'it said nothing'}")


def _port_of(log: Path) -> int | None:
    found = _LISTENING.search(log.read_bytes())
    return int(found[1]) if found else None


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_DEADLINE)
    except subprocess.TimeoutExpired:
        print(f"{process.args!r} did not end within {_DEADLINE:g} s: killed", file=sys.stderr)
        process.kill()
        process.wait()
    try:
        os.killpg(process.pid, signal.SIGKILL)  # what it may have left behind
    except ProcessLookupError:
        pass


def _family(pid: int) -> list[int]:
    """Return the process and its descendants, as /proc knows them."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(
                stat.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[1]
            )
        except OSError:  # gone meanwhile
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    family = [pid]
    for member in family:
        family.extend(children.get(member, ()))
    return family
