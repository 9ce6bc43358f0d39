"""Requests one after the other on one connection, each sent when the answer before it has come.

CURRENT stands for the version that was told last, and NAMESPACE for a fresh namespace.
"""

from __future__ import annotations

import base64
from typing import Final

from tests.parity.conftest import MAX_VALUE_SIZE, NAMESPACE
from tests.support.wire import request

CURRENT: Final = "1000000000000000"
TOKEN: Final = "open-sesame-open-sesame"

_KV: Final = f"/v1/kv/{NAMESPACE}/"
_CAS: Final = f"/v1/cas/{NAMESPACE}/"
_NAMESPACE: Final = f"/v1/namespaces/{NAMESPACE}"
_VALUE: Final = b"value"
_TAG: Final = f'"{CURRENT}"'
_JSON: Final = "application/json"
_CHUNKED: Final = b"Transfer-Encoding: chunked\r\n\r\n"


def get(key: str = "k", /, **headers: str) -> bytes:
    return request("GET", _KV + key, **headers)


def head(key: str = "k", /, **headers: str) -> bytes:
    return request("HEAD", _KV + key, **headers)


def put(key: str = "k", value: bytes = _VALUE, /, **headers: str) -> bytes:
    return request("PUT", _KV + key, value, **headers)


def delete(key: str = "k", /, **headers: str) -> bytes:
    return request("DELETE", _KV + key, **headers)


def cas(body: str, key: str = "k", content_type: str = _JSON, **headers: str) -> bytes:
    return request("POST", _CAS + key, body.encode(), Content_Type=content_type, **headers)


def post(verb: str, key: str = "n", value: bytes | None = None, /, **headers: str) -> bytes:
    return request("POST", f"/v1/{verb}/{NAMESPACE}/{key}", value, **headers)


def config(method: str, body: str = "{}", content_type: str = _JSON, **headers: str) -> bytes:
    return request(method, _NAMESPACE, body.encode(), Content_Type=content_type, **headers)


def with_lines(method: str, *lines: str) -> bytes:
    """A request for `k` without a body whose headers are written as they are given."""
    return "\r\n".join([f"{method} {_KV}k HTTP/1.1", "Host: test", *lines, "", ""]).encode()


def chunked(*chunks: bytes, method: str = "PUT", more: str = "") -> bytes:
    pieces = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    line = f"{method} {_KV}k HTTP/1.1\r\nHost: test\r\n{more}".encode()
    return line + _CHUNKED + pieces + b"0\r\n\r\n"


def everywhere(**headers: str) -> list[bytes]:
    """The same header on every method of a key that is there."""
    return [put(), get(**headers), head(**headers), put(**headers), delete(**headers)]


