"""A real server in a process of its own, for the time of a `with` block.

    with running_server("--threads", "2") as server:
        urlopen(server.url + "/healthz")

Guarantees:
- Inside the block the server accepts connections: its listening line has been read.
- At the end it has been stopped by SIGTERM, ended with the status expected, and left no traceback
  on standard error; otherwise the test fails and shows what the server wrote.
- However the block ends, the process is gone afterwards. Nothing waits without a deadline.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

DEADLINE: Final = 30.0
"""Seconds after which a server that hasn't started, or hasn't ended, fails the test."""

ROOT: Final = Path(__file__).resolve().parents[2]

_LISTENING: Final = re.compile(
    r"listening on http://(?P<host>\[[^\]]+\]|[^:]+):(?P<port>\d+) "
    r"\((?P<threads>\d+) threads?, (?P<stripes>\d+) stripes?, (?P<python>.+)\)"
)


def wait_until[T](probe: Callable[[], T], what: str, seconds: float = DEADLINE) -> T:
    """Return the first true result of `probe`, asked every 10 ms; fail with `what` when it stays false."""
    deadline = time.monotonic() + seconds
    while not (result := probe()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(0.01)
    return result


def server_environment(extra: Mapping[str, str | None] | None = None) -> dict[str, str]:
    """This process's environment without settings of the server, with `extra`; None takes one away."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CACHESERVER_")}
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT), *filter(None, [environment.get("PYTHONPATH")])]
    )
    for name, value in (extra or {}).items():
        if value is None:
            environment.pop(name, None)
        else:
            environment[name] = value
    return environment


def serve_command(*flags: str, python: str = sys.executable) -> list[str]:
    """The command line of a server on a free port; a `--port` among the flags wins."""
    return [python, "-m", "cacheserver", "serve", "--port", "0", *flags]


class RunningServer:
    """A server process, what it said, and where it listens."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        """What came on standard output so far."""
        self.host = ""
        """As a client wants it: an IPv6 address without its brackets."""
        self.port = 0
        self.threads = 0
        self.stripes = 0
        self.python = ""
        self._told_to_stop = False
        self._errors: list[str] = []
        self._readers = [
            self._reader(process.stdout, self.lines),
            self._reader(process.stderr, self._errors),
        ]

    @property
    def url(self) -> str:
        """`http://HOST:PORT`, without a slash at the end."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def stderr_text(self) -> str:
        """All that came on standard error so far."""
        return "".join(self._errors)

    def wait_until_listening(self) -> None:
        """Read the listening line; fail when the process ends first or the deadline passes."""
        found = wait_until(lambda: self._listening() or self._ended(), "the listening line")
        if not isinstance(found, re.Match):
            raise AssertionError(f"the server did not start: {found}\n{self._said()}")
        self.host = found["host"].strip("[]")
        self.port = int(found["port"])
        self.threads = int(found["threads"])
        self.stripes = int(found["stripes"])
        self.python = found["python"]

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send a signal, SIGTERM unless told otherwise."""
        self._told_to_stop |= number == signal.SIGTERM
        self.process.send_signal(number)

    def wait(self, seconds: float = DEADLINE) -> int:
        """Wait for the process and what it wrote; return its exit status."""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"the server did not end within {seconds:g} s\n{self._said()}"
            ) from None
        for reader in self._readers:
            reader.join(seconds)
        return status

    def stop(self, *, status: int = 0, tracebacks: bool = False) -> None:
        """End it by SIGTERM, unless that was sent already, and check how it ended."""
        if not self._told_to_stop and self.process.poll() is None:
            self.signal()
        ended = self.wait()
        assert ended == status, f"exit status {ended}, not {status}\n{self._said()}"
        if not tracebacks:
            assert "Traceback" not in self.stderr_text(), self._said()

    def kill(self) -> None:
        """Make sure that the process is gone."""
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()

    def _listening(self) -> re.Match[str] | None:
        return next(
            filter(None, map(_LISTENING.fullmatch, map(str.rstrip, list(self.lines)))), None
        )

    def _ended(self) -> str | None:
        status = self.process.poll()
        return None if status is None else f"it ended with status {status}"

    def _said(self) -> str:
        return f"--- stdout\n{''.join(self.lines)}\n--- stderr\n{self.stderr_text()}"

    @staticmethod
    def _reader(pipe: IO[str] | None, lines: list[str]) -> threading.Thread:
        assert pipe is not None

        def read() -> None:
            for line in pipe:
                lines.append(line)  # noqa: PERF402 (others look at it meanwhile)

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        return thread


def start_server(command: list[str], env: Mapping[str, str | None] | None = None) -> RunningServer:
    """Start `command` and return at once; the caller waits for it and ends it."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=server_environment(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    )
    return RunningServer(process)


@contextmanager
def running_server(
    *flags: str,
    env: Mapping[str, str | None] | None = None,
    python: str = sys.executable,
    command: list[str] | None = None,
    status: int = 0,
    tracebacks: bool = False,
) -> Generator[RunningServer]:
    """Start a server on a free port and stop it at the end of the block.

    `env` adds to the environment (None takes a variable away). `status` is the exit status that is
    right, and `tracebacks` allows one on standard error, for tests of what goes wrong. `command`
    replaces the whole command line.
    """
    server = start_server(command or serve_command(*flags, python=python), env)
    try:
        server.wait_until_listening()
        yield server
        server.stop(status=status, tracebacks=tracebacks)
    finally:
        server.kill()


def run_to_end(
    *arguments: str,
    env: Mapping[str, str | None] | None = None,
    python: str = sys.executable,
) -> subprocess.CompletedProcess[str]:
    """Run `python -m cacheserver ARGUMENTS`, which is expected to end by itself."""
    return subprocess.run(
        [python, "-m", "cacheserver", *arguments],
        cwd=ROOT,
        env=server_environment(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=DEADLINE,
        check=False,
    )
