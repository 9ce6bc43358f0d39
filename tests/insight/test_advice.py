"""What is said about figures: each rule, where it begins and where it ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cacheserver.insight.advice import (
    ACT,
    MIN_CONFLICTS,
    MIN_REQUESTS,
    MIN_WAITS,
    MIN_WHOLE_WAITS,
    MOST_ADVICE,
    MOST_STRIPES,
    WATCH,
    Advice,
    advise,
    more_stripes,
)
from cacheserver.insight.figures import (
    Figures,
    Holder,
    KeyFigures,
    NamespaceFigures,
    StripeFigures,
    Waits,
)


def key(name: str, amount: float, of: float, at_least: float | None = None) -> KeyFigures:
    """What a key has of a total, by default for certain."""
    return KeyFigures(name, amount, amount if at_least is None else at_least, amount / of)


def spread(stripes: int, seconds: float, contended: int = 1000) -> dict[str, Any]:
    """Waits that are spread evenly over all stripes."""
    each = contended // stripes or 1
    return {
        "stripes": stripes,
        "stripe": Waits(contended, seconds),
        "by_stripe": tuple(
            StripeFigures(number, each, seconds / stripes)
            for number in range(min(stripes, contended))
        ),
    }


def in_few(stripes: int, seconds: float, few: list[float], contended: int = 1000) -> dict[str, Any]:
    """Waits of which the first stripes have these shares, the others alike what is left."""
    rest = (1 - sum(few)) / (stripes - len(few))
    shares = [*few, *[rest] * (stripes - len(few))]
    return {
        "stripes": stripes,
        "stripe": Waits(contended, seconds),
        "by_stripe": tuple(
            StripeFigures(number, round(contended * share), seconds * share)
            for number, share in enumerate(shares)
        ),
    }


def figures(*namespaces: NamespaceFigures, request_seconds: float = 100.0) -> Figures:
    """The figures of a window of 45 seconds with 10,000 requests."""
    return Figures(
        seconds=45.0,
        requests=10_000,
        request_seconds=request_seconds,
        wait_seconds=sum(each.wait_seconds for each in namespaces),
        contended=sum(each.contended for each in namespaces),
        namespaces=namespaces,
    )


def sessions(**fields: Any) -> NamespaceFigures:
    """A namespace that somebody writes to."""
    return NamespaceFigures("sessions", **{"stripes": 64, "writes": 10_000, **fields})


def rules(found: list[Advice]) -> list[tuple[str, str]]:
    """What was found, and how much it matters."""
    return [(advice.rule, advice.severity) for advice in found]


def only(of: Figures) -> Advice:
    """The one thing that there is to say."""
    [advice] = advise(of)
    return advice


# Too few stripes.


def test_waits_spread_evenly_ask_for_more_stripes() -> None:
    """Waits that are spread evenly are answered with a number of stripes, and how to set it."""
    advice = only(figures(sessions(**spread(64, 14.0))))
    assert advice == Advice(
        "too-few-stripes",
        "act",
        "sessions",
        "namespace sessions: threads wait 14 % of the time, spread evenly over 64 stripes: "
        'use 256 (PATCH /v1/namespaces/sessions with {"stripes": 256})',
    )


@pytest.mark.parametrize(
    ("ratio", "found"),
    [
        (WATCH - 1e-6, ("low", "fine")),
        (WATCH, ("too-few-stripes", "watch")),
        (ACT - 1e-6, ("too-few-stripes", "watch")),
        (ACT, ("too-few-stripes", "act")),
        (0.9, ("too-few-stripes", "act")),
    ],
)
def test_how_much_waits_matter(ratio: float, found: tuple[str, str]) -> None:
    """Below a fiftieth of the time they are left alone, from a tenth on they are worth work."""
    assert rules(advise(figures(sessions(**spread(64, 100 * ratio))))) == [found]


def test_what_is_to_be_watched_says_when() -> None:
    """What costs something, but not much, says what to do once it costs more."""
    text = only(figures(sessions(**spread(64, 6.0)))).text
    assert (
        "6.0 % of the time, spread evenly over 64 stripes: leave it while it is below 10 %" in text
    )
    assert text.endswith('then use 128 (PATCH /v1/namespaces/sessions with {"stripes": 128})')


def test_a_share_just_below_a_line_is_not_shown_as_on_it() -> None:
    """A part of the time that is rounded is not rounded up to the line that it has not reached."""
    assert "threads wait 9.9 % of the time" in only(figures(sessions(**spread(64, 9.999)))).text
    assert "threads wait 1.9 % of the time" in only(figures(sessions(**spread(64, 1.999)))).text


@pytest.mark.parametrize("contended", [MIN_WAITS - 1, MIN_WAITS])
def test_few_waits_give_no_advice(contended: int) -> None:
    """However long they were, a handful of waits tells nothing of what to do."""
    found = only(figures(sessions(**spread(64, 40.0, contended))))
    if contended < MIN_WAITS:
        assert (found.rule, found.severity, found.namespace) == ("few-waits", "fine", None)
        assert "only 99 waits in the last 45 s, 40.0 s in all" in found.text
    else:
        assert (found.rule, found.severity) == ("too-few-stripes", "act")


@pytest.mark.parametrize(
    ("stripes", "ratio", "more"),
    [
        (64, 0.14, 256),
        (64, 0.10, 128),
        (64, 0.06, 128),
        (64, 0.02, 128),
        (64, 0.90, 1024),
        (64, 50.0, 1024),
        (1, 0.02, 64),
        (2, 0.50, 64),
        (16, 0.5, 256),
        (2048, 0.14, 4096),
        (4096, 0.14, 4096),
    ],
)
def test_how_many_stripes(stripes: int, ratio: float, more: int) -> None:
    """A power of two: so many times more that waits should fall to a twentieth, within bounds."""
    assert more_stripes(stripes, ratio) == more


def test_all_stripes_there_may_be() -> None:
    """Where there are as many stripes as there may be, other ways are told."""
    text = only(figures(sessions(**spread(MOST_STRIPES, 14.0, 100_000)))).text
    assert "spread evenly over 4,096 stripes: more there may not be; spread the keys over" in text
    assert "PATCH" not in text


def test_a_single_stripe() -> None:
    """Of a single stripe nobody says that waits are spread over it, or that it is hot."""
    found = only(figures(sessions(**spread(1, 30.0))))
    assert found.rule == "too-few-stripes"
    assert "threads wait 30 % of the time for its single stripe: use 64 (PATCH" in found.text


def test_many_entries_are_moved_when_it_is_quiet() -> None:
    """Who has many entries is told what moving them means."""
    text = only(figures(sessions(entries=2_000_000, **spread(64, 14.0)))).text
    assert text.endswith(
        "when there is little traffic, as writers wait until 2,000,000 entries are moved"
    )


def test_waits_without_requests_are_held_against_time() -> None:
    """Where a program uses the store itself, there are no requests: what passed is the time."""
    alone = replace(figures(sessions(**spread(64, 9.0))), requests=0, request_seconds=0.0)
    assert "threads wait 20 % of the time" in only(alone).text


def test_more_waiting_than_requests() -> None:
    """Where threads of the program wait beside the requests, no share above all is told."""
    text = only(figures(sessions(**spread(64, 250.0)))).text
    assert "threads wait 2.5 times as long as requests take, spread evenly" in text


# One hot key.


def test_a_hot_key_is_named() -> None:
    """Where one key causes most of the waits of a stripe, it is the key that is to change."""
    of = sessions(**in_few(64, 20.0, [0.71]), wait_keys=(key("user:17", 12.5, 20.0),))
    assert only(figures(of)) == Advice(
        "hot-key",
        "act",
        "sessions",
        "namespace sessions: threads wait 20 % of the time; 1 of 64 stripes takes 71 % of the waits, "
        "and one key, user:17, causes 88 % of those: split that key, or write it less often",
    )


@pytest.mark.parametrize(
    ("at_least", "rule"), [(9.99, "too-few-stripes"), (10.0, "hot-key"), (10.01, "hot-key")]
)
def test_a_hot_key_has_half_for_certain(at_least: float, rule: str) -> None:
    """A key is hot when it outweighs all others for certain, whatever the estimate."""
    of = sessions(**spread(4, 20.0), wait_keys=(key("a", 12.0, 20.0, at_least),))
    assert only(figures(of)).rule == rule


def test_few_hot_keys_are_named() -> None:
    """Two or three keys that have most of the waits together are named, too."""
    keys = (key("a", 5.0, 20.0), key("b", 4.5, 20.0), key("c", 3.0, 20.0), key("d", 2, 20.0))
    of = sessions(**in_few(64, 20.0, [0.27, 0.25, 0.17]), wait_keys=keys)
    found = only(figures(of))
    assert found.rule == "hot-key"
    assert (
        "3 of 64 stripes take 69 % of the waits, and 3 keys, a, b and c, cause 91 %" in found.text
    )
    assert found.text.endswith("split those keys, or write them less often")


@pytest.mark.parametrize(
    ("waits", "rule"),
    [(in_few(64, 20.0, [0.7]), "hot-stripe"), (spread(2, 20.0), "too-few-stripes")],
)
def test_keys_that_meet_in_a_stripe_can_be_parted(waits: dict[str, Any], rule: str) -> None:
    """Two or three keys are not to be split while they wait for one another: more stripes part them."""
    keys = (key("a", 5.0, 20.0), key("b", 5.0, 20.0), key("c", 4.0, 20.0))
    assert only(figures(sessions(**waits, wait_keys=keys))).rule == rule


def test_a_hot_key_in_a_single_stripe() -> None:
    """More stripes do not help a key, so it comes first; of one stripe nothing is said."""
    of = sessions(**spread(1, 20.0), wait_keys=(key("a", 16.0, 20.0),))
    found = only(figures(of))
    assert found.rule == "hot-key"
    assert "20 % of the time; one key, a, causes 80 % of the waits: split that key" in found.text


def test_long_keys_are_cut() -> None:
    """A key of a thousand characters does not fill the sentence."""
    of = sessions(**spread(1, 20.0), wait_keys=(key("k" * 1000, 16.0, 20.0),))
    assert f" {'k' * 61}...," in only(figures(of)).text


# Few stripes, no single key.


def test_hot_stripes() -> None:
    """Where few stripes have most of the waits and no key does, keys meet there: they can be parted."""
    keys = (key("a", 2.0, 20.0), key("b", 2.0, 20.0), key("c", 2.0, 20.0))
    of = sessions(**in_few(64, 20.0, [0.3, 0.25, 0.16]), wait_keys=keys)
    assert only(figures(of)) == Advice(
        "hot-stripe",
        "act",
        "sessions",
        "namespace sessions: threads wait 20 % of the time; 3 of 64 stripes take 71 % of the waits, "
        "and no single key causes them: several keys that are written often meet there; part them "
        'with 256 stripes (PATCH /v1/namespaces/sessions with {"stripes": 256})',
    )


@pytest.mark.parametrize(
    ("few", "rule"),
    [
        ([0.075] * 8, "hot-stripe"),
        ([0.074] * 8, "too-few-stripes"),
        ([0.066] * 9, "too-few-stripes"),
        ([0.6], "hot-stripe"),
    ],
)
def test_how_few_are_few(few: list[float], rule: str) -> None:
    """Eight of 64 that have six tenths are few; more, or with less, are not."""
    assert only(figures(sessions(**in_few(64, 20.0, few)))).rule == rule


def test_one_long_wait_makes_no_hot_stripe() -> None:
    """A stripe that had one very long wait is not one that many wait for."""
    of = spread(64, 20.0, 1000)
    first, *others = of["by_stripe"]
    of["by_stripe"] = (first._replace(seconds=19.0), *others)
    assert only(figures(sessions(**of))).rule == "too-few-stripes"


def test_hot_stripes_among_all_there_may_be() -> None:
    """Where there can't be more stripes, hot ones are to be written less."""
    found = only(figures(sessions(**in_few(MOST_STRIPES, 20.0, [0.7], 100_000))))
    assert found.text.endswith(
        "several keys that are written often meet there; write them less often"
    )