CONDITIONS: Final = (
    *(_TAG, f"W/{_TAG}", '"7"', 'W/"7"', "*", " * ", f'"7", {_TAG}', f"{_TAG},", f',, "x" ,{_TAG}'),
    *(f"W/{_TAG}, {_TAG}", '"7", "8"', '""', '"\xe4"', '"99999999999999999999"'),
    *("17", '"17', '*, "1"', '"1" "2"', "", ",", 'w/"1"', 'W/ "1"', '"a b"'),
)
QUERIES: Final = (
    *("?", "?&", "?x", "?x=1", "?ttl", "?ttl=", "?cas=", "?TTL=5", "?%FF=1", "?ttl=%zz", "?a=%"),
    *("?ttl=0", "?ttl=100", "?ttl=100.5", "?ttl=-1", "?ttl=1e3", "?ttl=nan", "?ttl=9999999999"),
    *("?ttl=5&ttl=5", "?cas=0", "?cas=00", "?cas=7", f"?cas={CURRENT}", f"?%63as={CURRENT}"),
    *("?cas=0&cas=0", "?cas=x", "?cas=9007199254740992", "?ttl=100&cas=0", "?cas=0&ttl=x"),
    *(f"?ttl=100&cas={CURRENT}&", "?ttl=0.0000000000000001", "?ttl=00000000000000060", "?ttl=6%30"),
)
KEYS: Final = (
    *("k", "%6B", "a/b", "a%2Fb", "a%2fb", "/", "//", ".", "../x", "a//b/", "+", "%2B", "%00"),
    *("%0A", "%C3%A4", "%F0%9F%98%80", "k" * 1024, "k" * 1025, "%6B" * 1024, "%C3%A4" * 513),
    *(
        "",
        "%",
        "%2",
        "%zz",
        "%FF",
        "%C3",
        "%ED%A0%80",
        "%25",
        "%23",
        "%2561",
        "%252F",
        "%2525",
        "~!$'()*,;=:@",
    ),
)
NAMESPACES: Final = (
    *(
        "",
        NAMESPACE,
        NAMESPACE + "x" * 48,
        NAMESPACE + "x" * 49,
        f"{NAMESPACE}%2E",
        f"%61{NAMESPACE}",
    ),
    *(
        f"{NAMESPACE}{more}"
        for more in ("%20b", "%2Fb", ":b", "%C3%A4", "+b", "%zz", "%FF", "%", "*")
    ),
)
NUMBERS: Final = (
    *("0", "-0", "007", "-5", "9223372036854775807", "-9223372036854775808"),
    *("9223372036854775808", "-9223372036854775809", "", "x", "%2D3", "+3", "1.0", "%zz", "9" * 99),
)
BAD_CONFIGS: Final = (
    *("", "{", "[]", "null", "NaN", '{"x": 1}', '{"stale_ttl": 1}', '{"policy": "clock"}'),
    *('{"policy": 1}', '{"max_bytes": 0}', '{"max_entries": -1}', '{"max_entries": 1.5}'),
    *('{"max_bytes": true}', '{"default_ttl": -1}', '{"default_ttl": "1"}', '{"stripes": 3}'),
    *('{"stripes": 8192}', '{"require_cas": 1}', '{"policy": "\\ud800"}'),
)
BAD_JSON: Final = (
    *("", "{", "[]", "null", "{}", '{"value": 1}', '{"expected_version": 0}', '{"x": 1}', "NaN"),
    '{"expected_version": 0, "value": 1, "value_base64": ""}',
    '{"expected_version": -1, "value": 1}',
    '{"expected_version": "1", "value": 1}',
    '{"expected_version": 0, "value_base64": "x"}',
    '{"expected_version": 0, "value": 1, "content_type": "a/b"}',
    '{"expected_version": 0, "value": 1, "ttl": "x"}',
    '{"expected_version": 0, "value": 1, "ttl": -1}',
    '{"expected_version": 0, "value": 1, "ttl": 1e99}',
    '{"expected_version": 0, "value": "\\ud800"}',
)
ROUTES: Final = (
    *(
        "/",
        "*",
        "/v1",
        "/v1/kv",
        "/v1/kv/",
        f"/v1/kv/{NAMESPACE}",
        f"/v1//kv/{NAMESPACE}/b",
        f"//v1/kv/{NAMESPACE}/b",
    ),
    *(
        f"/V1/kv/{NAMESPACE}/b",
        "/v1%2Fkv/a/b",
        f"/%76%31/kv/{NAMESPACE}/b",
        "/v1/KV/a/b",
        "/healthz",
        "/healthz/",
    ),
    *(
        "/readyz",
        "/metrics",
        "/v1/info",
        "/healthz?x=1",
        f"/v1/cas/{NAMESPACE}/b",
        f"/v2/kv/{NAMESPACE}/b",
        f"/v1/kvx/{NAMESPACE}/b",
        "/v1/namespaces",
        "/v1/namespaces/",
        f"/v1/namespaces/{NAMESPACE}/clear",
        f"/v1/namespaces/{NAMESPACE}/other",
        f"/v1/incr/{NAMESPACE}",
    ),
    *(
        f"http://test/v1/kv/{NAMESPACE}/b",
        f"http://other:1/v1/kv/{NAMESPACE}/b?x=1",
        "HTTP://test",
        "http://test?x",
    ),
    *(
        f"{_KV}k?",
        f"{_KV}k??",
        f"{_KV}k?a?b",
        f"{_KV}k/v1/kv/{NAMESPACE}/b",
        f"/v1/kv/{NAMESPACE}?/b",
        f"/v1/kv?/{NAMESPACE}/b",
    ),
)

