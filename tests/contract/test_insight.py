"""What the server tells of locks, hot keys and slow operations, and the live page that shows it."""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cacheserver.http.routes import PAGE_FILES
from cacheserver.store.store import Store
from tests.contract.conftest import TOKEN, Service
from tests.support.contention import made_to_wait
from tests.support.planes import LIVE
from tests.support.server import ROOT, wait_until

FIGURES = ("/v1/locks", "/v1/hotkeys", "/v1/slowlog", "/v1/info")
UI = ROOT / "cacheserver" / "http" / "ui"
SECURITY = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


def namespace_of(service: Service, told: dict[str, Any]) -> dict[str, Any]:
    """What is told of the test's namespace."""
    [found] = [each for each in told["namespaces"] if each["name"] == service.namespace]
    return dict(found)


def events(body: bytes) -> list[tuple[str, Any]]:
    """Server-sent events: the name and the data of each."""
    found = []
    for block in body.decode("ascii").split("\n\n")[:-1]:
        name, data = block.split("\n")
        assert name.startswith("event: ")
        assert data.startswith("data: ")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def test_locks(service: Service):
    """What a namespace's locks were asked for in the window, and advice in words."""
    for number in range(30):
        service.put(f"k{number}")
    service.put("k0", query="?cas=0")
    told = service.told("/v1/locks")
    assert told["seconds"] >= 0
    assert told["request_seconds"] >= 0
    assert told["advice"]
    assert {advice["severity"] for advice in told["advice"]} <= {"act", "watch", "fine"}
    assert all(advice["text"] and advice["rule"] for advice in told["advice"])
    if service.store is None and told["namespaces_left_out"]:
        assert len(told["namespaces"]) == 100  # other tests have filled the server
        return
    mine = namespace_of(service, told)
    assert mine["stripes"] == (4 if service.store else 64)
    assert mine["writes"] == 30
    assert mine["cas_conflicts"] == 1
    assert mine["locks"]["stripe"]["acquisitions"] == 31
    assert mine["locks"]["stripe"]["contended"] == 0
    assert mine["stripe_contended"] == []


def test_a_wait_shows(inside: tuple[Service, Store]):
    """A wait for a stripe is told with its namespace, its stripe and its key."""
    service, store = inside
    waited = made_to_wait(store, service.namespace, "hot", lambda: service.put("hot"))
    told = service.told("/v1/locks")
    mine = namespace_of(service, told)
    assert waited.at_least <= mine["wait_seconds"] + 1e-6
    assert mine["wait_seconds"] <= waited.at_most
    assert told["wait_ratio"] > 0
    assert mine["stripe_contended"][waited.stripe] == 1
    assert mine["hottest"][0]["stripe"] == waited.stripe
    assert [hot["key"] for hot in mine["hot_keys"]] == ["hot"]
    [hottest] = service.told("/v1/hotkeys")["waits"]
    assert (hottest["namespace"], hottest["key"]) == (service.namespace, "hot")
    assert waited.at_least <= hottest["seconds"] + 1e-6
    operations = service.told("/v1/slowlog")["operations"]
    [slow] = [operation for operation in operations if operation["waits"]]
    assert (slow["operation"], slow["method"], slow["status"]) == ("put", "PUT", 201)
    assert (slow["namespace"], slow["key"]) == (service.namespace, "hot")
    assert waited.at_least <= slow["lock_wait_seconds"] + 1e-6
    assert slow["lock_wait_seconds"] <= slow["seconds"] <= waited.at_most
    [wait] = slow["waits"]
    assert (wait["lock"], wait["stripe"], wait["cause"]) == ("stripe", waited.stripe, "write")


