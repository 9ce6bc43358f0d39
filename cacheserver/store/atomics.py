"""AtomicReference and AtomicCounter: one value that many threads change without losing a change.

Guarantees:
- Every method happens at one instant between call and return, as all others see it.
- `compare_and_set` changes the value only if it is the expected one at that very instant.
- The counter is compiled, on the processor's own operations (`integers.pyx`). Nobody ever waits.
- The two implementations of the reference behave the same: with the processor's compare-exchange
  where the package cereggii is installed (the extra `atomics`), with a lock otherwise.
  `IMPLEMENTATION` tells which.

Assumes of the interpreter, where there is a lock: reading or replacing one attribute is atomic.

Importing this module imports cereggii if it is there. `cacheserver` itself does not import it, so
that no process gets an extension module of others that it did not ask for. A cereggii before 1.0 is
left alone: it might turn the GIL on.
"""

from __future__ import annotations

import importlib.metadata
import threading
from collections.abc import Callable
from typing import Any, Final, Literal

from cacheserver.store.integers import AtomicCounter

__all__ = [
    "IMPLEMENTATION",
    "AtomicCounter",
    "AtomicReference",
    "ExchangedReference",
    "LockedReference",
]


def _import_cereggii() -> Any:
    try:
        version = importlib.metadata.version("cereggii")
        if int(version.partition(".")[0]) < 1:
            return None
        import cereggii
    except ImportError:  # of which PackageNotFoundError is one
        return None
    return cereggii


_cereggii: Final = _import_cereggii()

IMPLEMENTATION: Final[Literal["compare-exchange", "lock"]] = (
    "lock" if _cereggii is None else "compare-exchange"
)


class LockedReference[T]:
    """A reference to one object, with compare-and-set, on a lock. Reading takes no lock."""

    __slots__ = ("_lock", "_value")

    def __init__(self, value: T) -> None:
        self._lock = threading.Lock()  # whoever replaces _value has it
        self._value = value

    def get(self) -> T:
        """Return the object."""
        return self._value

    def set(self, value: T) -> None:
        """Replace the object, whatever it is."""
        with self._lock:
            self._value = value

    def exchange(self, value: T) -> T:
        """Replace the object and return the one that was there."""
        with self._lock:
            old, self._value = self._value, value
        return old

    def compare_and_set(self, expected: T, value: T) -> bool:
        """Replace the object if it is `expected`, that very object; return whether it was."""
        with self._lock:
            if self._value is not expected:
                return False
            old, self._value = self._value, value
        del old  # freed here, outside the lock
        return True

    def update(self, function: Callable[[T], T]) -> T:
        """Replace the object by what `function` makes of it; return the new one.

        It runs outside the lock and is called again whenever another thread was quicker.
        """
        return _update(self, function)


class ExchangedReference[T]:
    """A reference to one object, with the processor's compare-exchange. Nobody ever waits."""

    __slots__ = ("_reference",)

    def __init__(self, value: T) -> None:
        self._reference = _cereggii.AtomicRef(value)

    def get(self) -> T:
        """Return the object."""
        return self._reference.get()  # type: ignore[no-any-return]

    def set(self, value: T) -> None:
        """Replace the object, whatever it is."""
        self._reference.set(value)

    def exchange(self, value: T) -> T:
        """Replace the object and return the one that was there."""
        return self._reference.get_and_set(value)  # type: ignore[no-any-return]

    def compare_and_set(self, expected: T, value: T) -> bool:
        """Replace the object if it is `expected`, that very object; return whether it was."""
        return self._reference.compare_and_set(expected, value)  # type: ignore[no-any-return]

    def update(self, function: Callable[[T], T]) -> T:
        """Replace the object by what `function` makes of it; return the new one.

        It is called again whenever another thread was quicker.
        """
        return _update(self, function)


def _update[T](
    reference: LockedReference[T] | ExchangedReference[T], function: Callable[[T], T]
) -> T:
    while True:
        old = reference.get()
        new = function(old)
        if reference.compare_and_set(old, new):
            return new


if _cereggii is None:
    AtomicReference = LockedReference
else:
    AtomicReference = ExchangedReference  # type: ignore[misc, assignment]
