"""Threads that die take the process with them, and say why."""

from __future__ import annotations

import contextvars
import os
import signal
import sys
import threading
import time

import pytest

from cacheserver.server.threads import Ended, Mailbox, Signal, start_thread
from tests.support.server import running_server, start_server, wait_until
from tests.support.wire import Wire, request

FAULTY_SERVER = """
import sys
from cacheserver.server import Hooks, run
from cacheserver.settings import Settings

def tick(index):
    if index == 1 and armed():
        raise {error}

def accepted():
    if armed():
        raise {error}

def armed():
    global calls
    calls += 1
    return calls > {after}

def hang(index):
    import threading
    threading.Event().wait()

calls = 0
sys.exit(run(Settings(port=0, threads=2, grace=1), hooks=Hooks({hook}={function})))
"""


def faulty(hook: str, error: str = "", after: int = 0, function: str = "") -> list[str]:
    """Return the command of a server whose hook raises `error` after so many calls."""
    code = FAULTY_SERVER.format(hook=hook, error=error, after=after, function=function or hook)
    return [sys.executable, "-c", code]


@pytest.mark.parametrize(
    ("hook", "error", "thread"),
    [
        ("tick", "RuntimeError('the tick broke')", "cacheserver-loop-1"),
        ("accepted", "RuntimeError('the acceptor broke')", "cacheserver-acceptor"),
        ("accepted", "SystemExit(0)", "cacheserver-acceptor"),
    ],
)
def test_a_thread_that_dies_ends_the_process(hook: str, error: str, thread: str) -> None:
    """Whichever thread dies, the log names it and its error, and the status is 1."""
    command = faulty(hook, error, after=3 if hook == "tick" else 0)
    with running_server(command=command, status=1, tracebacks=True) as server:
        started = time.monotonic()
        if hook == "accepted":
            Wire(server).close()
        assert server.wait() == 1
        assert time.monotonic() - started < 10
        said = server.stderr_text()
        assert f"{thread} ended, and the server with it" in said
        assert "Traceback" in said
        assert ("broke" in said) or ("SystemExit" in said)


def test_requests_on_other_loops_are_finished_when_one_dies() -> None:
    """The loops that live still answer what they had begun, for a moment."""
    with running_server(
        command=faulty("tick", "KeyError", 20), status=1, tracebacks=True
    ) as server:
        with Wire(server) as wire:  # the first connection goes to the first loop
            wire.send(request("PUT", "/v1/kv/a/b", b"xx")[:-1])
            wait_until(lambda: "ended" in server.stderr_text(), "the death is told")
            assert wire.send(b"x").answer().status == 201
        assert server.wait() == 1


def test_a_thread_that_hangs_does_not_hold_the_process() -> None:
    """A loop that is stuck is named after the grace period, and the process ends with status 1."""
    with running_server(command=faulty("tick", function="hang"), status=1) as server:
        started = time.monotonic()
        server.signal()
        assert server.wait() == 1
        assert time.monotonic() - started < 15
        assert "don't end: cacheserver-loop-0, cacheserver-loop-1" in server.stderr_text()


def test_a_loop_that_cannot_start_is_one_line() -> None:
    """Without descriptors for its loops the server says so in one line, with status 1."""
    code = (
        "import resource, sys\n"
        "from cacheserver.cli import main\n"
        "from cacheserver import server\n"  # all imports, before there's a shortage
        "_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (12, 12))\n"
        "sys.exit(main(['serve', '--port', '0', '--threads', '8', '--log-level', 'error']))\n"
    )
    server = start_server([sys.executable, "-c", code])
    try:
        assert server.wait() == 1
        lines = server.stderr_text().splitlines()
        assert lines[-1].startswith("cacheserver: cacheserver-loop-")
        assert "Traceback" not in server.stderr_text()
    finally:
        server.kill()


def test_a_thread_tells_its_end() -> None:
    """The end is told once, with the error where there is one."""
    told: list[Ended] = []
    error = KeyError("x")

    def fail() -> None:
        raise error

    start_thread("fails", fail, told.append).join(10)
    start_thread("works", lambda: None, told.append).join(10)
    assert told == [Ended("fails", error), Ended("works", None)]


def test_a_thread_starts_with_an_empty_context() -> None:
    """What the creator's context holds doesn't reach the thread."""
    variable = contextvars.ContextVar("variable", default="default")
    seen: list[str] = []
    token = variable.set("the creator's")
    try:
        start_thread("looks", lambda: seen.append(variable.get()), lambda _: None).join(10)
    finally:
        variable.reset(token)
    assert seen == ["default"]


def test_the_mailbox_times_out() -> None:
    """Nothing posted: nothing comes, after the time."""
    with Mailbox() as mailbox:
        started = time.monotonic()
        assert mailbox.receive(timeout=0.05) is None
        assert time.monotonic() - started >= 0.04


def test_the_mailbox_loses_nothing() -> None:
    """All that many threads post arrives, however full the wakeup socket is."""
    threads, each = 4, 20_000
    with Mailbox() as mailbox:

        def post() -> None:
            for number in range(each):
                mailbox.post(Ended(f"{threading.current_thread().name} {number}", None))

        posting = [threading.Thread(target=post) for _ in range(threads)]
        for thread in posting:
            thread.start()
        got = {mailbox.receive(timeout=10) for _ in range(threads * each)}
        for thread in posting:
            thread.join(10)
        assert len(got) == threads * each
        assert None not in got


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_the_mailbox_gets_signals() -> None:
    """What the interpreter writes to the wakeup descriptor arrives as a signal."""
    with Mailbox() as mailbox:
        before = signal.signal(signal.SIGUSR1, lambda *_: None)
        wakeup = signal.set_wakeup_fd(mailbox.wakeup_fd)
        try:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert mailbox.receive(timeout=10) == Signal(signal.SIGUSR1)
        finally:
            signal.set_wakeup_fd(wakeup)
            signal.signal(signal.SIGUSR1, before)