# Holders that do not run.


def test_stopped_holders_are_no_matter_of_stripes() -> None:
    """Where a wait is far longer than what it waits for, processors are short, and not stripes."""
    of = sessions(**in_few(64, 20.0, [0.71]), mean_hold=12e-6)
    assert only(figures(of)) == Advice(
        "stopped-holders",
        "act",
        "sessions",
        "namespace sessions: threads wait 20 % of the time, 1,000 times, for 20 ms each, though a "
        "write has its stripe for 12 us: whoever has it is stopped meanwhile, as more threads want to "
        "run than there are processors free (or than one with the GIL): start the server with fewer "
        "--threads, or give it more processors",
    )


def test_stopped_holders_of_a_hot_key() -> None:
    """A key that most of those waits are for is named all the same."""
    of = sessions(**spread(64, 20.0), mean_hold=12e-6, wait_keys=(key("a", 14.0, 20.0),))
    text = only(figures(of)).text
    assert "(or than one with the GIL); 70 % of the waits are for a: start the server" in text
    assert text.endswith("give it more processors; and split that key")


def test_stopped_holders_of_few_stripes() -> None:
    """Fewer stripes than usual make it worse, which is told."""
    text = only(figures(sessions(**spread(2, 20.0), mean_hold=12e-6))).text
    assert text.endswith('and use 64 stripes (PATCH /v1/namespaces/sessions with {"stripes": 64})')


