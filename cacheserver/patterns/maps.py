"""Read-write locks by the share of writes, and stripes by their number."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final, Protocol

from cacheserver.patterns.measure import Case, Loop, Row
from cacheserver.patterns.tables import cells, matrix, threads_in_words
from cacheserver.store.rwcache import RWCache
from cacheserver.store.striped import StripedDict

SHARES: Final = "shares"
STRIPES: Final = "stripes"

WRITE_SHARES: Final = (0.0, 0.001, 0.01, 0.1, 0.5)
STRIPE_COUNTS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)

_KEYS: Final = 1024
_LENGTH: Final = 4096
_CHUNK: Final = 128
"""Operations between two looks at the clock."""


class _Map(Protocol):
    def get(self, key: str) -> object: ...
    def put(self, key: str, value: int) -> object: ...


class _BareDict:
    def __init__(self) -> None:
        self._data: dict[str, int] = {}

    def get(self, key: str) -> object:
        return self._data[key]

    def put(self, key: str, value: int) -> None:
        self._data[key] = value


class _LockedDict:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._data: dict[str, int] = {}

    def get(self, key: str) -> object:
        with self._lock:
            return self._data[key]

    def put(self, key: str, value: int) -> None:
        with self._lock:
            self._data[key] = value


MAPS: Final[dict[str, Callable[[], _Map]]] = {
    "dict, no lock": _BareDict,
    "dict, one Lock": _LockedDict,
    "RWCache": RWCache,
    "StripedDict": StripedDict,
}


def _key(number: int) -> str:
    return f"key:{number:08d}"


def _script(worker: int, write_share: float) -> list[list[tuple[str, int | None]]]:
    """Draw what a worker does: a key, and what to write; None: the key is read."""
    draw = random.Random(worker)  # noqa: S311 (load, no secret)
    writing = set(draw.sample(range(_LENGTH), round(_LENGTH * write_share)))
    steps = [
        (_key(draw.randrange(_KEYS)), number if number in writing else None)
        for number in range(_LENGTH)
    ]
    return [steps[first : first + _CHUNK] for first in range(0, _LENGTH, _CHUNK)]


def _run(
    get: Callable[[str], object],
    put: Callable[[str, int], object],
    script: list[list[tuple[str, int | None]]],
    seconds: float,
) -> tuple[int, float]:
    operations, started = 0, perf_counter()
    while True:
        for chunk in script:
            for key, value in chunk:
                if value is None:
                    get(key)
                else:
                    put(key, value)
            operations += _CHUNK
            elapsed = perf_counter() - started
            if elapsed >= seconds:
                return operations, elapsed


@dataclass(slots=True)
class _MapTrial:
    made: Any
    write_share: float

    def __post_init__(self) -> None:
        for number in range(_KEYS):
            self.made.put(_key(number), number)

    def prepare(self, worker: int) -> Loop:
        script = _script(worker, self.write_share)
        if isinstance(self.made, StripedDict):
            own = self.made.view()
            return lambda seconds: _run(own.read, own.put, script, seconds)
        get, put = self.made.get, self.made.put
        return lambda seconds: _run(get, put, script, seconds)

    def figures(self, _operations: int, _seconds: float) -> dict[str, float]:
        if not isinstance(self.made, StripedDict):
            return {}
        lock = self.made.statistics().stripe_lock
        return {"waited": lock.contended / lock.acquisitions}


def share_cases(threads: Sequence[int]) -> list[Case]:
    """Return the cases of reads and writes, mixed."""
    return [
        Case(SHARES, name, f"{share:g}", count, lambda n=new, s=share: _MapTrial(n(), s))  # type: ignore[misc]
        for count in threads
        for name, new in MAPS.items()
        for share in WRITE_SHARES
    ]


def stripe_cases(threads: Sequence[int]) -> list[Case]:
    """Return the cases of writes alone, by stripes."""
    return [
        Case(
            STRIPES,
            "StripedDict.put",
            str(stripes),
            count,
            lambda s=stripes: _MapTrial(StripedDict(s), 1.0),  # type: ignore[misc]
        )
        for count in threads
        for stripes in STRIPE_COUNTS
    ]


def shares_report(rows: Sequence[Row]) -> str:
    """Say what an operation costs, by the share of writes."""
    return matrix(
        "ns an operation; writes",
        rows,
        lambda row: f"{row.case.subject}, {threads_in_words(row.case.threads)}",
        cells,
        lambda row: f"{float(row.case.setting):.1%}",
    )


def stripes_report(rows: Sequence[Row]) -> str:
    """Say what a write costs, by the number of stripes, and how many of them had to wait."""
    return matrix(
        "stripes",
        rows,
        lambda row: row.case.setting,
        lambda row: f"{cells(row)}, {row.figure('waited'):.2%} waited",
        lambda row: f"ns a put, {threads_in_words(row.case.threads)}",
    )
