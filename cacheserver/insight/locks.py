"""Where threads wait for locks, and what to do about it, ready for JSON."""

from __future__ import annotations

from typing import Final

from cacheserver.insight.advice import Advice, advise
from cacheserver.insight.figures import Figures, KeyFigures, NamespaceFigures, Waits

NAMESPACES: Final = 100
"""Namespaces that are told."""
_STRIPES: Final = 8
_KEYS: Final = 3


def lock_report(figures: Figures, limit: int = NAMESPACES) -> dict[str, object]:
    """Return the figures with the advice that they give, of `limit` namespaces at most."""
    told = figures.namespaces[:limit]
    return {
        "seconds": round(figures.seconds, 3),
        "wait_ratio": rounded(figures.ratio(figures.wait_seconds)),
        "request_seconds": round(figures.request_seconds, 9),
        "wait_seconds": round(figures.wait_seconds, 9),
        "advice": [_advice(advice) for advice in advise(figures)],
        "namespaces": [_namespace(figures, namespace) for namespace in told],
        "namespaces_left_out": len(figures.namespaces) - len(told),
    }


def rounded(ratio: float | None) -> float | None:
    """Return a ratio with as many digits as mean something."""
    return None if ratio is None else round(ratio, 6)


def _advice(of: Advice) -> dict[str, object]:
    return of._asdict()


def _namespace(figures: Figures, of: NamespaceFigures) -> dict[str, object]:
    contended = [0] * of.stripes if of.by_stripe else []
    for stripe in of.by_stripe:
        contended[stripe.stripe] = stripe.contended
    return {
        "name": of.name,
        "stripes": of.stripes,
        "wait_ratio": rounded(figures.ratio(of.wait_seconds)),
        "wait_seconds": round(of.wait_seconds, 9),
        "locks": {
            "stripe": _lock(of.acquisitions, of.stripe),
            "namespace_read": _lock(of.acquisitions, of.read),
            "namespace_write": _lock(of.holds, of.write)
            | {"holds": of.holds, "hold_seconds": round(of.hold_seconds, 9)},
        },
        "writes": of.writes,
        "cas_conflicts": of.conflicts,
        "conflict_ratio": rounded(of.conflict_ratio),
        "stripe_contended": contended,
        "hottest": [
            {
                "stripe": stripe.stripe,
                "contended": stripe.contended,
                "wait_seconds": round(stripe.seconds, 9),
                "share": _share(stripe.seconds, of.stripe.seconds),
            }
            for stripe in of.by_stripe[:_STRIPES]
        ],
        "hot_keys": [
            {"key": key.key, "wait_seconds": round(key.amount, 9), "share": round(key.share, 6)}
            for key in of.wait_keys[:_KEYS]
        ],
        "conflict_keys": [
            {"key": key.key, "conflicts": _count(key), "share": round(key.share, 6)}
            for key in of.conflict_keys[:_KEYS]
        ],
    }


def _lock(acquisitions: int, waits: Waits) -> dict[str, object]:
    return {
        "acquisitions": acquisitions,
        "contended": waits.contended,
        "wait_seconds": round(waits.seconds, 9),
    }


def _share(part: float, whole: float) -> float:
    # Of two readings, the part's is the later one.
    return round(min(1.0, part / whole), 6) if whole else 0.0


def _count(key: KeyFigures) -> int:
    return round(key.amount)