EXCHANGES: Final[dict[str, list[bytes]]] = {
    "the life of a value": [
        *(get(), head(), delete(), put(), get(), head(), put("k", b"two"), get(), put("k", b"")),
        *(get(), head(), delete(), get(), delete(), put(), put("other"), get("third"), delete()),
    ],
    "the same head again and again": [put(), *[get()] * 5, *[put()] * 3, *[head()] * 3, get()],
    "more different heads than anybody remembers": [
        get(X_Number=str(number)) for _ in range(2) for number in range(150) for _ in range(3)
    ],
    "values of many sizes": [
        request
        for size in (0, 1, 1000, 16_384, 32_768, 59_999, MAX_VALUE_SIZE)
        for request in (put("k", b"x" * size), get(), head())
    ],
    "content types": [
        request
        for text in (
            "text/plain",
            _JSON,
            "Text/Plain; A=b",
            "x" * 255,
            "x" * 256,
            "",
            "a\tb",
            "\xe4",
        )
        for request in (put(Content_Type=text), get(), head())
    ],
    "two content types": [with_lines("PUT", "Content-Type: a", "Content-Type: b"), get()],
    "codings and ranges": [
        *(
            put(Content_Encoding=coding)
            for coding in ("gzip", "identity", " Identity ", "", "x, y")
        ),
        *(put(Content_Range="bytes 0-4/5"), get(Range="bytes=0-1"), get(Accept_Encoding="gzip")),
    ],
    "if-match": [request for condition in CONDITIONS for request in everywhere(If_Match=condition)],
    "if-none-match": [
        request for condition in CONDITIONS for request in everywhere(If_None_Match=condition)
    ],
    "both conditions": [
        request
        for match in (_TAG, '"7"', "*", "x")
        for none_match in (_TAG, '"7"', "*", "x")
        for request in everywhere(If_Match=match, If_None_Match=none_match)
    ],
    "conditions on what is not there": [
        request
        for condition in ("*", '"7"')
        for name in ("If_Match", "If_None_Match")
        for request in (get(**{name: condition}), delete(**{name: condition}), put(**{name: "7"}))
    ],
    "conditions on several lines": [
        request
        for method in ("GET", "HEAD", "PUT", "DELETE")
        for lines in (
            ('If-Match: "7"', f"If-Match: {_TAG}"),
            ('If-None-Match: "7"', f"if-none-match:{_TAG}"),
            ("If-Match: *", "IF-MATCH: *"),
            (f"If-Match:{_TAG}\t ", "Content-Length: 0"),
        )
        for request in (put(), with_lines(method, *lines))
    ],
    "conditions of dates mean nothing": [
        *(put(), get(If_Modified_Since="Sun, 22 Nov 2099 00:00:00 GMT")),
        get(If_Unmodified_Since="Sun, 22 Nov 1999 00:00:00 GMT"),
    ],
    "queries": [
        request
        for query in QUERIES
        for request in (put(), put("k" + query), get("k" + query), head("k" + query), get())
    ],
    "queries of delete": [
        request for query in QUERIES for request in (put(), delete("k" + query), get())
    ],
    "keys": [
        request
        for key in KEYS
        for request in (put(key), get(key), head(key), delete(key), get(key), delete(key))
    ],
    "keys of characters that are to be encoded": [
        *(put("a[]b"), get("a[]b"), put("|^`{}"), get("|^`{}"), head('"'), delete("<>\\")),
    ],
    **{
        f"namespace {namespace}": [
            request(method, f"/v1/kv/{namespace}/k", body)
            for method, body in (("GET", None), ("PUT", b"v"), ("HEAD", None), ("DELETE", None))
        ]
        for namespace in NAMESPACES
    },
    "figures": [
        request(method, f"/v1/{what}{query}")
        for what in ("info", "locks", "hotkeys", "slowlog")
        for query in ("", "?x=1", "?timing=2")
        for method in ("GET", "HEAD")
    ],
    "times": [
        *(put("k?timing=1"), get("k?timing=1"), head("k?timing=1"), put("k?timing=0"), get()),
        *(get("k?timing=2"), get("k?timing"), get("k?x&timing=1"), put("k?ttl=5&timing=1")),
        *(get("none?timing=1"), get("%zz?timing=1"), get("k?timing=1&timing=1"), put("k?timing=")),
        *(delete("k?timing=1", If_Match='"1"'), delete("k?%74iming=%31"), put(), delete()),
    ],
    "the live page": [
        *(
            request(method, f"/ui{file}", If_None_Match=tag)
            for file in ("", "/app.js", "/icon.svg")
            for method in ("GET", "HEAD")
            for tag in ("x", "*", '"1"', _TAG)
        ),
        *(request(method, "/ui/") for method in ("GET", "HEAD", "PUT")),
        *(request(method, "/ui/none") for method in ("GET", "HEAD", "PUT")),
        *(request("HEAD", "/ui/events"), request("GET", "/ui/events?x=1"), get()),
    ],
    "routes": [request(method, target) for target in ROUTES for method in ("GET", "HEAD")],
    "routes that take no body": [
        request(method, target, b"body")
        for target in ROUTES
        for method in ("PUT", "POST", "DELETE")
        if target != f"{_KV}k?"
    ],
    "methods": [
        request(method, target)
        for method in ("POST", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "PURGE", "LINK")
        for target in (f"{_KV}k", f"{_CAS}k", "/healthz", "/nothing", "*")
    ],
    "methods of other verbs": [
        request(method, f"/v1/{verb}/{NAMESPACE}/k", body)
        for verb in ("incr", "append", "touch")
        for method, body in (("GET", None), ("HEAD", None), ("PUT", b"v"), ("DELETE", None))
    ],
    "bodies where none is expected": [
        *(put(), request("GET", f"{_KV}k", b"body"), request("HEAD", f"{_KV}k", b"body")),
        *(chunked(b"body", method="GET"), chunked(b"body", method="DELETE"), get()),
        *(put(), request("DELETE", f"{_KV}k", b"body"), get()),
    ],
    "bodies in chunks": [
        *(chunked(), get(), chunked(b"one", b" ", b"two"), get(), chunked(*[b"x"] * 100), get()),
        *(chunked(b"x" * MAX_VALUE_SIZE), get(), chunked(b"x" * 40_000, b"x" * 40_000), get()),
        chunked(b"", more="If-Match: x\r\n"),
    ],
    "no length at all": [with_lines("PUT"), get(), with_lines("PUT", "Content-Length: 0"), get()],
    "too large": [
        put("k", b"x" * (MAX_VALUE_SIZE + 1)),
        put("%zz?x=1", b"x" * (MAX_VALUE_SIZE + 1), If_Match="x"),
        request("PUT", "/v1/nothing", b"x" * (MAX_VALUE_SIZE + 1)),
        get(),
    ],
    "too large for JSON": [
        cas("x" * 200_000),
        cas("x" * 100_000),
        cas("x" * 200_000, "%zz"),
        get(),
    ],
    "more than one mistake": [
        put("%zz?x=1", If_Match="x", Content_Encoding="gzip", Content_Range="x", Content_Type="\t"),
        put("%zz?x=1", If_Match="x", Content_Range="x"),
        put("%zz?x=1", If_Match="x"),
        put("k?x=1", If_Match="x"),
        put("k?cas=x", If_Match="x", If_None_Match="y"),
        put("k?ttl=x", If_None_Match="y", Content_Type="\xe4"),
        put(If_None_Match="y", Content_Type="\xe4"),
        get("%zz?x=1", If_Match="x"),
        get("k" * 1025 + "?x=1", If_Match="x"),
        get("k?x=1", If_Match="x", If_None_Match="x"),
        delete("%zz?x=1", If_Match="x"),
        delete("k?x=1&cas=x", If_Match="x"),
        request("PUT", "/v1/kv/a:b/%zz", b""),
        request("PUT", "/v1/kv/a:b/", b""),
    ],
    "expect": [
        *(put(Expect="100-continue"), put(Expect="100-Continue"), get(Expect="100-continue")),
        *(put("%zz", Expect="100-continue"), put(Expect="nonsense"), put("k", b"", Expect="x")),
        put("k", b"", Expect="100-continue"),
        put("k", b"x" * (MAX_VALUE_SIZE + 1), Expect="100-continue"),
    ],
    "connection": [
        *(put(Connection="close"), get(Connection="close"), head(Connection="close")),
        *(get(Connection="keep-alive"), get(Connection="Close"), get(Connection="x, close")),
        *(delete(Connection="close, te"), get(Connection="keep-alive, close"), get(Connection="")),
        *(put("%zz", Connection="close"), get("k?x", Connection="close"), put(), get()),
        *(get(Proxy_Connection="close"), get(Proxy_Connection="keep-alive"), get(Keep_Alive="x")),
        with_lines("GET", "Connection: keep-alive", "Connection: close"),
    ],
    "upgrades": [
        *(put(Connection="upgrade", Upgrade="h2c"), get(Connection="Upgrade", Upgrade="websocket")),
        *(head(Connection="upgrade", Upgrade="x"), delete(Connection="upgrade", Upgrade="h2c")),
        *(get(Upgrade="h2c"), put(), get()),
    ],
    "other spellings of headers": [
        b"PUT %bk HTTP/1.1\r\nhOST:test\r\ncONTENT-lENGTH:   3\r\n\r\nabc" % _KV.encode(),
        b"GET %bk HTTP/1.1\r\nHost: \t test \t\r\nX-Empty:\r\nX:y:z\r\n\r\n" % _KV.encode(),
        b"\r\n\r\nGET %bk HTTP/1.1\r\nHost:\r\n\r\n" % _KV.encode(),
        b"GET %bk HTTP/1.1\r\nHost: a b/c?\r\n\r\n" % _KV.encode(),
        b"PUT %bk HTTP/1.1\r\nHost: x\r\nContent-Length: 0003\r\n\r\nabc" % _KV.encode(),
        get(),
    ],
    "blanks after a value": [
        *(with_lines("PUT", "Content-Length: 0 "), with_lines("PUT", "Content-Type: text/plain\t")),
        *(put(If_Match="* "), get(), get(Connection="close ")),
    ],
    "a blank after the coding": [chunked(b"x").replace(b"chunked", b"chunked \t"), get()],
    "HTTP/1.0": [
        b"PUT %bk HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc" % _KV.encode(),
        b"GET %bk HTTP/1.0\r\n\r\n" % _KV.encode(),
        b"GET %bk HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" % _KV.encode(),
        b"HEAD %bk HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n" % _KV.encode(),
        b"GET %b%%zz HTTP/1.0\r\n\r\n" % _KV.encode(),
        b"DELETE %bk HTTP/1.0\r\nIf-Match: x\r\n\r\n" % _KV.encode(),
        get(),
    ],
    "JSON": [
        cas('{"expected_version": null, "value": {"b": [1, 2.5, "\\u00e4"], "a": null}}'),
        *(get(), cas(f'{{"expected_version": {CURRENT}, "value": 18446744073709551616}}'), get()),
        *(cas('{"expected_version": 7, "value": 1}'), put("k", b"\x00", Content_Type="a/b")),
        *(cas('{"expected_version": 0, "value": 1}'), delete()),
        *(cas('{"expected_version": 7, "value": 1}'), cas('{"expected_version": 0, "value": 1}')),
        cas(f'{{"expected_version": {CURRENT}, "value": 2, "ttl": 100}}', If_Match="*"),
        *(get(), cas(f'{{"expected_version": {CURRENT}, "value": 2}}', If_None_Match="*")),
        cas(f'{{"expected_version": 0, "value_base64": "{base64.b64encode(b"x").decode()}"}}', "b"),
        *(get("b"), cas("{}", "%zz"), cas("{}", "k?x"), cas("{}", "k" * 1025)),
        *(cas("{}", content_type="text/plain"), cas("{}", Content_Encoding="gzip"), get()),
    ],
    "bad JSON": [cas(body) for body in BAD_JSON],
    "numbers": [
        *(post("incr"), get("n"), post("incr"), post("incr", "n?by=5"), post("incr", "n?by=-50")),
        *(get("n"), delete("n"), post("incr", "n?initial=7&by=0"), put("n", b"text"), post("incr")),
        *(put("n", b"9223372036854775807"), post("incr"), post("incr", "n?by=-1"), get("n")),
        *(put("n", b"-1", Content_Type="a/b"), post("incr"), get("n"), post("incr", "%6E")),
    ],
    "bad numbers": [
        request
        for number in NUMBERS
        for name in ("by", "initial")
        for request in (post("incr", f"n?{name}={number}"), get("n"), delete("n"))
    ],
    "pieces": [
        *(post("append", "k", b"one"), get(), post("append", "k", b" two"), get(), delete()),
        *(post("append", "k", b"x", Content_Type="text/plain"), get(), post("append", "k")),
        *(post("append", "k", b"y", Content_Type=_JSON), get(), post("append", "k", b""), get()),
        *(post("append", "k", b"x", Content_Encoding="gzip"), get()),
        *(post("append", "k", b"x", Content_Type="a\tb"), get()),
        *(post("append", "k", b"x" * 59_000), post("append", "k", b"x" * 59_000), get()),
        post("append", "k", b"x" * (MAX_VALUE_SIZE + 1)),
    ],
    "pieces in chunks": [
        chunked(b"one", b"two").replace(b"PUT /v1/kv/", b"POST /v1/append/"),
        chunked(b"x" * 59_000).replace(b"PUT /v1/kv/", b"POST /v1/append/"),
        chunked(b"x" * 40_000, b"x" * 40_000).replace(b"PUT /v1/kv/", b"POST /v1/append/"),
        get(),
    ],
    "a new time to live": [
        *(post("touch", "k"), put(), post("touch", "k"), post("touch", "k?ttl=100"), get()),
        *(post("touch", "k"), get(), post("touch", "none?ttl=5"), post("touch", "k?ttl=0"), get()),
    ],
    "a time to live that stays": [
        *(post("incr", "n?ttl=100"), post("incr"), get("n"), post("incr", "n?ttl=0"), get("n")),
        *(post("append", "k?ttl=100", b"x"), post("append", "k", b"y"), get()),
        *(post("append", "k?ttl=315360000", b"z"), get()),
    ],
    "conditions of other verbs": [
        request
        for condition in CONDITIONS
        for name in ("If_Match", "If_None_Match")
        for verb, body in (("incr", None), ("append", b"1"), ("touch", None))
        for request in (put("n", b"1"), post(verb, "n", body, **{name: condition}))
    ],
    "queries of other verbs": [
        request
        for query in QUERIES
        for verb, body in (("incr", None), ("append", b"1"), ("touch", None))
        for request in (put("n", b"1"), post(verb, f"n{query}", body), get("n"))
    ],
    "keys of other verbs": [
        request
        for key in KEYS
        for request in (post("incr", key), post("append", key, b"1"), post("touch", key), get(key))
    ],
    "other verbs with a body, and without": [
        *(post("incr", "n", b""), post("incr", "n", b"by=5"), post("touch", "n", b"x"), get("n")),
        chunked().replace(b"PUT /v1/kv/", b"POST /v1/incr/"),
        chunked(b"x", b"y").replace(b"PUT /v1/kv/", b"POST /v1/touch/"),
        get(),
        *(post("incr", "n", Expect="100-continue"), post("append", "n", b"1", Expect="x")),
        post("incr", "n", b"x" * 100_000),
    ],
    "the same other verbs again and again": [
        request
        for _ in range(5)
        for request in (post("incr"), post("append", "k", b"1"), post("touch", "k?ttl=100"))
    ],
    "a namespace": [
        request("PATCH", "/v1/namespaces/nobody", b"{}", Content_Type=_JSON),
        *(request("GET", _NAMESPACE), request("HEAD", _NAMESPACE), config("PATCH")),
        *(config("PUT"), config("PUT", '{"max_entries": 3, "policy": "fifo", "stripes": 1}')),
        *(put("a"), put("b"), put("c"), put("d"), get("a"), get("d"), request("GET", _NAMESPACE)),
        config("PATCH", '{"max_entries": 2, "default_ttl": 100}', "application/merge-patch+json"),
        *(get("b"), put("a"), get("a"), config("PATCH", '{"default_ttl": null, "stripes": 4}')),
        *(put("a"), get("a"), request("HEAD", _NAMESPACE), request("GET", "/v1/namespaces")),
        *(request("HEAD", "/v1/namespaces"), request("POST", f"{_NAMESPACE}/clear")),
        *(get("a"), request("POST", f"{_NAMESPACE}/clear"), request("GET", _NAMESPACE)),
        *(put("a"), request("DELETE", _NAMESPACE), request("DELETE", _NAMESPACE), get("a")),
        *(delete("a"), post("touch", "a"), request("POST", f"{_NAMESPACE}/clear")),
    ],
    "namespaces that cannot be": [
        request(method, f"/v1/namespaces/{namespace}{more}", body, Content_Type=_JSON)
        for namespace in NAMESPACES[2:]
        for method, body, more in (
            *(("PUT", b"[]", ""), ("PATCH", b"{}", ""), ("DELETE", None, ""), ("GET", None, "")),
            ("POST", None, "/clear"),
        )
    ],
    "bad configurations": [
        request
        for body in BAD_CONFIGS
        for request in (config("PUT", body), config("PATCH", body), config("PUT"))
    ],
    "bodies of configurations": [
        *(config("PUT", content_type="text/plain"), config("PATCH", content_type="a/b")),
        *(config("PUT", content_type="application/merge-patch+json"), config("PUT", " " * 70_000)),
        *(config("PATCH", " " * 70_000), config("PUT", Content_Encoding="gzip"), config("PUT")),
        *(request("GET", f"{_NAMESPACE}?x=1"), request("POST", f"{_NAMESPACE}/clear", b"{}")),
        *(request("GET", "/v1/namespaces?x=1"), request("POST", f"{_NAMESPACE}/clear?x")),
        request("DELETE", f"{_NAMESPACE}?x"),
    ],
    "a condition is required": [
        *(config("PUT", '{"require_cas": true}'), put(), delete(), post("incr"), get()),
        *(post("append", "k", b"x"), put("k?cas=0"), put(), delete(), post("touch", "k?ttl=100")),
        *(put(If_Match=_TAG), post("incr", "n?cas=0"), post("incr"), post("incr", If_Match="*")),
        *(chunked(b"x"), cas('{"expected_version": 0, "value": 1}', "c"), delete(If_Match="*")),
        *(config("PUT"), put(), delete()),
    ],
    "what never fits": [
        *(config("PUT", '{"max_bytes": 1}'), put(), post("incr"), post("append", "k", b"x")),
        *(cas('{"expected_version": 0, "value": 1}'), get(), chunked(b"x"), config("PUT"), put()),
    ],
    "a full namespace": [
        *(config("PUT", '{"max_entries": 1, "policy": "none"}'), put("a", b"1"), put("b")),
        *(post("incr", "b"), post("append", "b", b"x"), post("incr", "a"), put("a")),
        *(cas('{"expected_version": 0, "value": 1}', "b"), delete("a"), put("b"), put("a")),
        *(config("PUT"), put("a")),
    ],
    "a time to live": [
        *(put("k?ttl=100"), get(), head(), get(If_None_Match=_TAG), put(), get()),
        *(put("k?ttl=315360000"), get(), put("k?ttl=1.9"), get(), put("k?ttl=0"), get()),
    ],
}