@pytest.mark.parametrize(
    ("seconds", "mean_hold", "stopped"),
    [
        (20.0, 0.0004, True),
        (20.0, 0.000401, False),
        (20.0, None, False),
        (2.0, 1e-6, True),
        (1.999, 1e-6, False),
    ],
)
def test_when_holders_were_stopped(seconds: float, mean_hold: float | None, stopped: bool) -> None:
    """A wait is a millisecond at least on average, and as long as fifty holds."""
    of = sessions(**spread(64, seconds, 1999 if seconds < 2 else 1000), mean_hold=mean_hold)
    if seconds <= 2:  # so short that only a busy moment shows it
        of = replace(of, stripe=Waits(2000, seconds))
    found = only(figures(of, request_seconds=20.0))
    assert (found.rule == "stopped-holders") is stopped


# Operations on the whole namespace.


def test_long_holds_say_which_operation_and_how_long() -> None:
    """Where writers wait for operations on the whole, that which held it longest is named."""
    of = sessions(
        read=Waits(120, 12.0),
        holds=50,
        hold_seconds=4.1,
        holders=(Holder("clear", 40, 4.0), Holder("totals", 10, 0.1)),
    )
    assert only(figures(of)) == Advice(
        "long-holds",
        "act",
        "sessions",
        "namespace sessions: threads wait 12 % of the time for operations on the whole namespace; "
        "clear held it 40 times, for 100 ms each, 4.0 s in all: clear it less often, or let its keys "
        "expire by a ttl",
    )


