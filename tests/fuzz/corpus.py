"""Valid requests, and the words of which mutated ones are made.

In all of them `VERSION_MARK` with a digit stands for the version that lies so far above the first one.
"""

from __future__ import annotations

from typing import Final

from tests.fuzz.sides import TOKEN

VERSION_MARK: Final = b"100000000000000"
"""A digit follows, and makes it as long as a version."""


def _request(line: str, *headers: str, body: bytes | None = None) -> bytes:
    length = [] if body is None else [f"Content-Length: {len(body)}"]
    head = "\r\n".join([f"{line} HTTP/1.1", "Host: test", *headers, *length, "", ""])
    return head.encode("latin-1") + (body or b"")


def _mark(above: int) -> str:
    return f"{VERSION_MARK.decode()}{above}"


_BROWSER: Final = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language: en-US,en;q=0.5",
    "Accept-Encoding: gzip, deflate, br",
    "Connection: keep-alive",
    "Upgrade-Insecure-Requests: 1",
)
_TRACE: Final = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

PLAIN: Final = (
    _request("GET /v1/kv/a/k"),
    _request("GET /v1/kv/a/k", *_BROWSER),
    _request("GET /v1/kv/a/k", _TRACE, "Accept: */*"),
    _request("HEAD /v1/kv/a/k"),
    _request("GET /v1/kv/a/none"),
    _request("GET /v1/kv/none/k"),
    _request("GET /v1/kv/a/k", f'If-None-Match: "{_mark(1)}"'),
    _request("GET /v1/kv/a/k", f'If-Match: "{_mark(1)}"'),
    _request("HEAD /v1/kv/a/k", "If-None-Match: *"),
    _request("PUT /v1/kv/a/k", body=b"value"),
    _request("PUT /v1/kv/a/k", body=b""),
    _request("PUT /v1/kv/a/k", "Content-Type: text/plain; charset=utf-8", body=b"text"),
    _request("PUT /v1/kv/a/k", "Content-Type: application/json", body=b'{"a": [1, 2]}'),
    _request("PUT /v1/kv/a/k", "Content-Type: image/x-odd; q=1", body=bytes(range(256))),
    _request("PUT /v1/kv/a/large", body=b"x" * 5_000),
    _request("PUT /v1/kv/a/k", f'If-Match: "{_mark(1)}"', body=b"next"),
    _request("PUT /v1/kv/a/k", "If-None-Match: *", body=b"new"),
    _request("PUT /v1/kv/a/k", "If-Match: *", body=b"there"),
    _request("PUT /v1/kv/a/k?cas=0", body=b"new"),
    _request(f"PUT /v1/kv/a/k?cas={_mark(1)}", body=b"next"),
    _request("PUT /v1/kv/a/k?ttl=60", body=b"short-lived"),
    _request("PUT /v1/kv/a/k?ttl=0.5&cas=0", body=b"shorter"),
    _request("DELETE /v1/kv/a/k"),
    _request("DELETE /v1/kv/a/k", f'If-Match: "{_mark(2)}"'),
    _request(f"DELETE /v1/kv/a/k?cas={_mark(1)}"),
    _request("POST /v1/incr/a/n"),
    _request("POST /v1/incr/a/n?by=-5&initial=100&ttl=60", body=b""),
    _request("POST /v1/incr/a/k", 'If-Match: "7"'),
    _request("PUT /v1/kv/a/n", body=b"9223372036854775806"),
    _request("POST /v1/append/a/k", body=b" and more"),
    _request("POST /v1/append/a/k?ttl=5", "Content-Type: text/plain", body=b"more"),
    _request("POST /v1/touch/a/k?ttl=100"),
    _request(f"POST /v1/touch/a/k?ttl=0&cas={_mark(1)}"),
    _request("PUT /v1/kv/a/%C3%A4/%2F", body=b"percent"),
    _request("GET /v1/kv/a/%C3%A4/%2F"),
    _request("PUT /v1/kv/b/k", f"Authorization: Bearer {TOKEN}", body=b"with a token"),
)
"""Every form of the requests that the fast path is for."""
SEEDS: Final = (
    *PLAIN,
    _request("PUT /v1/kv/b/k", "Transfer-Encoding: chunked")
    + b"5\r\nvalue\r\n6;x=y\r\n again\r\n0\r\n\r\n",
    _request("PUT /v1/kv/a/k", "Expect: 100-continue", body=b"asked"),
    _request("GET http://test/v1/kv/a/k"),
    _request("GET /v1/kv/a/k?timing=1"),
    _request("GET /v1/kv/a/k", "Connection: close"),
    _request("GET /v1/kv/a/k").replace(b"1.1", b"1.0"),
    _request("PUT /v1/kv/a/k", f"Authorization: Bearer {TOKEN}", body=b"with a token"),
    _request("PUT /v1/kv/a/k", "Authorization: Bearer wrong", body=b"with a wrong one"),
    _request("PUT /v1/kv/a/k", "Origin: http://elsewhere", body=b"from a page"),
    _request(
        "POST /v1/cas/a/k",
        "Content-Type: application/json",
        body=b'{"expected_version": %b, "value": [1]}' % _mark(1).encode(),
    ),
    _request("PUT /v1/namespaces/a", "Content-Type: application/json", body=b'{"stripes": 4}'),
    _request(
        "PATCH /v1/namespaces/a", "Content-Type: application/json", body=b'{"require_cas": true}'
    ),
    _request(
        "PUT /v1/namespaces/a",
        "Content-Type: application/json",
        body=b'{"max_entries": 2, "policy": "lru", "stripes": 1, "default_ttl": 50}',
    ),
    _request("DELETE /v1/namespaces/a"),
    _request("POST /v1/namespaces/a/clear"),
    _request("GET /healthz"),
    _request("GET /nothing"),
)
"""What the corpus begins with: every form of every request of the data plane, and some others."""

