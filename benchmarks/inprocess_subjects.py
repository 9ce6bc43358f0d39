"""The maps that the benchmark of the store compares, each in the fastest form that we know.

A subject has a state that all threads share, and each thread makes itself a way in: functions that
read and write one key, with everything bound beforehand in that thread. Locks are taken through
prebound `acquire` and `release`, which is quicker than `with`; shared dicts are read by
`d[key]`, because `d.get(key)` is pathologically slow on free-threaded 3.13.
"""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from cacheserver import Store, StripedDict, operations
from cacheserver.store.entry import VALUE

NAMESPACE: Final = "bench"


@dataclass(frozen=True, slots=True)
class Way:
    """One thread's way to read and to write a key."""

    get: Callable[[str], Any]
    put: Callable[[str, bytes], Any]


@dataclass(frozen=True, slots=True)
class Subject:
    """Something that keeps values under keys."""

    name: str
    what: str
    make: Callable[[int], Any]
    """Return the state that the threads share, with room for so many keys."""
    enter: Callable[[Any], Way]
    """Return the calling thread's way in."""
    value: Callable[[Any], bytes] = lambda answer: answer
    """Return the value in what `get` returned."""
    close: Callable[[Any], None] = lambda state: None
    module: str | None = None
    """What must be installed."""
    private: bool = False
    """Each thread has a state of its own: nothing is shared."""


def _first(answer: Any) -> Any:
    return answer[0]


def _enter_items(state: Any) -> Way:
    return Way(state.__getitem__, state.__setitem__)


def _enter_locked(state: tuple[Any, Any]) -> Way:
    items, lock = state
    getitem, setitem = items.__getitem__, items.__setitem__
    acquire, release = lock.acquire, lock.release

    def get(key: str) -> Any:
        acquire()
        try:
            return getitem(key)
        finally:
            release()

    def put(key: str, value: bytes) -> None:
        acquire()
        try:
            setitem(key, value)
        finally:
            release()

    return Way(get, put)


def _enter_locked_plainly(state: tuple[dict[str, bytes], threading.Lock]) -> Way:
    items, lock = state

    def get(key: str) -> bytes:
        with lock:
            return items[key]

    def put(key: str, value: bytes) -> None:
        with lock:
            items[key] = value

    return Way(get, put)


def _enter_striped(state: StripedDict[str, bytes]) -> Way:
    view = state.view()
    return Way(view.read, view.put)


def _enter_store(state: Store) -> Way:
    view = state.view()
    name = NAMESPACE.encode().decode()  # this thread's own
    return Way(partial(operations.get, view, name), partial(operations.put, view, name))


def _make_store(_keys: int) -> Store:
    store = Store(max_memory=1 << 34)
    store.namespace(NAMESPACE)
    return store


def _make_cachetools(keys: int) -> tuple[Any, Any]:
    return importlib.import_module("cachetools").LRUCache(keys), threading.Lock()


def _make_cachebox(keys: int) -> Any:
    return importlib.import_module("cachebox").LRUCache(keys)


def _make_cereggii(_keys: int) -> Any:
    return importlib.import_module("cereggii").AtomicDict({})


def _make_theine(keys: int) -> Any:
    return importlib.import_module("theine").Cache(keys)


def _enter_theine(state: Any) -> Way:
    return Way(state.get, state.set)


STRIPED: Final = Subject(
    "StripedDict",
    "ours: a view a thread; versions, deadlines",
    lambda _keys: StripedDict(),
    _enter_striped,
    value=lambda entry: entry[VALUE],
)
STORE: Final = Subject(
    "Store",
    "ours as the server uses it: operations.get and put, checks, counters, memory limit",
    _make_store,
    _enter_store,
    value=lambda entry: entry[VALUE],
)
DICT_LOCK: Final = Subject(
    "dict, one lock",
    "a dict and one threading.Lock, prebound",
    lambda _keys: ({}, threading.Lock()),
    _enter_locked,
)
DICT_WITH: Final = Subject(
    "dict, with lock",
    "the same as people write it: `with lock: return items[key]`",
    lambda _keys: ({}, threading.Lock()),
    _enter_locked_plainly,
)
PRIVATE: Final = Subject(
    "private dicts",
    "ceiling: a dict a thread, nothing shared",
    lambda _keys: None,
    lambda _state: _enter_items({}),
    private=True,
)
SUBJECTS: Final = (
    PRIVATE,
    Subject(
        "dict, no lock",
        "ceiling for what shares: a bare dict",
        lambda _keys: {},
        _enter_items,
    ),
    STRIPED,
    STORE,
    DICT_LOCK,
    DICT_WITH,
    Subject(
        "cachetools",
        "LRUCache and one threading.Lock, prebound",
        _make_cachetools,
        _enter_locked,
        module="cachetools",
    ),
    Subject("cachebox", "LRUCache", _make_cachebox, _enter_items, module="cachebox"),
    Subject("cereggii", "AtomicDict", _make_cereggii, _enter_items, module="cereggii"),
    Subject(
        "theine",
        "Cache (W-TinyLFU)",
        _make_theine,
        _enter_theine,
        value=_first,
        close=lambda state: state.close(),
        module="theine",
    ),
)


def why_left_out(module: str) -> str | None:
    """Return why what needs this module cannot be compared here, None where it can.

    Asked of another process: an import that turns the GIL on would spoil all figures of this one.
    """
    if importlib.util.find_spec(module) is None:
        return "not installed"
    code = f"import sys, {module}; print(getattr(sys, '_is_gil_enabled', lambda: True)())"
    asked = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False
    )
    if asked.returncode:
        return f"its import fails: {asked.stderr.strip().rpartition('\n')[2]}"
    if sysconfig.get_config_var("Py_GIL_DISABLED") and asked.stdout.split()[-1] == "True":
        return "its import turns the GIL on"
    return None


def choose(subjects: tuple[Subject, ...] = SUBJECTS) -> tuple[list[Subject], dict[str, str]]:
    """Return the subjects that can be compared here, and of the others why not."""
    left_out = {
        subject.name: reason
        for subject in subjects
        if subject.module is not None and (reason := why_left_out(subject.module))
    }
    return [subject for subject in subjects if subject.name not in left_out], left_out
