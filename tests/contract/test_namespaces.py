"""The namespace routes: configuration, figures, clear, drop, and what a change does to what is stored."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.contract.conftest import JSON, Service
from tests.contract.test_incr import max_age
from tests.support.http_client import Answer

FIELDS = ("max_bytes", "max_entries", "policy", "default_ttl", "stripes", "require_cas")
FIGURES = (
    *("entries", "bytes", "hits", "misses", "hit_ratio", "writes", "cas_conflicts", "evictions"),
    "expirations",
)
MERGE_PATCH = ("Content-Type", "application/merge-patch+json")
POLICIES = ("sieve", "s3fifo", "lru", "lfu", "fifo", "ttl", "random", "none")


def target(service: Service, more: str = "") -> str:
    return f"/v1/namespaces/{service.namespace}{more}"


def send(service: Service, method: str, body: bytes, media_type: str = JSON[1]) -> Answer:
    """Send a body to the route of the namespace."""
    return service.request(method, target(service), [("Content-Type", media_type)], body)


def patch(service: Service, **fields: Any) -> Answer:
    """PATCH the configuration."""
    return send(service, "PATCH", json.dumps(fields).encode(), MERGE_PATCH[1])


def config(service: Service) -> dict[str, Any]:
    """The configuration as GET tells it."""
    return dict(service.request("GET", target(service)).json()["config"])


def check_missing(answer: Answer) -> None:
    """404 that says that it is the namespace which is missing."""
    assert answer.status == 404
    assert answer.json()["reason"] == "namespace"


def test_put_makes_a_namespace(service: Service):
    """201 with name, configuration and figures; what is not given is as usual."""
    answer = service.configure(max_entries=100, default_ttl=60)
    assert answer.status == 201
    assert answer.header("content-type") == "application/json"
    told = answer.json()
    assert list(told) == ["name", "config", "figures"]
    assert told["name"] == service.namespace
    assert tuple(told["config"]) == FIELDS
    assert told["config"] | {"stripes": 0} == {
        "max_bytes": None,
        "max_entries": 100,
        "policy": "sieve",
        "default_ttl": 60,
        "stripes": 0,
        "require_cas": False,
    }
    assert tuple(told["figures"]) == FIGURES
    assert told["figures"] | {"evictions": None} == dict.fromkeys(FIGURES, 0) | {
        "hit_ratio": None,
        "evictions": None,
    }
    assert told["figures"]["evictions"] == {"memory": 0, "max_bytes": 0, "max_entries": 0}
    assert service.request("GET", target(service)).json() == told


def test_a_namespace_that_is_made_by_a_write_is_as_usual(service: Service):
    """It is configured as one that was made with nothing said."""
    service.put("k")
    by_write = config(service)
    service.request("DELETE", target(service))
    assert service.configure().status == 201
    assert config(service) == by_write


def test_put_replaces_the_whole_configuration(service: Service):
    """200 where the namespace is there; a field that is not given is as usual again."""
    service.configure(max_entries=100, policy="lru", require_cas=True)
    answer = service.configure(policy="fifo")
    assert answer.status == 200
    told = answer.json()["config"]
    assert (told["max_entries"], told["policy"], told["require_cas"]) == (None, "fifo", False)


def test_what_was_told_can_be_put(service: Service):
    """A configuration that GET told may be sent back as it is, null included."""
    service.configure(max_entries=5, stripes=8)
    told = config(service)
    assert service.configure(**told).status == 200
    assert config(service) == told


@pytest.mark.parametrize("media_type", [MERGE_PATCH[1], JSON[1], "application/json;charset=utf-8"])
def test_patch_changes_what_is_given(service: Service, media_type: str):
    """Other fields stay; null stands for what is usual (RFC 7396)."""
    service.configure(max_entries=100, policy="lru", default_ttl=60)
    answer = send(service, "PATCH", b'{"policy": "fifo", "default_ttl": null}', media_type)
    assert answer.status == 200
    told = answer.json()["config"]
    assert (told["max_entries"], told["policy"], told["default_ttl"]) == (100, "fifo", 0)
    assert config(service) == told


def test_patch_of_nothing(service: Service):
    """An empty object changes nothing."""
    service.configure(max_entries=100)
    before = config(service)
    assert patch(service).status == 200
    assert config(service) == before


def test_patch_of_what_is_not_there(service: Service):
    """404, and no namespace is made: a mistyped name must not look like a change."""
    check_missing(patch(service, policy="lru"))
    check_missing(service.request("GET", target(service)))


@pytest.mark.parametrize(
    ("method", "more"), [("GET", ""), ("DELETE", ""), ("POST", "/clear"), ("HEAD", "")]
)
def test_what_is_not_there(service: Service, method: str, more: str):
    """A namespace that nobody made gives 404."""
    answer = service.request(method, target(service, more))
    assert answer.status == 404
    assert method == "HEAD" or answer.json()["reason"] == "namespace"


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_can_be_chosen(service: Service, policy: str):
    """A change of policy keeps what is stored, and from then on that policy makes room."""
    for number in range(20):
        service.put(f"k{number}")
    assert patch(service, policy=policy).json()["config"]["policy"] == policy
    assert service.figures()["entries"] == 20
    assert patch(service, max_entries=25).status == 200
    statuses = [service.put(f"l{number}").status for number in range(20)]
    assert service.figures()["entries"] == 25
    if policy == "none":
        assert statuses == [201] * 5 + [507] * 15
    else:
        assert statuses == [201] * 20
        assert service.figures()["evictions"]["max_entries"] == 15


@pytest.mark.parametrize("stripes", [1, 2, 256, 4096])
def test_stripes_can_be_changed(service: Service, stripes: int):
    """What is stored stays, with its versions, its times to live, and its content types."""
    keys = [f"k{number}" for number in range(50)]
    written = {
        key: service.put(key, key.encode(), [("Content-Type", "a/b")], "?ttl=1000") for key in keys
    }
    answer = patch(service, stripes=stripes)
    assert answer.json()["config"]["stripes"] == stripes
    for key in keys:
        read = service.get(key)
        assert (read.body, read.version) == (key.encode(), written[key].version)
        assert read.header("content-type") == "a/b"
        assert max_age(read) > 900
        assert service.put(key).version > read.version
    assert service.figures()["entries"] == 50


def test_a_lower_limit_evicts_at_once(service: Service):
    """What is too much has gone when the answer comes."""
    for number in range(50):
        service.put(f"k{number}", b"x" * 1000)
    assert patch(service, max_entries=20).json()["figures"]["entries"] == 20
    told = patch(service, max_bytes=12_000).json()["figures"]
    assert told["bytes"] <= 12_000
    assert 0 < told["entries"] < 20
    assert told["evictions"]["max_entries"] == 30
    assert told["evictions"]["max_bytes"] == 20 - told["entries"]


def test_default_ttl(service: Service):
    """It counts for what is written from then on without a ttl, by whatever verb."""
    service.put("before")
    service.configure(default_ttl=1000)
    service.put("k")
    service.put("never", query="?ttl=0")
    service.put("soon", query="?ttl=10")
    service.verb("incr", "n")
    service.verb("append", "a", body=b"x")
    service.cas("c", b'{"expected_version": 0, "value": 1}')
    for key in ("k", "n", "a", "c"):
        assert 900 <= max_age(service.get(key)) <= 1000
    assert max_age(service.get("before")) == max_age(service.get("never")) == -1
    assert max_age(service.get("soon")) <= 10
    assert service.verb("touch", "never").status == 204
    assert 900 <= max_age(service.get("never")) <= 1000
    patch(service, default_ttl=0)
    service.put("k")
    assert max_age(service.get("k")) == -1


def test_figures(service: Service):
    """They count what happened, and tell the share of reads that found something."""
    version = service.put("k", b"x" * 1000).version
    service.put("k", query="?cas=7")
    for key in ("k", "k", "k", "gone"):
        service.get(key)
    service.put("soon", query="?ttl=0.2")
    service.within(0.2, lambda: service.get("soon").status == 404, "the value expires")
    service.delete("k", query=f"?cas={version}")
    figures = service.figures()
    assert figures["entries"] == 0
    assert figures["bytes"] == 0
    assert figures["hits"] >= 3
    assert figures["misses"] >= 2
    ratio = figures["hits"] / (figures["hits"] + figures["misses"])
    assert figures["hit_ratio"] == pytest.approx(ratio, abs=1e-6)
    assert (figures["writes"], figures["cas_conflicts"], figures["expirations"]) == (3, 1, 1)


def test_list(service: Service):
    """All namespaces, in order of their names, each as GET tells it alone."""
    names = [f"{service.namespace}{more}" for more in ("-b", "-a", "")]
    for name in names:
        assert service.request("PUT", f"/v1/namespaces/{name}", [JSON], b"{}").status == 201
    answer = service.request("GET", "/v1/namespaces")
    assert answer.status == 200
    assert list(answer.json()) == ["namespaces"]
    told = {each["name"]: each for each in answer.json()["namespaces"]}
    assert list(told) == sorted(told)
    for name in names:
        assert told[name] == service.request("GET", f"/v1/namespaces/{name}").json()


def test_head(service: Service):
    """HEAD of what can be got gives status and headers alone."""
    service.configure()
    for path in ("/v1/namespaces", target(service)):
        head, get = service.request("HEAD", path), service.request("GET", path)
        assert head.status == get.status == 200
        assert head.header("content-type") == get.header("content-type") == "application/json"


def test_clear(service: Service):
    """All keys go, and the answer says how many; the configuration stays."""
    service.configure(max_entries=100)
    versions = [service.put(f"k{number}").version for number in range(10)]
    answer = service.request("POST", target(service, "/clear"))
    assert (answer.status, answer.json()) == (200, {"entries": 10})
    assert service.request("POST", target(service, "/clear")).json() == {"entries": 0}
    assert service.get("k0").json()["reason"] == "key"
    assert config(service)["max_entries"] == 100
    assert service.figures()["bytes"] == 0
    assert service.put("k0").version > versions[0]


def test_clear_takes_no_body(service: Service):
    """Who says which keys is told that all would go, and none goes."""
    service.put("k")
    answer = service.request("POST", target(service, "/clear"), [JSON], b'{"prefix": "a"}')
    assert answer.status == 400
    assert answer.json()["type"] == "urn:cacheserver:problem:malformed-body"
    assert service.get("k").status == 200


def test_drop(service: Service):
    """204, and neither keys nor configuration are there any more; the next write makes it anew."""
    service.configure(max_entries=100)
    version = service.put("k").version
    assert service.request("DELETE", target(service)).status == 204
    check_missing(service.request("DELETE", target(service)))
    check_missing(service.request("GET", target(service)))
    check_missing(service.get("k"))
    check_missing(service.verb("touch", "k"))
    check_missing(service.delete("k"))
    again = service.put("k", query=f"?cas={version}")
    assert (again.status, again.json()["current_version"]) == (412, None)
    created = service.put("k")
    assert created.status == 201
    assert created.version > version
    assert config(service)["max_entries"] is None


@pytest.mark.parametrize("verb", ["put", "incr", "append", "cas"])
def test_every_write_makes_a_dropped_namespace_anew(service: Service, verb: str):
    """Also where the thread that answers has worked with the one that was dropped."""
    for _ in range(5):
        service.put("other")
        assert service.request("DELETE", target(service)).status == 204
        if verb == "put":
            assert service.put("k", b"1").status == 201
        elif verb == "cas":
            assert service.cas("k", b'{"expected_version": null, "value": 1}').status == 200
        else:
            assert service.verb(verb, "k", body=b"1" if verb == "append" else b"").status == 200
        assert service.get("k").body == b"1"
        assert service.figures()["entries"] == 1
        assert service.request("DELETE", target(service)).status == 204


BAD_CONFIGS: list[tuple[str, str]] = [
    *(
        (f'{{"policy": {value}}}', "policy")
        for value in ('"clock"', '"LRU"', '""', "1", "[]", "{}")
    ),
    *(
        (f'{{"{name}": {value}}}', name)
        for name in ("max_bytes", "max_entries")
        for value in ("0", "-1", "1.5", "1.0", "true", '"1g"', "[1]", "1e300", "1" + "0" * 400)
    ),
    *(
        (f'{{"default_ttl": {value}}}', "default_ttl")
        for value in ("-1", "-0.001", "1e9", "true", '"60"', "[]", "1e300", "1" + "0" * 400)
    ),
    *(
        (f'{{"stripes": {value}}}', "stripes")
        for value in ("0", "-1", "3", "8192", "2.0", "true", '"64"', "18446744073709551616")
    ),
    *((f'{{"require_cas": {value}}}', "require_cas") for value in ("1", "0", '"true"', "[]")),
    ('{"policy": "lru", "max_entries": -5}', "max_entries"),
    ('{"stale_ttl": 60}', "stale_ttl"),
    ('{"max_entires": 100}', "max_entires"),
    ('{"name": "x"}', "name"),
    ('{"": 1}', "''"),
]


@pytest.mark.parametrize(("body", "hint"), BAD_CONFIGS)
def test_bad_config(service: Service, body: str, hint: str):
    """What cannot be gives 400 that names the field and says what could be, and changes nothing."""
    assert send(service, "PUT", body.encode()).status == 400
    check_missing(service.request("GET", target(service)))
    service.configure(max_entries=100, policy="lru", default_ttl=60, stripes=4, require_cas=True)
    before = config(service)
    for method in ("PUT", "PATCH"):
        answer = send(service, method, body.encode())
        assert answer.status == 400
        assert answer.header("content-type") == "application/problem+json"
        assert hint in answer.json()["detail"]
        assert len(answer.json()["detail"]) < 1000
        assert config(service) == before


@pytest.mark.parametrize(
    ("body", "hint"),
    [
        *((b"", "not JSON"), (b"{", "line 1"), (b"[]", "object"), (b"null", "object")),
        *((b'"lru"', "object"), (b"1", "object"), (b'{"max_entries": NaN}', "NaN")),
        *((b'{"default_ttl": 1e999}', "double"), (b'{"policy": "\xff"}', "UTF-8")),
        *((b'{"policy": "\\ud800"}', "surrogate"), (b"[" * 600 + b"]" * 600, "deep")),
        (b'{"default_ttl": -Infinity}', "Infinity"),
    ],
)
def test_bad_body(service: Service, body: bytes, hint: str):
    """What is no JSON object gives 400 that says why, and changes nothing."""
    service.configure(max_entries=100)
    before = config(service)
    for method in ("PUT", "PATCH"):
        answer = send(service, method, body)
        assert answer.status == 400
        assert hint in answer.json()["detail"]
    assert config(service) == before


def test_a_field_given_twice(service: Service):
    """The last one counts, as everywhere in JSON here."""
    told = send(service, "PUT", b'{"max_entries": 1, "max_entries": 2}').json()
    assert told["config"]["max_entries"] == 2


@pytest.mark.parametrize(
    ("method", "media_type", "status"),
    [
        *(("PUT", None, 415), ("PUT", "text/plain", 415), ("PUT", MERGE_PATCH[1], 415)),
        *(("PUT", "Application/JSON", 201), ("PATCH", None, 415), ("PATCH", "text/json", 415)),
        *(("PATCH", "application/json-patch+json", 415), ("PATCH", MERGE_PATCH[1], 404)),
        ("PATCH", "application/json; charset=latin-1", 415),
    ],
)
def test_media_type(service: Service, method: str, media_type: str | None, status: int):
    """The body must be said to be JSON, for PATCH a merge patch or JSON; 415 says so."""
    headers = [] if media_type is None else [("Content-Type", media_type)]
    answer = service.request(method, target(service), headers, b"{}")
    assert answer.status == status
    assert status != 415 or "application/json" in answer.json()["detail"]


def test_coded_body(service: Service):
    """A body with a content coding gives 415."""
    headers = [JSON, ("Content-Encoding", "gzip")]
    assert service.request("PUT", target(service), headers, b"{}").status == 415


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_body_too_large(service: Service, method: str):
    """A body beyond 64 KiB gives 413 before any of it is asked for."""
    answer = service.client.announce(method, target(service), 65_537, [JSON])
    assert answer.status == 413
    assert answer.json()["type"] == "urn:cacheserver:problem:too-large"
    check_missing(service.request("GET", target(service)))


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    "name", ["", "a:b", "a%2Fb", "a%20b", "x" * 65, "%C3%A4", "%FF", "%zz", "a+b", "%00"]
)
def test_bad_name(service: Service, method: str, name: str):
    """What can be no namespace's name gives 400."""
    body = b"{}" if method in ("PUT", "PATCH") else b""
    headers = [JSON] if body else []
    answer = service.request(method, f"/v1/namespaces/{name}", headers, body)
    assert answer.status == 400