METHODS: Final = (
    b"GET",
    b"HEAD",
    b"PUT",
    b"DELETE",
    b"POST",
    b"PATCH",
    b"OPTIONS",
    b"get",
    b"PUTT",
)
TARGETS: Final = (
    *(
        b"/v1/kv/a/k",
        b"/v1/kv/a/k",
        b"/v1/kv/a/n",
        b"/v1/kv/b/k",
        b"/v1/kv/a/large",
        b"/v1/kv/c/%6B",
    ),
    *(
        b"/v1/kv/a/%C3%A4",
        b"/v1/incr/a/n",
        b"/v1/append/a/k",
        b"/v1/touch/a/k",
        b"/v1/kv/a/",
        b"/v1/kv/a",
        b"/v1/kv//k",
        b"/v1/kv/a//k",
        b"/",
    ),
    *(b"/v1/kv/a/%6B", b"/v1/kv/a/%", b"/v1/kv/a/%zz", b"/v1/kv/a/%FF", b"/v1/kv/a/%00", b"*"),
    *(b"/v1/kv/a/" + b"k" * n for n in (1023, 1024, 1025)),
    *(b"/v1/kv/" + b"n" * n + b"/k" for n in (63, 64, 65)),
    *(b"/v1/kv/a/" + b"%6B" * n for n in (341, 342, 1024, 1025)),
)
PARAMETERS: Final = (
    *(b"ttl=60", b"ttl=0", b"ttl=0.5", b"ttl=", b"ttl", b"ttl=-1", b"ttl=1e3", b"ttl=9999999999"),
    *(b"ttl=keep", b"ttl=1.", b"ttl=.5", b"ttl=00060", b"ttl=0.0000000000000000001", b"ttl=6%30"),
    *(b"cas=0", b"cas=7", b"cas=", b"cas=x", b"cas=00", b"cas=9007199254740991"),
    *(b"cas=9007199254740992", b"cas=18446744073709551617", b"%63as=0", b"CAS=0"),
    *(b"cas=" + VERSION_MARK + b"%d" % n for n in range(5)),
    *(b"by=1", b"by=-1", b"by=9223372036854775807", b"by=9223372036854775808", b"by=+1", b"by=x"),
    *(b"initial=7", b"initial=-9223372036854775808", b"initial=", b"timing=1", b"x=1", b"", b"%"),
)
_TAGS: Final = (
    *(b'"' + VERSION_MARK + b'%d"' % n for n in range(5)),
    *(b"*", b'"7"', b'""', b'W/"7"', b'W/"' + VERSION_MARK + b'1"', b'"x"', b"7", b'"7', b"", b","),
    *(b'"7", "' + VERSION_MARK + b'1"', b'*, "7"', b' "7" ', b'"00007"', b'"9007199254740992"'),
    *(b'"99999999999999999999"', b'"\xe4"', b'"a" "b"', b', ,"7",', b'"7","7"'),
)
_LENGTHS: Final = (
    *(b"0", b"1", b"5", b"00005", b"+5", b"-1", b"5 ", b"0x5", b"", b"5, 5", b"999", b"1000"),
    *(b"1001", b"3000", b"70000", b"70001", b"4294967296", b"4294967301", b"2147483648"),
    *(b"9223372036854775807", b"9223372036854775808", b"18446744073709551616"),
    *(b"18446744073709551621", b"99999999999999999999999"),
)
HEADERS: Final[dict[bytes, tuple[bytes, ...]]] = {
    b"Host": (b"test", b"", b"other:80", b"a b", b"\xff"),
    b"If-Match": _TAGS,
    b"If-None-Match": _TAGS,
    b"Content-Length": _LENGTHS,
    b"Content-Type": (
        *(
            b"text/plain",
            b"application/json",
            b"application/octet-stream",
            b"text/html",
            b"a/b; c=d",
        ),
        *(b"x" * 255, b"", b"a"),
        *(b"text/html; charset=utf-8", b"Text/Plain", b"x" * 256, b"a\tb", b"\xe4"),
        *(b"application/x-www-form-urlencoded", b"a\x7fb", b'a/b; c="d\\"e"', b"%s%d\1\2"),
    ),
    b"Authorization": (
        *(b"Bearer " + TOKEN.encode(), b"bearer  " + TOKEN.encode(), b"Bearer wrong", b"Bearer"),
        *(b"Bearer " + TOKEN.encode() + b"x", b"Bearer open-sesamE", b"Basic b3Blbi1zZXNhbWU="),
        *(b"Bearer\t" + TOKEN.encode(), TOKEN.encode(), b"", b"Bearer " + b"x" * 300),
    ),
    b"Connection": (
        *(b"keep-alive", b"Keep-Alive", b"close", b"CLOSE", b"upgrade", b"keep-alive, close", b""),
        *(b"x", b"close, x", b"keep-alive, keep-alive"),
    ),
    b"Transfer-Encoding": (b"chunked", b"Chunked", b"gzip", b"gzip, chunked", b"identity", b""),
    b"Expect": (b"100-continue", b"100-Continue", b"x", b""),
    b"Upgrade": (b"h2c", b"websocket", b""),
    b"Content-Encoding": (b"gzip", b"identity", b""),
    b"Content-Range": (b"bytes 0-1/2",),
    b"Range": (b"bytes=0-1",),
    b"Origin": (b"http://test", b"http://elsewhere", b"null"),
    b"Sec-Fetch-Site": (b"same-origin", b"cross-site", b"none", b""),
    b"Proxy-Connection": (b"close", b"keep-alive"),
    b"Keep-Alive": (b"timeout=5",),
    b"traceparent": (
        b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        b"ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        b"00-0",
    ),
    b"Accept": (b"*/*", b"text/html"),
    b"Cookie": (b"a=b; c=d", b"x" * 3_000, b"x" * 4_096),
    b"Date": (b"Sun, 22 Nov 2026 12:00:00 GMT",),
    b"If-Modified-Since": (b"Sun, 22 Nov 2099 12:00:00 GMT",),
    b"If": (b"x",),
    b"If-Matc": (b'"7"',),
    b"If-Match2": (b'"7"',),
    b"Content-Lengths": (b"7",),
    b"X-" + b"y" * 300: (b"", b"z"),
    b"Hos": (b"t",),
    b"H": (b"t",),
    b"A_b": (b"c",),
    b"A b": (b"c",),
    b"": (b"c",),
}
"""Header names and values that mean something, or look much like it."""
BODIES: Final = (
    *(b"", b"v", b"value", b"0", b"-12", b"007", b"9223372036854775807", b"x" * 20, b"\r\n\r\n"),
    *(b"x" * 100, b"x" * 999, b"x" * 1_000, b"x" * 1_001, b"x" * 2_047, b"x" * 2_048, b"x" * 4_096),
    *(SEEDS[0], SEEDS[0] * 2, b"\0", b"0\r\n\r\n", b"x" * 3_001, b"HTTP/1.1 200 OK"),
)
RARE_BODIES: Final = (b"x" * 16_384, b"x" * 65_535, b"x" * 65_536, b"x" * 70_000, b"x" * 70_001)
TOKENS: Final = (
    *(b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\n\n", b"\0", b" ", b"\t", b":", b": ", b"\r\n ", b","),
    *(
        b"\r\n\t",
        b'"',
        b"%",
        b"%2",
        b"%00",
        b"/",
        b"?",
        b"#",
        b"&",
        b"=",
        b"\xff",
        b"\x7f",
        b"\x80",
    ),
    *(
        b"HTTP/1.1",
        b"HTTP/1.0",
        b"HTTP/2.0",
        b" HTTP/1.1\r\n",
        b"Content-Length: 0\r\n",
        b"0",
        b"9",
    ),
    *(b"Host: b\r\n", b"Transfer-Encoding: chunked\r\n", b"4294967296", b"18446744073709551616"),
    *(
        b"X" * 100,
        b"A: b\r\n" * 30,
        VERSION_MARK + b"1",
        b"\xc3\xa4",
        b"\x01",
        b"\x0b",
        b"..",
        b"W/",
    ),
)
"""What is put in anywhere."""
