"""The hot keys, ready for JSON."""

from __future__ import annotations

from typing import Final

from cacheserver.store.heat import HotKey, HotKeys

HOT_KEYS: Final = 20
"""Keys of each kind that are told."""


def hot_keys_report(hot: HotKeys) -> dict[str, object]:
    """Return the hottest keys of each kind, with the bounds of their errors."""
    report: dict[str, object] = {"seconds": round(hot.seconds, 3), "sampled": dict(hot.sampled)}
    for kind, keys in hot.kinds.items():
        report[kind] = [_wait(key) if kind == "waits" else _count(key) for key in keys]
    return report


def _count(of: HotKey) -> dict[str, object]:
    return {
        "namespace": of.namespace,
        "key": of.key,
        "count": of.count,
        "overcount": of.overcount,
        "margin": round(of.margin),
        "share": round(of.share, 6),
    }


def _wait(of: HotKey) -> dict[str, object]:
    return {
        "namespace": of.namespace,
        "key": of.key,
        "seconds": of.count / 1e9,
        "overcount_seconds": of.overcount / 1e9,
        "share": round(of.share, 6),
    }
