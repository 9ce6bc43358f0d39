"""Everything the package raises on purpose, as one tree.

    CacheServerError
    |-- InvalidInput (also a ValueError)      the caller's words are off; nothing was changed
    |   |-- InvalidKey                        empty, or not text that UTF-8 can carry
    |   |-- KeyTooLong                        more than MAX_KEY_BYTES once encoded
    |   |-- InvalidNamespace                  not 1 to 64 of A-Z a-z 0-9 . _ -
    |   |-- InvalidTTL                        negative, not finite, or beyond ten years
    |   `-- InvalidConfig                     a namespace's limit, policy or flag that is none
    |-- LimitExceeded                         a limit that the operator set is in the way
    |   |-- ValueTooLarge                     longer than the largest value allowed
    |   |-- NeverFits                         an entry larger than a limit, were all else evicted
    |   |-- StoreFull                         no memory left, and the policy evicts nothing
    |   `-- TooManyNamespaces                 one namespace more than allowed
    |-- ConditionRequired                     a write without a condition where one is required
    |-- NamespaceGone                         a namespace that was dropped meanwhile; never leaves the store
    |-- WrongValue                            the value there is not what the operation needs
    |   |-- NotAnInteger                      no decimal integer of 64 bits
    |   `-- IntegerOverflow                   the sum is beyond 64 bits
    |-- Contention                            too many others wrote the same key at once
    |-- LockMisuse (also a RuntimeError)      a lock taken again or upgraded by the thread that has it
    |-- SettingsError                         a flag, a variable or a file that cannot be used
    `-- StartupError                          the settings are fine and the server still cannot start

A miss and a condition that does not hold are ordinary outcomes and have no place here: they are
return values (see `cacheserver.store.outcomes`). HTTP statuses are given to these classes in
`cacheserver.http.problems`, and a test asks that none is forgotten.
"""

from __future__ import annotations


class CacheServerError(Exception):
    """Root of the tree. `str()` of each is one sentence: what was wrong and what would be right."""


class InvalidInput(CacheServerError, ValueError):
    """The caller's words are off. Nothing was changed."""


class InvalidKey(InvalidInput):
    """A key that is empty or that UTF-8 cannot carry."""


class KeyTooLong(InvalidInput):
    """A key of more than the allowed bytes."""


class InvalidNamespace(InvalidInput):
    """A namespace's name outside `[A-Za-z0-9._-]{1,64}`."""


class InvalidTTL(InvalidInput):
    """A time to live that is negative, not finite, or beyond ten years."""


class InvalidConfig(InvalidInput):
    """A limit, a policy or a flag of a namespace that is none."""


class LimitExceeded(CacheServerError):
    """A limit that the operator set is in the way. Nothing was changed."""


class ValueTooLarge(LimitExceeded):
    """A value longer than the largest one allowed."""


class NeverFits(LimitExceeded):
    """An entry that is larger than a limit, whatever were evicted for it."""


class StoreFull(LimitExceeded):
    """No memory left for this write, and nothing may be evicted for it."""


class TooManyNamespaces(LimitExceeded):
    """The write would make one namespace more than allowed."""


class ConditionRequired(CacheServerError):
    """A write without a condition in a namespace that requires one. Nothing was changed."""


class NamespaceGone(CacheServerError):
    """The namespace was dropped after the caller found it: look it up again."""


class WrongValue(CacheServerError):
    """The value that is there is not what the operation needs. Nothing was changed."""


class NotAnInteger(WrongValue):
    """A value to count with that is not the decimal text of a signed integer of 64 bits."""


class IntegerOverflow(WrongValue):
    """A sum that no signed integer of 64 bits can hold."""


class Contention(CacheServerError):
    """An optimistic update that others were too quick for, each time. Nothing was changed."""


class LockMisuse(CacheServerError, RuntimeError):
    """A lock taken again, upgraded, or released by a thread that may not: it would hang instead."""


class SettingsError(CacheServerError):
    """A flag, an environment variable or a file that cannot be used: a usage error."""


class StartupError(CacheServerError):
    """The settings are fine and the server still cannot start, for example a port in use."""
