"""Namespaces in JSON: what configures one, and what is told of it."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any, Final

from cacheserver.http import bodies
from cacheserver.store.namespace import NamespaceConfig, NamespaceStatistics

_FIELDS: Final = tuple(field.name for field in fields(NamespaceConfig))


def parse(body: bytes) -> dict[str, Any]:
    """Read the fields of a configuration. Whether their values can be used, the store knows."""
    return bodies.parse_object(body, _FIELDS)


def render(statistics: NamespaceStatistics) -> dict[str, object]:
    """Return what is told of a namespace."""
    reads = statistics.hits + statistics.misses
    return {
        "name": statistics.name,
        "config": asdict(statistics.config),
        "figures": {
            "entries": statistics.entries,
            "bytes": statistics.bytes,
            "hits": statistics.hits,
            "misses": statistics.misses,
            "hit_ratio": round(statistics.hits / reads, 6) if reads else None,
            "writes": statistics.writes,
            "cas_conflicts": statistics.cas_conflicts,
            "evictions": dict(statistics.evictions),
            "expirations": statistics.expirations,
        },
    }