def test_hot_keys(service: Service):
    """Conflicts are all counted; the rest is sampled, and tells how."""
    service.put("k")
    for _ in range(7):
        service.put("k", query="?cas=0")
    told = service.told("/v1/hotkeys")
    assert told["sampled"] == {"reads": 128, "writes": 128, "conflicts": 1, "waits": 1}
    assert told["seconds"] >= 0
    mine = [hot for hot in told["conflicts"] if hot["namespace"] == service.namespace]
    assert [(hot["key"], hot["count"], hot["margin"]) for hot in mine] == [("k", 7, 0)]
    for kind in ("reads", "writes"):
        assert all(hot["margin"] > 0 for hot in told[kind])


def test_slow_log(service: Service):
    """It tells its threshold and its size, and what it has, the newest first."""
    told = service.told("/v1/slowlog")
    assert told["capacity"] == 128
    assert told["threshold_seconds"] == 0.01
    assert len(told["operations"]) == min(told["total"], 128)
    numbers = [operation["id"] for operation in told["operations"]]
    assert numbers == sorted(numbers, reverse=True)
    for operation in told["operations"]:
        assert operation["seconds"] >= 0.01
        ago = datetime.now(UTC) - datetime.fromisoformat(operation["at"])
        assert timedelta(0) <= ago < timedelta(hours=1)


def test_info_tells_of_the_loops(service: Service):
    """Each event loop of ours with its lag and its connections; other servers' loops are not known."""
    info = service.told("/v1/info")
    assert info["slow_threshold_seconds"] == 0.01
    loops = info["loops"]
    if service.way not in LIVE:
        assert loops == []
        return
    assert [loop["thread"] for loop in loops] == ["cacheserver-loop-0", "cacheserver-loop-1"]
    assert all(0 <= loop["lag_seconds"] < 20 for loop in loops)
    assert sum(loop["connections"] for loop in loops) >= 1


def test_events(service: Service):
    """A stream begins with the points so far and goes on with an overview about each second."""
    service.put("k")
    answer = service.client.watch("/ui/events", events=4)
    assert answer.status == 200
    assert answer.header("content-type") == "text/event-stream"
    assert answer.header("cache-control") == "no-store"
    (first, points), *others = events(answer.body)
    assert first == "history"
    assert set(points) >= {"time", "requests_per_second", "hit_ratio", "wait_ratio"}
    assert len({len(column) for column in points.values()}) == 1
    assert [name for name, _ in others] == ["overview"] * 3
    overviews = [data for _, data in others]
    assert overviews[0]["server"]["state"] == "serving"
    if service.clock is None:  # one that stands still has nothing new
        times = [overview["time"] for overview in overviews]
        assert times == sorted(set(times))
        assert overviews[-1]["namespaces_total"] > 0


def test_head_of_a_stream(service: Service):
    """The headers alone, and the next request is answered."""
    answer = service.request("HEAD", "/ui/events")
    assert (answer.status, answer.header("content-type")) == (200, "text/event-stream")
    assert service.request("GET", "/healthz").status == 200


def test_a_stream_counts_as_a_short_request(service: Service):
    """Its time is that to its first byte, however long it goes on."""
    scrapes: list[tuple[float, float]] = []

    def scrape() -> bool:
        text = service.request("GET", "/metrics").body.decode()
        found = dict(re.findall(r"(?m)^cacheserver_request_seconds_(sum|count) (\S+)$", text))
        scrapes.append((float(found["count"]), float(found["sum"])))
        return scrapes[-1][0] == scrapes[0][0] + len(scrapes)  # and each has counted those before

    assert not scrape()
    with closing(service.connect()) as other:
        other.watch("/ui/events", events=5)  # which takes 3 seconds
    wait_until(scrape, "the stream is counted")
    assert scrapes[-1][1] - scrapes[0][1] < 2


@pytest.mark.parametrize("target", FIGURES)
def test_figures_take_no_parameters(service: Service, target: str):
    """Whatever is not known is refused, as everywhere below /v1/."""
    answer = service.request("GET", f"{target}?limit=5")
    assert answer.status == 400
    assert answer.json()["type"] == "urn:cacheserver:problem:malformed-query"
    assert answer.json()["detail"] == "unknown query parameter 'limit': this request takes none"


