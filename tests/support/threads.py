"""Threads for tests: none fails unseen, none hangs unseen, and races are forced, not hoped for.

Guarantees:
- An exception in a thread is raised in the test that waits for it.
- Whatever waits here has a deadline; one that passes fails the test and shows where every thread
  stands. Threads are daemons, so that a hanging one doesn't keep the test run alive.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, Final, cast

DEADLINE: Final = 30.0
"""Seconds after which something that didn't happen fails the test."""


class Running[T]:
    """A call under way in a thread of its own."""

    def __init__(self, function: Callable[[], T], name: str = "") -> None:
        self._function = function
        self._result: T | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name or None, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._function()
        except BaseException as failure:
            self._failure = failure

    @property
    def done(self) -> bool:
        """Whether the call has ended, one way or the other."""
        return not self._thread.is_alive()

    def result(self, seconds: float = DEADLINE) -> T:
        """Wait for the end and return what the call returned, or raise what it raised."""
        self._thread.join(seconds)
        if not self.done:
            raise AssertionError(f"{self._thread.name} hangs; stacks:\n{stacks()}")
        if self._failure is not None:
            raise self._failure
        return cast(T, self._result)


def start[T](function: Callable[[], T], name: str = "") -> Running[T]:
    """Call `function` in a thread of its own."""
    return Running(function, name)


def run_threads[T](functions: Sequence[Callable[[], T]], seconds: float = DEADLINE) -> list[T]:
    """Call each function in a thread of its own, all from one instant on; return the results.

    The first failure of any is raised again, once all have ended.
    """
    together = threading.Barrier(len(functions))

    def begin(function: Callable[[], T]) -> T:
        together.wait(seconds)
        return function()

    deadline = time.monotonic() + seconds
    running = [
        start(lambda function=function: begin(function), f"thread {number}")  # type: ignore[misc]
        for number, function in enumerate(functions)
    ]
    results, failures = [], []
    for thread in running:
        try:
            results.append(thread.result(max(0.0, deadline - time.monotonic())))
        except BaseException as failure:
            failures.append(failure)
    if failures:
        raise failures[0]
    return results


def in_thread[T](function: Callable[[], T], seconds: float = DEADLINE) -> T:
    """Call `function` in a thread of its own and wait for it."""
    return start(function).result(seconds)


def eventually(probe: Callable[[], object], what: str, seconds: float = DEADLINE) -> None:
    """Return once `probe()` is true; fail with `what` if it stays false."""
    deadline = time.monotonic() + seconds
    while not probe():
        if time.monotonic() > deadline:
            raise AssertionError(f"never happened: {what}; stacks:\n{stacks()}")
        time.sleep(0.0005)


class Gate:
    """A place at which a thread stops until the test lets it go on.

    The thread calls `wait()` (or the gate itself); the test `arrived()`, then `open()`. Once open
    it stays open. `holding` makes it one of a `with` block, which opens it at the end.
    """

    def __init__(self) -> None:
        self._arrived = threading.Event()
        self._open = threading.Event()

    def wait(self) -> None:
        """Stop here until the gate is open."""
        self._arrived.set()
        if not self._open.wait(DEADLINE):
            raise AssertionError(f"nobody opened the gate; stacks:\n{stacks()}")

    __call__ = wait

    def arrived(self) -> None:
        """Wait until a thread stands at the gate."""
        if not self._arrived.wait(DEADLINE):
            raise AssertionError(f"nobody came to the gate; stacks:\n{stacks()}")

    def open(self) -> None:
        """Let go whoever waits, and whoever comes later."""
        self._open.set()

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *_: object) -> None:
        self.open()


def call_before(thing: Any, method: str, hook: Callable[[], object]) -> None:
    """Have `hook` called whenever this method of this one object is about to run.

    The object gets a class of its own, so that it works where a class allows no new attributes.
    """
    kind = type(thing)

    def hooked(self: Any, *args: Any, **options: Any) -> Any:
        hook()
        return getattr(kind, method)(self, *args, **options)

    thing.__class__ = type(kind.__name__, (kind,), {"__slots__": (), method: hooked})


@contextmanager
def frequent_switches(seconds: float = 1e-5) -> Generator[None]:
    """Have an interpreter with the GIL change threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(seconds)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def stacks() -> str:
    """Where every thread stands."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(
        f"--- {names.get(identity, identity)}\n{''.join(traceback.format_stack(frame))}"
        for identity, frame in sys._current_frames().items()
    )