GUARDED: Final[dict[str, list[bytes]]] = {
    f"{what} {method} {target}": [
        request(method, target, body if method in ("PUT", "POST") else None, **headers)
    ]
    for what, headers, body in (
        ("no token", {}, b"v"),
        ("a wrong token", {"Authorization": "Bearer wrong-wrong-wrong-wrong"}, b"v"),
        ("another scheme", {"Authorization": f"Basic {TOKEN}"}, b"v"),
        ("two tokens", {"Authorization": f"Bearer {TOKEN}, Bearer {TOKEN}"}, b"v"),
        ("no token and too large", {}, b"x" * (MAX_VALUE_SIZE + 1)),
        ("no token and a bad condition", {"If_Match": "x"}, b"v"),
        ("the token", {"Authorization": f"Bearer {TOKEN}"}, b"v"),
        ("the token in other letters", {"Authorization": f"bEARER   {TOKEN} "}, b"v"),
    )
    for method in ("GET", "HEAD", "PUT", "DELETE", "POST")
    for target in (
        *(f"{_KV}k", f"{_KV}%zz?x=1", "/nothing", "/healthz", "/v1/info"),
        *(f"/v1/incr/{NAMESPACE}/n", f"/v1/append/{NAMESPACE}/k", _NAMESPACE),
    )
}
GUARDED["now with the token and now without"] = [
    request(method, f"{_KV}k", b"v" if method == "PUT" else None, **headers)
    for method in ("PUT", "GET", "HEAD", "DELETE")
    for headers in ({"Authorization": f"Bearer {TOKEN}"}, {"Authorization": "Bearer x"}, {})
    for _ in range(4)
]
GUARDED["two lines with the token"] = [
    with_lines(method, *[f"Authorization: Bearer {TOKEN}"] * 2)
    for method in ("GET", "HEAD", "DELETE")
]

FULL: Final[dict[str, list[bytes]]] = {
    "no more memory": [
        config("PUT", '{"policy": "none"}'),
        *(put("a", b"x" * 50_000), put("b", b"x" * 50_000), get("b"), put("a", b"x"), put("b")),
        *(put("b", b"x" * 60_000, If_Match="*"), put("c", b"x" * 60_000, If_Match="*"), get("b")),
        *(chunked(b"x" * 60_000), put("k?cas=7", b"x" * 60_000)),
        cas(f'{{"expected_version": 0, "value": "{"x" * 59_000}"}}'),
        *(delete("a"), delete("b")),
    ],
    "no more namespaces": [
        *(request("PUT", "/v1/kv/one-more/k", b"v"), request("GET", "/v1/kv/one-more/k")),
        *(request("PUT", "/v1/kv/one-more/k?cas=7", b"v"), request("DELETE", "/v1/kv/one-more/k")),
        request("PUT", "/v1/kv/one-more/k", b"v", If_None_Match="*"),
        request("POST", "/v1/incr/one-more/k"),
        request("POST", "/v1/append/one-more/k", b"v"),
        request("PUT", "/v1/namespaces/one-more", b"{}", Content_Type=_JSON),
    ],
}