@pytest.mark.parametrize("target", [*FIGURES, "/ui", "/ui/", "/ui/app.js", "/ui/events"])
def test_they_can_only_be_read(service: Service, target: str):
    """Every other method gives 405 and says which are allowed."""
    for method in ("PUT", "POST", "DELETE", "PATCH"):
        answer = service.request(method, target)
        assert answer.status == 405
        assert answer.header("allow") == "GET, HEAD"
        assert answer.header("content-type") == "application/problem+json"


@pytest.mark.parametrize(
    ("target", "file", "content_type"),
    [
        ("/ui", "index.html", "text/html; charset=utf-8"),
        ("/ui/app.js", "app.js", "text/javascript; charset=utf-8"),
        ("/ui/style.css", "style.css", "text/css; charset=utf-8"),
        ("/ui/uplot.js", "uplot.js", "text/javascript; charset=utf-8"),
        ("/ui/uplot.css", "uplot.css", "text/css; charset=utf-8"),
        ("/ui/icon.svg", "icon.svg", "image/svg+xml"),
        ("/ui/LICENSE-uplot.txt", "LICENSE-uplot.txt", "text/plain; charset=utf-8"),
    ],
)
def test_the_page_and_its_files(service: Service, target: str, file: str, content_type: str):
    """They come as they are in the package, with headers that keep them to themselves, and are checked anew."""
    answer = service.request("GET", target)
    assert answer.status == 200
    assert answer.body == (UI / file).read_bytes()
    assert answer.header("content-type") == content_type
    assert {name: answer.header(name) for name in SECURITY} == SECURITY
    assert answer.header("cache-control") == "no-cache"
    etag = answer.header("etag")
    assert etag is not None
    assert int(etag.strip('"')) == int.from_bytes(hashlib.sha256(answer.body).digest()[:6])
    again = service.request("GET", target, [("If-None-Match", etag)])
    assert (again.status, again.body, again.header("etag")) == (304, b"", etag)
    assert again.header("cache-control") == "no-cache"
    assert service.request("GET", target, [("If-None-Match", '"1"')]).status == 200
    head = service.request("HEAD", target)
    assert (head.status, head.header("content-length")) == (200, str(len(answer.body)))
    assert service.request("GET", f"{target}?from=elsewhere").status == 200
    assert service.request("GET", target, [("If-None-Match", "1")]).status == 400


def test_every_file_of_the_page_has_a_route():
    """And nothing else lies among them."""
    assert {path.name for path in UI.iterdir()} == {"index.html", *PAGE_FILES}


def test_a_slash_behind_the_page(service: Service):
    """It leads to the page, wherever that is mounted: a relative link would miss it."""
    answer = service.request("GET", "/ui/")
    assert (answer.status, answer.header("location"), answer.body) == (308, "../ui", b"")


def test_other_files_are_not_there(service: Service):
    """Nothing but the page's own files is given."""
    for target in ("/ui/index.html", "/ui/x", "/ui/../app.js", "/ui/%61pp.js", "/ui//app.js"):
        assert service.request("GET", target).status == 404


def test_the_page_is_open_and_its_figures_are_not(guarded: Service):
    """With a token the page and its files come without one, and hold no data; all else is 401."""
    for target in ("/ui", "/ui/", *(f"/ui/{name}" for name in PAGE_FILES)):
        assert guarded.request("GET", target).status in (200, 308)
    for target in (*FIGURES, "/ui/events", "/ui/x", "/v1/locks?timing=1"):
        answer = guarded.request("GET", target)
        assert answer.status == 401, target
        assert answer.header("www-authenticate") == 'Bearer realm="cacheserver"'
        assert answer.header("server-timing") is None
        assert guarded.request("HEAD", target).status == 401
    shown = [("Authorization", f"Bearer {TOKEN}")]
    for target in FIGURES:
        assert guarded.request("GET", target, shown).status == 200
    assert guarded.client.watch("/ui/events", 1, shown).status == 200
