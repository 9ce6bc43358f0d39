"""Many clients at once: no increment is lost, and no piece that was appended."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial
from itertools import chain

import pytest

from tests.contract.conftest import JSON, Service
from tests.support.http_client import Client
from tests.support.threads import run_threads

CLIENTS = 6
ROUNDS = 60


def together[T](service: Service, work: Callable[[Client, int], T]) -> list[T]:
    """Have several clients work at once, each in a thread and on a connection of its own."""

    def run(number: int) -> T:
        with closing(service.connect()) as client:
            return work(client, number)

    return run_threads([partial(run, number) for number in range(CLIENTS)])


def test_no_increment_is_lost(service: Service):
    """However many count at once, each gets a number of its own, and the last is the sum."""
    target = f"/v1/incr/{service.namespace}/n"

    def count(client: Client, number: int) -> list[int]:
        told: list[int] = []
        while len(told) < ROUNDS:
            answer = client.request("POST", target)
            if answer.status == 503:  # others were quicker sixteen times
                assert answer.header("retry-after") == "1"
                continue
            assert answer.status == 200
            told.append(answer.json()["value"])
        return told

    told = [*chain.from_iterable(together(service, count))]
    assert sorted(told) == [*range(1, CLIENTS * ROUNDS + 1)]
    assert service.get("n").body == b"%d" % (CLIENTS * ROUNDS)


def test_amounts_of_both_signs_add_up(service: Service):
    """What some add and others take away is exact as well."""
    target = f"/v1/incr/{service.namespace}/n?initial=1000&by="

    def count(client: Client, number: int) -> int:
        by = number + 1 if number % 2 else -number - 1
        done = sum(client.request("POST", f"{target}{by}").status == 200 for _ in range(ROUNDS))
        return by * done

    total = sum(together(service, count))
    assert service.get("n").body == b"%d" % (1000 + total)


def test_every_piece_is_kept_once(service: Service):
    """Appended pieces are whole, each there once, and those of one client in its order."""
    target = f"/v1/append/{service.namespace}/log"

    def write(client: Client, number: int) -> list[bytes]:
        pieces = []
        for turn in range(ROUNDS):
            piece = b"<%d-%d>" % (number, turn)
            if client.request("POST", target, (), piece).status == 200:
                pieces.append(piece)
        return pieces

    written = together(service, write)
    kept = service.get("log").body
    assert len(kept) == sum(map(len, chain.from_iterable(written)))
    for pieces in written:
        places = [kept.index(piece) for piece in pieces]
        assert places == sorted(places)


def test_one_of_many_wins(service: Service):
    """Of incrs on condition of one version one is done, and the others get 412 with the new version."""
    version = service.verb("incr", "n").version
    target = f"/v1/incr/{service.namespace}/n?cas={version}"
    answers = together(service, lambda client, number: client.request("POST", target))
    assert sorted(answer.status for answer in answers) == [200] + [412] * (CLIENTS - 1)
    [winner] = [answer.version for answer in answers if answer.status == 200]
    assert {answer.version for answer in answers} == {winner}


def test_no_change_of_a_configuration_is_lost(service: Service):
    """Fields that are changed at once are all changed."""
    service.configure()
    target = f"/v1/namespaces/{service.namespace}"
    fields = (
        *(b'{"max_bytes": 1000000}', b'{"max_entries": 1000}', b'{"policy": "lru"}'),
        *(b'{"default_ttl": 60}', b'{"stripes": 8}', b'{"require_cas": true}'),
    )
    together(
        service, lambda client, number: client.request("PATCH", target, [JSON], fields[number])
    )
    assert service.request("GET", target).json()["config"] == {
        "max_bytes": 1_000_000,
        "max_entries": 1000,
        "policy": "lru",
        "default_ttl": 60,
        "stripes": 8,
        "require_cas": True,
    }


@pytest.mark.parametrize("change", ["clear", "drop", "stripes"])
def test_whole_namespaces_while_requests_run(service: Service, change: str):
    """Whatever is done to the namespace meanwhile, every request is answered as one before or after it."""
    namespace = f"/v1/namespaces/{service.namespace}"

    def disturb(client: Client, turn: int) -> int:
        if change == "clear":
            return client.request("POST", f"{namespace}/clear").status
        if change == "drop":
            return client.request("DELETE", namespace).status
        body = b'{"stripes": %d}' % (1 << turn % 7)
        return client.request("PATCH", namespace, [JSON], body).status

    def work(client: Client, number: int) -> set[tuple[str, int]]:
        seen = set()
        for turn in range(ROUNDS):
            key = f"/v1/kv/{service.namespace}/{number}"
            if number == 0:
                seen.add((change, disturb(client, turn)))
                continue
            value = b"%d-%d" % (number, turn)
            seen.add(("put", client.request("PUT", key, (), value).status))
            read = client.request("GET", key)
            seen.add(("get", read.status))
            assert read.status == 404 or read.body == value
            counted = client.request("POST", f"/v1/incr/{service.namespace}/n{number}")
            seen.add(("incr", counted.status))
            if change == "stripes":
                assert counted.json()["value"] == turn + 1
        return seen

    seen = set().union(*together(service, work))
    allowed = {("put", 201), ("put", 204), ("get", 200), ("incr", 200)}
    allowed |= {(change, 204 if change == "drop" else 200), (change, 404)}  # before the first write
    if change != "stripes":
        allowed |= {("get", 404)}
    assert seen <= allowed