@pytest.mark.parametrize(
    "purpose", ["snapshot", "reshape", "policy", "limits", "totals", "drop", "else"]
)
def test_every_operation_has_a_remedy(purpose: str) -> None:
    """Each is named, and something can be done about it."""
    of = sessions(
        read=Waits(50, 12.0), holds=1, hold_seconds=6.0, holders=(Holder(purpose, 1, 6.0),)
    )
    text = only(figures(of)).text
    assert f"; {purpose} held it once, for 6.0 s: " in text
    assert text.endswith(("less often", "little traffic", "need no lock"))


@pytest.mark.parametrize("contended", [MIN_WHOLE_WAITS - 1, MIN_WHOLE_WAITS])
def test_few_waits_for_the_whole_give_no_advice(contended: int) -> None:
    """One change of stripes that two loops waited for is no habit."""
    of = sessions(read=Waits(contended, 12.0), holds=1, hold_seconds=6.0)
    found = only(figures(of))
    assert (found.rule == "long-holds") is (contended == MIN_WHOLE_WAITS)


def test_operations_that_wait_for_one_another() -> None:
    """Waits of operations on the whole themselves count as theirs."""
    of = sessions(write=Waits(50, 12.0), holds=60, hold_seconds=3.0)
    found = only(figures(of))
    assert (found.rule, found.severity) == ("long-holds", "act")
    assert "an operation held it 60 times, for 50 ms each, 3.0 s in all" in found.text