def test_bad_name_to_clear(service: Service):
    """So it does behind the name."""
    assert service.request("POST", "/v1/namespaces/a:b/clear").status == 400
    assert service.request("POST", "/v1/namespaces//clear").status == 400


def test_name_by_any_spelling(service: Service):
    """The name is percent-decoded, as that of the data routes is."""
    service.put("k")
    spelled = "/v1/namespaces/" + "".join(f"%{ord(letter):02X}" for letter in service.namespace)
    assert service.request("GET", spelled).json()["figures"]["entries"] == 1
    assert service.request("POST", spelled + "/clear").json() == {"entries": 1}


@pytest.mark.parametrize(
    "path", ["", "?", "?x=1", "?policy=lru", "/clear?x=1", "?stripes=4&stripes=4", "?%zz=1"]
)
def test_no_query_is_known(service: Service, path: str):
    """A query parameter gives 400: a configuration belongs into the body."""
    service.configure()
    expected = 200 if path in ("", "?") else 400
    method = "POST" if path.startswith("/clear") else "GET"
    assert service.request(method, target(service, path)).status == expected
    if expected == 400:
        assert send(service, "PUT", b"{}").status == 200
        assert service.request("GET", f"/v1/namespaces{path}").status in (400, 404)


@pytest.mark.parametrize(
    ("path", "method", "allow"),
    [
        ("", "POST", "GET, HEAD"),
        ("", "PUT", "GET, HEAD"),
        ("/n", "POST", "GET, HEAD, PUT, PATCH, DELETE"),
        ("/n/clear", "GET", "POST"),
        ("/n/clear", "DELETE", "POST"),
    ],
)
def test_other_methods(service: Service, path: str, method: str, allow: str):
    """405 says what is allowed."""
    answer = service.request(method, f"/v1/namespaces{path}")
    assert answer.status == 405
    assert answer.header("allow") == allow


@pytest.mark.parametrize("path", ["/n/", "/n/x", "/n/clear/", "/n/clear/x", "/n/%63lear", "//n"])
def test_other_routes(service: Service, path: str):
    """What lies beside or below gives 404 of a route."""
    answer = service.request("POST", f"/v1/namespaces{path}")
    assert (answer.status, answer.json()["reason"]) == (404, "route")


def test_a_token_is_needed(guarded: Service):
    """Without a token nothing is told and nothing changed."""
    for method, path in (
        *(("GET", "/v1/namespaces"), ("GET", "/v1/namespaces/n"), ("PUT", "/v1/namespaces/n")),
        *(("PATCH", "/v1/namespaces/n"), ("DELETE", "/v1/namespaces/n")),
        *(("POST", "/v1/namespaces/n/clear"), ("POST", "/v1/incr/n/k"), ("POST", "/v1/touch/n/k")),
        ("POST", "/v1/append/n/k"),
    ):
        assert guarded.request(method, path).status == 401
