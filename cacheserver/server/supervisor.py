"""What the main thread does: it starts the server, and then waits for signals and dying threads.

Guarantees:
- Until a stop is asked for, the end of any thread ends the process with status 1, and the log says
  what ended it.
- SIGTERM and SIGINT stop gracefully, with status 0; a second one ends at once, with status 1.
- Signals are handled from before the listening line is printed.
"""

from __future__ import annotations

import gc
import logging
import platform
import signal
import sys
import sysconfig
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final

from cacheserver.errors import StartupError
from cacheserver.server.server import Hooks, Server
from cacheserver.server.threads import Ended, Event, Mailbox, Signal
from cacheserver.settings import Settings, gil_is_on

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_HURRY: Final = 1.0
"""Seconds for an end that can't wait: after a second signal, or after a thread has died."""
_OVERDUE: Final = 5.0
"""Seconds after the grace period in which the threads have ended, or hang."""

_log: Final = logging.getLogger(__name__)


def run(
    settings: Settings,
    *,
    hooks: Hooks | None = None,
    announce: Callable[[str], None] | None = None,
) -> int:
    """Run a server until a signal stops it, and return the exit status.

    It is the whole program: it sets up logging, handles signals, and so must be called in the main
    thread. `announce` gets the lines for standard output. Raises StartupError where the server can't
    start.
    """
    _set_up_logging(settings.log_level)
    _check_gil()
    with Mailbox() as events, _signals_to(events.wakeup_fd):
        server = Server(settings, hooks, events.post)
        server.start()
        # What is there now stays until the end: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        for line in _welcome(server):
            (announce or _say)(line)
        return _supervise(server, events)


def _supervise(server: Server, events: Mailbox) -> int:
    event = events.receive()
    if isinstance(event, Ended):
        _tell_death(event)
        server.stop(min(_HURRY, server.settings.grace))
        return 1
    assert isinstance(event, Signal)
    _log.info("%s: finishing what is in flight", signal.Signals(event.number).name)
    return _drain(server, events)


def _drain(server: Server, events: Mailbox) -> int:
    deadline = server.drain(server.settings.grace) + _OVERDUE
    for _ in range(server.threads):
        event = events.receive(deadline - time.monotonic())
        if event is None:
            _log.critical("these threads don't end: %s", ", ".join(server.alive()))
            return 1
        if isinstance(event, Signal) or event.error is not None:
            _tell_haste(event)
            server.stop(grace=0)
            return 1
    return 0 if server.join(deadline) else 1


def _tell_haste(event: Event) -> None:
    if isinstance(event, Ended):
        _tell_death(event)
    else:
        _log.warning("a second signal: ending at once")


def _tell_death(event: Ended) -> None:
    _log.critical(
        "%s ended, and the server with it: %r", event.thread, event.error, exc_info=event.error
    )


def _welcome(server: Server) -> list[str]:
    settings = server.settings
    threads = f"{settings.threads} thread{'s' if settings.threads > 1 else ''}"
    line = f"listening on {server.url} ({threads}, {settings.stripes} stripes, {_interpreter()})"
    return [f"token for this run: {server.token}", line] if settings.auto_token else [line]


def _interpreter() -> str:
    name = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{name} with the GIL" if gil_is_on() else f"free-threaded {name}"


def _say(line: str) -> None:
    if sys.stdout is None:
        return
    try:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except OSError as error:
        _log.warning("cannot write to standard output: %s", error)


def _check_gil() -> None:
    if not sysconfig.get_config_var("Py_GIL_DISABLED") or not gil_is_on():
        return
    if not _gil_was_asked_for():
        raise StartupError(
            "a library turned the GIL on, so threads would wait for each other: the warning above "
            "names it; to go on with it set PYTHON_GIL=1"
        )
    _log.warning("the GIL is on, as PYTHON_GIL=1 or -X gil=1 asks for: threads wait for each other")


def _gil_was_asked_for() -> bool:
    return getattr(sys.flags, "gil", None) == 1


def _set_up_logging(level: str) -> None:
    logging.basicConfig(
        level=level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(threadName)s %(name)s: %(message)s",
    )
    # uvicorn asks the level of its own logger only, and NOTSET would mean that it traces.
    logging.getLogger("uvicorn.error").setLevel(level.upper())


@contextmanager
def _signals_to(wakeup_fd: int) -> Generator[None]:
    """Have signals written to a descriptor instead of doing what they do otherwise."""
    before = {number: signal.signal(number, _do_nothing) for number in _SIGNALS}
    wakeup_before = signal.set_wakeup_fd(wakeup_fd, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup_before)
        for number, handler in before.items():
            signal.signal(number, handler)


def _do_nothing(number: int, frame: object) -> None:
    """The interpreter has written the number to the wakeup descriptor already."""