def test_two_causes_in_one_namespace() -> None:
    """Where stripes and whole-namespace operations both cost much, both are told, the dearer first."""
    of = sessions(**spread(64, 12.0), read=Waits(100, 30.0), holds=40, hold_seconds=9.0)
    assert rules(advise(figures(of))) == [("long-holds", "act"), ("too-few-stripes", "act")]


# All namespaces together.


def test_low_waits_are_left_alone() -> None:
    """Where hardly anybody waits, one sentence says so."""
    assert advise(figures(sessions(**spread(64, 1.9)))) == [
        Advice("low", "fine", None, "threads wait 1.9 % of the time: leave it")
    ]


def test_no_traffic() -> None:
    """Where nothing was done, nothing is known."""
    idle = Figures(seconds=12.0, requests=0, request_seconds=0.0, wait_seconds=0.0, contended=0)
    assert advise(idle) == [
        Advice(
            "no-traffic",
            "fine",
            None,
            "no requests and no waits in the last 12 s: nothing to tell",
        )
    ]


@pytest.mark.parametrize("requests", [1, MIN_REQUESTS - 1, MIN_REQUESTS])
def test_little_traffic(requests: int) -> None:
    """From a few requests nothing follows, which is said."""
    few = Figures(seconds=12, requests=requests, request_seconds=1, wait_seconds=0, contended=0)
    text = only(few).text
    assert text.startswith("only") is (requests < MIN_REQUESTS)
    assert text.endswith("threads wait 0 % of the time: leave it")


def test_waits_that_many_namespaces_share() -> None:
    """Where each of many namespaces has a little, and all together much, that is to be acted on."""
    many = [NamespaceFigures(f"n{each:02}", **spread(64, 1.0)) for each in range(20)]
    found = only(figures(*many))
    assert (found.rule, found.severity, found.namespace) == ("spread", "act", None)
    assert (
        "threads wait 20 % of the time, spread over 20 namespaces, of which n00 has" in found.text
    )


def test_waits_of_namespaces_that_are_gone() -> None:
    """Waits in namespaces that were dropped since are told, though nothing is known of them."""
    gone = replace(figures(), wait_seconds=30.0, contended=500)
    assert only(gone).text.startswith(
        "threads wait 30 % of the time for namespaces that were dropped"
    )


def test_a_large_part_of_much_is_much() -> None:
    """Of two namespaces that have six per cent each, both are to be acted on: together it is twelve."""
    two = [NamespaceFigures(name, **spread(64, 6.0)) for name in ("a", "b")]
    assert rules(advise(figures(*two))) == [("too-few-stripes", "act")] * 2


def test_some_to_watch_and_much_in_all() -> None:
    """Where none of ten stands out, that is said first; each is to be acted on, and it says why."""
    ten = [NamespaceFigures(f"n{each}", **spread(64, 2.5)) for each in range(10)]
    found = rules(advise(figures(*ten)))
    assert found == [("spread", "act"), *[("too-few-stripes", "act")] * 10]
    assert "wait 2.5 % of the time (25 % with all others), spread" in advise(figures(*ten))[1].text


def test_whole_namespaces_that_are_waited_for_everywhere() -> None:
    """More stripes are not the answer where operations on whole namespaces keep writers waiting."""
    many = [NamespaceFigures(f"n{each:02}", 64, read=Waits(50, 1.0), holds=9) for each in range(20)]
    found = only(figures(*many))
    assert found.rule == "spread"
    assert found.text.endswith("wait for operations on whole namespaces: do those less often")


