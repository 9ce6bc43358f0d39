"""cacheserver: a sharded in-memory cache for many threads, and the server that puts HTTP before it.

The library is what this module exports; the ASGI app comes from `cacheserver.http.create_app`.
"""

from cacheserver.clock import Clock
from cacheserver.errors import CacheServerError, Contention
from cacheserver.store.counters import LockedCounter, ShardedCounter
from cacheserver.store.locks import LockStatistics, RWLock, TimedLock
from cacheserver.store.namespace import Namespace
from cacheserver.store.optimistic import OptimisticDict
from cacheserver.store.outcomes import Condition, Conflict, Deleted, Missing, Written
from cacheserver.store.rwcache import RWCache
from cacheserver.store.store import Store
from cacheserver.store.striped import StripedDict

__version__ = "0.1.0"

__all__ = [
    "CacheServerError",
    "Clock",
    "Condition",
    "Conflict",
    "Contention",
    "Deleted",
    "LockStatistics",
    "LockedCounter",
    "Missing",
    "Namespace",
    "OptimisticDict",
    "RWCache",
    "RWLock",
    "ShardedCounter",
    "Store",
    "StripedDict",
    "TimedLock",
    "Written",
    "__version__",
]
