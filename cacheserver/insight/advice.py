"""Advice: what the figures of a window mean, in words, and what to do.

Guarantees: it is a pure function of the figures; what to act on comes first, and of that what costs
most; nothing is advised on a handful of events; there is always at least one sentence about waits.

The rule behind it all: locks are worth work once threads spend more than a tenth of their time
waiting for them. Below a fiftieth nobody would notice the difference.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final, Literal, NamedTuple

from cacheserver.insight.figures import Figures, Holder, KeyFigures, NamespaceFigures
from cacheserver.store.striped import DEFAULT_STRIPES

type Severity = Literal["act", "watch", "fine"]

ACT: Final = 0.10
"""Part of the time: from here on waits for locks are worth work."""
WATCH: Final = 0.02
"""Part of the time: what a single cause takes below it is within what measuring and chance give."""
LARGE_PART: Final = 0.25
"""Part of all waits: a cause that has so much stands out."""
TARGET: Final = 0.05
"""Part of the time to aim at when stripes are added: half of ACT, so that there is room to grow."""
MIN_REQUESTS: Final = 100
"""Fewer requests tell nothing of how threads spend their time."""
MIN_WAITS: Final = 100
"""Fewer waits for stripes may be chance: of 100 that are spread evenly over 64 stripes the 8 with
the most have about 30 per cent, far below FEW_SHARE."""
MIN_WHOLE_WAITS: Final = 10
"""Fewer for a whole namespace may be one operation, done once. One that is repeated stops every
writer each time, so that each wait tells more than one for a stripe."""
MIN_CONFLICTS: Final = 100
"""Fewer refused writes may be chance."""
HOT_KEY: Final = 0.5
"""Part of the waits, conflicts or reads: a key that has so much outweighs all others together."""
FEW_KEYS: Final = 3
"""Keys that can be dealt with one by one, where together they have FEW_SHARE."""
FEW_STRIPES: Final = 8
"""Stripes, and an eighth of all at most, that are few..."""
FEW_SHARE: Final = 0.6
"""...and that have so much of the waits where those are not spread evenly."""
LONG_WAIT: Final = 1e-3
"""Seconds on average: no stripe is held half as long, but for values of many megabytes..."""
HOLDS_A_WAIT: Final = 50
"""...and if a wait is also so many times as long as a hold on average, then no queue explains it, but
that whoever had the lock did not run."""
CONFLICT_RATIO: Final = 0.10
"""Part of all writes: where more are refused, retries are a cost of their own."""
MOST_STRIPES: Final = 4096
LARGEST_STEP: Final = 16
"""Times as many stripes: more at once would be guessed from too far away."""
MANY_ENTRIES: Final = 100_000
"""Moving more of them to other stripes keeps writers waiting for a noticeable time."""
MOST_ADVICE: Final = 20
"""Sentences. Who has more to do begins with these."""
_LONGEST_KEY: Final = 64  # characters that are shown


class Advice(NamedTuple):
    """What was found, and what to do about it."""

    rule: str
    severity: Severity
    """`act`: it costs much. `watch`: it costs something. `fine`: leave it."""
    namespace: str | None
    """The one that it is about, None: the whole server."""
    text: str


def advise(figures: Figures) -> list[Advice]:
    """Return what to say about these figures, what to act on first."""
    found: list[tuple[float, Advice]] = []  # with the seconds that it costs
    for namespace in figures.namespaces:
        found += _about_waits(figures, namespace)
    found += _about_all_waits(figures, max((seconds for seconds, _ in found), default=None))
    for namespace in figures.namespaces:
        found += _about_conflicts(namespace)
    found += _about_reads(figures)
    order = ("act", "watch", "fine")
    found.sort(key=lambda each: (order.index(each[1].severity), -each[0], each[1].namespace or ""))
    return [advice for _, advice in found[:MOST_ADVICE]]


def more_stripes(stripes: int, ratio: float) -> int:
    """Return a number of stripes that should bring waits spread evenly from `ratio` to TARGET.

    A power of two, larger than `stripes` unless there may be no more. Waits fall about as stripes
    rise: with twice as many two writers meet in one half as often.
    """
    doublings = max(1, math.ceil(math.log2(ratio / TARGET))) if ratio > 0 else 1
    enough = stripes * min(1 << doublings, LARGEST_STEP)
    return min(max(enough, DEFAULT_STRIPES), MOST_STRIPES)


# Waits in one namespace.


def _about_waits(figures: Figures, of: NamespaceFigures) -> Iterator[tuple[float, Advice]]:
    whole = of.read.seconds + of.write.seconds
    stripe_ratio, whole_ratio = _ratio(figures, of.stripe.seconds), _ratio(figures, whole)
    if stripe_ratio >= WATCH and of.stripe.contended >= MIN_WAITS:
        rule, finding, remedy = _for_stripes(of, stripe_ratio)
        severity = _severity(figures, stripe_ratio)
        waiting = _waiting(stripe_ratio) + _of_all(figures, stripe_ratio)
        text = f"namespace {of.name}: {waiting}{finding}: {_when(severity, remedy)}"
        yield of.stripe.seconds, Advice(rule, severity, of.name, text)
    if whole_ratio >= WATCH and of.read.contended + of.write.contended >= MIN_WHOLE_WAITS:
        severity = _severity(figures, whole_ratio)
        finding, remedy = _for_whole(of)
        text = (
            f"namespace {of.name}: {_waiting(whole_ratio)} for operations on the whole namespace"
            f"{_of_all(figures, whole_ratio)}; {finding}: {_when(severity, remedy)}"
        )
        yield whole, Advice("long-holds", severity, of.name, text)


def _for_stripes(of: NamespaceFigures, ratio: float) -> tuple[str, str, str]:
    """Return the rule, what was found, and what to do where writers of keys wait for one another."""
    few, share = _few_stripes(of)
    keys = _hot(of.wait_keys, of.stripe.seconds + of.read.seconds)
    if len(keys) > max(1, few):
        keys = ()  # they meet in a stripe, from which more stripes can part them
    each = of.stripe.seconds / of.stripe.contended
    if of.mean_hold is not None and each >= max(LONG_WAIT, HOLDS_A_WAIT * of.mean_hold):
        return _for_stopped(of, keys, of.mean_hold, each)
    if keys:
        verb = "takes" if few == 1 else "take"
        finding, causes = "", "one key," if len(keys) == 1 else f"{len(keys)} keys,"
        told = f"{causes} {_listed(keys)}, {'causes' if len(keys) == 1 else 'cause'}"
        if few:
            # Of those: a key's waits are all in its own stripe.
            inside = min(1.0, sum(key.amount for key in keys) / (share * of.stripe.seconds))
            finding = (
                f"; {few} of {_number(of.stripes)} stripes {verb} {_percent(share)} of the waits, "
                f"and {told} {_percent(inside)} of those"
            )
        else:
            finding = f"; {told} {_percent(min(1.0, sum(key.share for key in keys)))} of the waits"
        them = "that key, or write it" if len(keys) == 1 else "those keys, or write them"
        return "hot-key", finding, f"split {them} less often"
    stripes = more_stripes(of.stripes, ratio)
    if few:
        verb = "takes" if few == 1 else "take"
        return (
            "hot-stripe",
            f"; {few} of {_number(of.stripes)} stripes {verb} {_percent(share)} of the waits, and "
            "no single key causes them",
            "several keys that are written often meet there; "
            + (
                f"part them with {_number(stripes)} stripes {_patch(of, stripes)}"
                if stripes > of.stripes
                else "write them less often"
            ),
        )
    if of.stripes == 1:
        spread = " for its single stripe"
    else:
        spread = f", spread evenly over {_number(of.stripes)} stripes"
    if stripes <= of.stripes:
        remedy = "more there may not be; spread the keys over several namespaces, or write less"
    else:
        remedy = f"use {_number(stripes)} {_patch(of, stripes)}"
    return "too-few-stripes", spread, remedy


def _for_stopped(
    of: NamespaceFigures, keys: Sequence[KeyFigures], hold: float, wait: float
) -> tuple[str, str, str]:
    """Return the same where whoever has a lock does not run: stripes and keys are at most half of it."""
    finding = (
        f", {_number(of.stripe.contended)} times, for {_duration(wait)} each, though a write has its "
        f"stripe for {_duration(hold)}: whoever has it is stopped meanwhile, as more threads want to "
        "run than there are processors free (or than one with the GIL)"
    )
    remedy = "start the server with fewer --threads, or give it more processors"
    if keys:
        part = _percent(min(1.0, sum(key.share for key in keys)))
        finding += f"; {part} of the waits are for {_listed(keys)}"
        remedy += f"; and split {'that key' if len(keys) == 1 else 'those keys'}"
    elif of.stripes < DEFAULT_STRIPES:
        remedy += f"; and use {DEFAULT_STRIPES} stripes {_patch(of, DEFAULT_STRIPES)}"
    return "stopped-holders", finding, remedy


def _few_stripes(of: NamespaceFigures) -> tuple[int, float]:
    """Return how few stripes have FEW_SHARE of the waits, and their share; 0 where few don't."""
    most = min(FEW_STRIPES, of.stripes // 8)
    seconds, contended = 0.0, 0
    for few, stripe in enumerate(of.by_stripe[:most], 1):
        seconds += stripe.seconds
        contended += stripe.contended
        # Of the number too, lest a stripe that had one very long wait be taken for one that has many.
        if min(seconds / of.stripe.seconds, contended / of.stripe.contended) >= FEW_SHARE:
            return few, min(1.0, seconds / of.stripe.seconds)
    return 0, 0.0


def _hot(keys: Sequence[KeyFigures], total: float) -> Sequence[KeyFigures]:
    """Return the key that has HOT_KEY of the total for certain, or few that have FEW_SHARE."""
    if keys and keys[0].at_least >= HOT_KEY * total > 0:
        return keys[:1]
    for few in range(2, FEW_KEYS + 1):
        some = keys[:few]
        if len(some) == few and sum(key.at_least for key in some) >= FEW_SHARE * total > 0:
            return some
    return ()


_REMEDIES: Final = {
    "clear": "clear it less often, or let its keys expire by a ttl",
    "snapshot": "take snapshots less often, or when there is little traffic",
    "reshape": "change its stripes when there is little traffic",
    "policy": "change its policy when there is little traffic",
    "limits": "change its limits when there is little traffic",
    "totals": "ask for its totals less often: its figures need no lock",
}


def _for_whole(of: NamespaceFigures) -> tuple[str, str]:
    """Return what was found and what to do where an operation on the whole namespace is waited for."""
    if of.holders:
        purpose, holds, seconds = of.holders[0]
    else:
        purpose, holds, seconds = Holder("an operation", of.holds, of.hold_seconds)
    each = _duration(seconds / holds) if holds else "a while"
    times = "once, for " if holds == 1 else f"{_number(holds)} times, for {each} each, "
    finding = f"{purpose} held it {times}{_duration(seconds)}" + (" in all" if holds != 1 else "")
    return finding, _REMEDIES.get(purpose, "do that less often, or when there is little traffic")


# Waits in all namespaces together.


def _about_all_waits(figures: Figures, largest: float | None) -> Iterator[tuple[float, Advice]]:
    """Speak of all waits where no cause by itself explains them.

    `largest` is what the one that costs most does, in seconds, None where nothing was said of any.
    """
    ratio = _ratio(figures, figures.wait_seconds)
    seconds = figures.wait_seconds
    if not figures.requests and not figures.contended:
        text = f"no requests and no waits in the last {figures.seconds:.0f} s: nothing to tell"
        yield 0, Advice("no-traffic", "fine", None, text)
    elif ratio < WATCH:
        few = figures.requests < MIN_REQUESTS and figures.contended < MIN_WAITS
        told = f"{_waiting(ratio)}: leave it"
        if few:
            told = f"only {figures.requests} requests in the last {figures.seconds:.0f} s: {told}"
        yield seconds, Advice("low", "fine", None, told)
    elif ratio >= ACT and figures.contended >= MIN_WAITS:
        if largest is None:
            yield seconds, Advice("spread", "act", None, _spread(figures, ratio))
        elif largest < LARGE_PART * seconds:
            text = f"{_waiting(ratio)}, and no cause has a quarter of that: those with the most come next"
            yield seconds, Advice("spread", "act", None, text)
    elif largest is None:
        if figures.contended < MIN_WAITS:
            text = (
                f"{_waiting(ratio)}, but only {figures.contended} waits in the last "
                f"{figures.seconds:.0f} s, {_duration(seconds)} in all, made that: too few to tell"
            )
            yield seconds, Advice("few-waits", "fine", None, text)
        else:
            text = f"{_waiting(ratio)}, and no lock stands out: leave it while it is below 10 %"
            yield seconds, Advice("low", "watch", None, text)


def _spread(figures: Figures, ratio: float) -> str:
    waiting = [each for each in figures.namespaces if each.wait_seconds > 0]
    if not waiting:
        return (
            f"{_waiting(ratio)} for namespaces that were dropped since: drop fewer, or clear them"
        )
    most = waiting[0]
    share = _percent(_ratio(figures, most.wait_seconds))
    if sum(each.stripe.seconds for each in waiting) >= figures.wait_seconds / 2:
        remedy = (
            "give those at the top of the list more stripes, and start the server with more --stripes "
            "for those that are made from then on"
        )
    else:
        remedy = "most wait for operations on whole namespaces: do those less often"
    return (
        f"{_waiting(ratio)}, spread over {len(waiting)} namespaces, of which {most.name} has the "
        f"most, {share}: {remedy}"
    )


# Conflicts and reads.


def _about_conflicts(of: NamespaceFigures) -> Iterator[tuple[float, Advice]]:
    ratio = of.conflict_ratio
    if ratio is None or ratio <= CONFLICT_RATIO or of.conflicts < MIN_CONFLICTS:
        return
    keys = _hot(of.conflict_keys, of.conflicts)
    if keys:
        part = _percent(min(1.0, sum(key.share for key in keys)))
        where = (
            f"{part} of those on {'one key' if len(keys) == 1 else f'{len(keys)} keys'}, "
            f"{_listed(keys)}"
        )
        remedy = f"split {'that key' if len(keys) == 1 else 'those keys'}"
    else:
        where, remedy = "spread over many keys", "keep the time between read and write short"
    text = (
        f"namespace {of.name}: {_percent(ratio)} of the tries to write fail since another write came "
        f"first or their condition does not hold, {where}: {remedy}; where clients read, compute and "
        "compare-and-set, incr or append may do it in one request; where a refusal is an answer, as "
        "with If-None-Match: *, leave it"
    )
    # Whether that is a mistake, who sends them knows: so it is never told as one.
    yield 0, Advice("conflicts", "watch", of.name, text)


def _about_reads(figures: Figures) -> Iterator[tuple[float, Advice]]:
    busiest = max(figures.namespaces, key=lambda each: each.reads, default=None)
    if busiest is None or not busiest.read_keys or not busiest.reads:
        return
    key = busiest.read_keys[0]
    if key.at_least >= HOT_KEY * busiest.reads:
        text = (
            f"namespace {busiest.name}: one key, {_shown(key)}, has about {_percent(key.share)} of "
            "the reads: reads take no lock, so nobody waits for it: leave it"
        )
        yield 0, Advice("hot-reads", "fine", busiest.name, text)


# Words.


def _ratio(figures: Figures, seconds: float) -> float:
    """Return a part of the time: of that spent on requests, or where there were none, that passed."""
    ratio = figures.ratio(seconds)
    if ratio is not None:
        return ratio
    return seconds / figures.seconds if figures.seconds > 0 else 0.0


def _severity(figures: Figures, ratio: float) -> Severity:
    total = _ratio(figures, figures.wait_seconds)
    return "act" if max(ratio, total) >= ACT else "watch"


def _when(severity: Severity, remedy: str) -> str:
    return remedy if severity == "act" else f"leave it while it is below 10 %; then {remedy}"


def _waiting(ratio: float) -> str:
    if ratio > 1:
        return f"threads wait {ratio:.1f} times as long as requests take"
    return f"threads wait {_percent(ratio)} of the time"


def _of_all(figures: Figures, ratio: float) -> str:
    """Say why something is to be done although this by itself is below ACT."""
    total = _ratio(figures, figures.wait_seconds)
    return f" ({_percent(total)} with all others)" if ratio < ACT <= total else ""


def _patch(of: NamespaceFigures, stripes: int) -> str:
    words = f'(PATCH /v1/namespaces/{of.name} with {{"stripes": {stripes}}})'
    if of.entries < MANY_ENTRIES:
        return words
    return f"{words} when there is little traffic, as writers wait until {_number(of.entries)} entries are moved"


def _listed(keys: Sequence[KeyFigures]) -> str:
    *first, last = map(_shown, keys)
    return f"{', '.join(first)} and {last}" if first else last


def _shown(of: KeyFigures) -> str:
    return of.key if len(of.key) <= _LONGEST_KEY else f"{of.key[: _LONGEST_KEY - 3]}..."


def _number(number: int) -> str:
    return f"{number:,}"


def _percent(part: float) -> str:
    percent = part * 100
    if percent >= 10:
        return f"{percent:.0f} %"
    if percent >= 0.1:
        return f"{math.floor(percent * 10) / 10} %"  # not rounded up to one of the lines above
    return "less than 0.1 %" if percent > 0 else "0 %"


def _duration(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.1f} s"
    if seconds >= 1e-3:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds * 1e6:.3g} us"