def test_something_but_nothing_that_stands_out() -> None:
    """A little in all, of which no lock has enough to name, is to be watched."""
    two = [NamespaceFigures(name, **spread(64, 1.5)) for name in ("a", "b")]
    found = only(figures(*two))
    assert (found.rule, found.severity) == ("low", "watch")
    assert found.text == (
        "threads wait 3.0 % of the time, and no lock stands out: leave it while it is below 10 %"
    )


# Conflicts.


def test_conflicts_name_the_key() -> None:
    """Where writes are refused again and again, the key and what to use in its place are told."""
    of = sessions(writes=700, conflicts=300, conflict_keys=(key("hits", 243, 300),))
    advice, low = advise(figures(of))
    assert (advice.rule, advice.severity, advice.namespace) == ("conflicts", "watch", "sessions")
    assert advice.text == (
        "namespace sessions: 30 % of the tries to write fail since another write came first or their "
        "condition does not hold, 81 % of those on one key, hits: split that key; where clients read, "
        "compute and compare-and-set, incr or append may do it in one request; where a refusal is an "
        "answer, as with If-None-Match: *, leave it"
    )
    assert low.rule == "low"


def test_conflicts_on_many_keys() -> None:
    """Without a key that stands out, the time between read and write is what can change."""
    of = sessions(writes=500, conflicts=500, conflict_keys=(key("a", 5, 500),))
    text = advise(figures(of))[0].text
    assert (
        "does not hold, spread over many keys: keep the time between read and write short" in text
    )


@pytest.mark.parametrize(
    ("writes", "conflicts", "found"),
    [
        (900, 100, False),
        (899, 100, True),
        (0, MIN_CONFLICTS - 1, False),
        (0, MIN_CONFLICTS, True),
        (0, 0, False),
    ],
)
def test_when_conflicts_matter(writes: int, conflicts: int, found: bool) -> None:
    """More than a tenth of the writes, and more than a handful."""
    of = sessions(writes=writes, conflicts=conflicts)
    assert ("conflicts" in {advice.rule for advice in advise(figures(of))}) is found


# Reads.


def test_hot_reads_are_left_alone() -> None:
    """A key that is read most is named, and left alone: reads take no lock."""
    of = sessions(reads=100_000, read_keys=(key("front", 83_000, 100_000, 76_000),))
    low, reads = advise(figures(of))
    assert (low.rule, reads.rule, reads.severity) == ("low", "hot-reads", "fine")
    assert reads.text == (
        "namespace sessions: one key, front, has about 83 % of the reads: reads take no lock, so "
        "nobody waits for it: leave it"
    )


def test_reads_that_may_be_chance() -> None:
    """What a small sample shows is not told where the margin is too wide."""
    of = sessions(reads=1_000, read_keys=(key("front", 640, 1_000, 80),))
    assert rules(advise(figures(of))) == [("low", "fine")]


# All together.


def test_what_to_act_on_comes_first() -> None:
    """What costs most comes first, then what costs less, then what is fine."""
    found = advise(
        figures(
            NamespaceFigures("small", **spread(64, 3.0)),
            NamespaceFigures("large", **spread(64, 40.0)),
            NamespaceFigures("whole", stripes=64, read=Waits(100, 60.0)),
            NamespaceFigures("refused", stripes=64, conflicts=1000),
            NamespaceFigures("read", stripes=64, reads=9, read_keys=(key("k", 9, 9),)),
        )
    )
    assert [(advice.severity, advice.namespace) for advice in found] == [
        ("act", "whole"),
        ("act", "large"),
        ("act", "small"),
        ("watch", "refused"),
        ("fine", "read"),
    ]


def test_the_list_is_short() -> None:
    """Of a thousand namespaces that all wait, as many are named as one can read."""
    many = [NamespaceFigures(f"n{each:04}", **spread(64, 5.0)) for each in range(1000)]
    found = advise(figures(*many, request_seconds=200.0))
    assert len(found) == MOST_ADVICE
    assert found[0].rule == "spread"
