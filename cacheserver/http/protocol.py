"""HTTP/1.1 on one connection: uvicorn's httptools protocol, made safe for the open network.

Guarantees, beside what uvicorn gives:
- Every answer to a request that isn't HTTP is a problem document: 400, 408, 414 or 431. It comes after
  the answers to the requests before it, and the connection is closed after it.
- What a client sends without making a request of it takes no more memory than MAX_HEAD and one read:
  endless targets, headers, trailers and chunk extensions are refused, and what is sent ahead is kept
  as it came, and no more of it read, until the answers have come so far.
- A connection that sends nothing, a request that doesn't finish arriving and an answer that isn't
  taken are given up after the idle timeout.
- An answer is not lost because the client is still sending: see `Farewell`.

All of it runs in the thread of one event loop, and nothing here is shared with other threads, so it
relies on no atomicity at all.

It leans on uvicorn 0.54: on the attributes of HttpToolsProtocol and RequestResponseCycle, and on
ServerState. `tests/server` proves that they still fit.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import unquote

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from cacheserver.http import problems
from cacheserver.http.farewell import Farewell, LoopState, last_words
from cacheserver.http.fastpath import Connection
from cacheserver.http.problems import Kind
from cacheserver.recording import OTHER

if TYPE_CHECKING:
    from uvicorn._types import (
        ASGI3Application,
        ASGIReceiveCallable,
        ASGIReceiveEvent,
        ASGISendCallable,
        ASGISendEvent,
        Scope,
    )

MAX_HEAD: Final = 64 << 10
"""Bytes of a request's target and headers together."""
MAX_TARGET: Final = 16 << 10
"""Bytes of a request's target."""
DRAIN_PAUSE: Final = 0.1
"""Seconds that an idle connection gets, once the server is stopping, for a request on its way."""

TARGET_TOO_LONG: Final = Kind(414, "target-too-long", "The request target is too long")
TIMEOUT: Final = Kind(408, "request-timeout", "The request did not arrive in time")
HEADERS_TOO_LARGE: Final = Kind(431, "headers-too-large", "The headers are too large")

_VERSIONS: Final = ("1.1", "1.0")
_log: Final = logging.getLogger(__name__)


class _Refused(Exception):
    """Raised in a parser callback: the request is not taken, for this reason."""

    def __init__(self, kind: Kind, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail


class _Flow(FlowControl):
    """Flow control that reads no further while `is_ahead` says that the client is ahead of us."""

    def __init__(self, transport: asyncio.Transport, is_ahead: Callable[[], bool]) -> None:
        super().__init__(transport)
        self._is_ahead = is_ahead
        self._context = contextvars.copy_context()

    def resume_reading(self) -> None:
        if self.read_paused and not self._is_ahead():
            # A transport of asyncio's calls back in the context of who had it read on, and what is
            # set there for one request must not be met by those that come after it.
            self._context.run(super().resume_reading)

    def forget(self) -> None:
        """Refer to the connection no more: on one that is gone, nothing is ahead."""
        self._is_ahead = bool


class _Cycle(RequestResponseCycle):
    """One request and its answer through the app."""

    protocol: HttpProtocol
    has_given_body = False
    is_withdrawn = False
    """Whether the request turned out to be none, so that the app must not begin with it."""
    _app: ASGI3Application

    async def run_asgi(self, app: ASGI3Application) -> None:
        if self.is_withdrawn:
            return
        self._app = app
        await super().run_asgi(self._until_cancelled)

    async def _until_cancelled(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        """Run the app. A request that is cancelled, because the server ends, ends without a word."""
        try:
            return await self._app(scope, receive, send)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or not task.cancelling():
                raise  # the app's own doing, which is an error like any other
            self.disconnected = True
            self.transport.close()

    async def receive(self) -> ASGIReceiveEvent:
        if not (self.has_given_body and self.protocol.ended_by_client):
            message = await super().receive()
            if message["type"] != "http.request" or not self.has_given_body:
                self.has_given_body = not message.get("more_body", False)
                return message
        # It asks whether the client is still there. One that has closed its sending half may be
        # waiting for the answer, or be gone for good: only an app that wouldn't wait is told so.
        return {"type": "http.disconnect"}

    async def send(self, message: ASGISendEvent) -> None:
        if not self.response_started and (self.more_body or self.protocol.is_last):
            # The rest of a body that nobody reads must not be taken for the next request.
            self.keep_alive = False
        await super().send(message)

    async def send_500_response(self) -> None:
        body = problems.INTERNAL.render("the log of the server says more")
        headers = [
            (b"content-type", problems.MEDIA_TYPE.encode()),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": body, "more_body": False})


class _AfterUpgrade:
    """Parser callbacks for the body of a request that asked for another protocol.

    The parser takes what follows such a head for the other protocol. We speak none, so a new parser
    is given a head that says only how the body is framed; these callbacks keep that head quiet.
    """

    def __init__(self, protocol: HttpProtocol) -> None:
        self.quiet = True
        self._protocol = protocol
        self.on_body = protocol.on_body
        self.on_message_complete = protocol.on_message_complete

    def on_message_begin(self) -> None:
        if not self.quiet:
            self._protocol.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self.quiet:
            self._protocol.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.quiet:
            self._protocol.on_header(name, value)

    def on_headers_complete(self) -> None:
        if not self.quiet:
            self._protocol.on_headers_complete()


class HttpProtocol(Connection, HttpToolsProtocol):
    """The server's side of one connection.

    Requests are answered in order, by the fast path on the spot or by the app in a task. While `ready`,
    nothing is owed, and what comes goes to the fast path, compiled code that calls `accept` with what is
    not for it. From there on the parser and the app have the connection, until they are done with all
    that came. While the app works on a request, or the client does not take its answers, what comes
    after waits unparsed in `_ahead`; requests that came in one read with that of the app wait in
    `pipeline`.

    What the fast path keeps, a part of a request, is given to the parser before anything else happens to
    the connection than that more bytes come. So the rest need not know of it.

    A connection waits for the client (`_due` is when that has taken too long), or for the app. One
    timer watches it: it isn't moved for every request but looks at `_due` when it goes off.
    """

    flow: _Flow

    def __init__(
        self,
        config: Config,
        server_state: LoopState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._state = server_state
        self._timer: asyncio.TimerHandle | None = None
        self._due = math.inf
        self._unsent = math.inf  # bytes the client had not taken when the timer last looked
        self._looked_at = 0.0  # when that was

        self.fast_path = server_state.fast_path  # None where the app is to answer
        self._ahead = b""  # what came behind requests that are not answered yet
        self._running: RequestResponseCycle | None = None  # the request the app works on
        self._refusal: bytes | None = None  # what to end with: nothing is parsed any more
        self.ended_by_client = False
        self._leaving = False

        # Of the request that is arriving:
        self._arriving = False
        self._has_cycle = False
        self._hosts = 0
        self._framing = b""
        self._head_size = 0
        self._noticed = False  # whether the bytes fed last were worth a callback
        self._unnoticed = 0  # bytes fed since without any

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self._is_client_ahead)
        self.send = transport.write
        self.socket = _plain_socket(transport)
        self.now = self.loop.time
        self._state.recorder.connections += 1
        self._wait_for_client()
        self._timer = self.loop.call_later(self._state.idle_timeout, self._watch)
        if self._state.draining:
            self.shutdown()
        self._settle()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the app, and let go of everything."""
        super().connection_lost(exc)
        if self._timer is not None:
            self._timer.cancel()
        if self._running is not None:
            self._running.disconnected = True
            self._running.message_event.set()
        self.pipeline.clear()
        self._forget_unparsed()
        self.socket = -1
        self.send = None  # which refers to the transport, as that does to this
        self.flow.forget()  # a connection in a cycle would stay until the next collection
        self._running = self.cycle = None  # type: ignore[assignment]
        self._state.recorder.connections -= 1
        self._state.closed += 1

    def eof_received(self) -> bool:  # type: ignore[override]
        """Stay open for the answers to what arrived whole."""
        self.ended_by_client = True
        self._parse_kept()
        ahead, self._ahead = self._ahead, b""
        if ahead and self._refusal is None:
            self._parse(ahead)
        if self._arriving:
            self._refusal = b""
            self._withdraw_arriving()
        if self._running is not None:
            self._running.message_event.set()
        return self._running is not None or bool(self.pipeline)

    def pause_writing(self) -> None:
        """The client doesn't take what is sent."""
        super().pause_writing()
        self._parse_kept()
        self._unsent = math.inf
        self._wait_for_client()

    def resume_writing(self) -> None:
        """The client takes it again."""
        super().resume_writing()
        if self._arriving:
            self._wait_for_client()
        if self._running is None:
            self._go_on()
        elif not self._arriving:
            self._due = math.inf

    def shutdown(self) -> None:
        """Close the connection as soon as it owes no answer."""
        self.fast_path = None  # the app's answers tell when they are the last
        self._parse_kept()
        if self._is_idle():
            self.loop.call_later(DRAIN_PAUSE, self._close_if_idle)

    @property
    def is_last(self) -> bool:
        """Whether the answer that begins now is the last of this connection."""
        if self._is_client_ahead() or (self._arriving and not self._has_cycle):
            return False
        return self._state.draining or self.ended_by_client

    # What a cycle needs of a transport

    def write(self, data: bytes) -> None:
        """Send bytes of an answer."""
        if not self.is_closing():
            self.transport.write(data)

    def is_closing(self) -> bool:
        """Tell whether there's no more use in sending."""
        return self._leaving or self.transport.is_closing()

    def close(self) -> None:
        """Close after the answer that was just given, of which nothing must be lost."""
        self._leave(b"")

    # The parser and its callbacks

    def accept(self, data: bytes) -> None:
        """Have what arrived parsed, if its turn has come; the callbacks below do the rest."""
        if self._refusal is not None:
            return
        if self._arriving or not (self._running or self.pipeline or self.flow.write_paused):
            self._parse(data)
        else:
            self._ahead += data
            self.flow.pause_reading()

    def _parse(self, data: bytes) -> None:
        self.ready = False
        self._noticed = False
        try:
            self._feed(data)
        except httptools.HttpParserCallbackError as error:
            self._refuse_after(error.__context__)
        except httptools.HttpParserError as error:
            self._refuse(problems.BAD_REQUEST, f"this is not HTTP/1.1: {error}")
        else:
            self._bound_unnoticed(len(data))
        if self.pipeline:
            self._go_on()
        else:
            self._settle()

    def _parse_kept(self) -> None:
        """Give the parser the part of a request that the fast path keeps, and to the app what follows.

        The time that it has to arrive began with its first byte and goes on.
        """
        self.ready = False
        since = self.kept_since
        if not since:
            return
        for part in self.take_kept():
            if part and self._refusal is None:
                self._parse(bytes(part))
        self._due = since + self._state.idle_timeout

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._arriving = self._noticed = True
        self._has_cycle = False
        self._hosts = self._head_size = 0
        self._framing = b""
        if not self.flow.write_paused:  # a new request is no reason to wait longer for that
            self._wait_for_client()

    def on_url(self, url: bytes) -> None:
        """A piece of the request target."""
        super().on_url(url)
        if len(self.url) > MAX_TARGET:
            raise _Refused(
                TARGET_TOO_LONG, f"the request target is longer than {MAX_TARGET} bytes: shorten it"
            )

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; or a trailer, which means nothing here."""
        if self._has_cycle:
            return
        self._head_size += len(name) + len(value) + 4
        if self._head_size + len(self.url) > MAX_HEAD:
            raise _headers_too_large()
        super().on_header(
            name, value.rstrip(b" \t")
        )  # blanks there mean nothing (RFC 9112, section 5)
        self._look_at(*self.headers[-1])

    def on_headers_complete(self) -> None:
        """The head is there: let the app begin, or queue behind the requests before."""
        self._noticed = True
        version = self._checked_version()
        self._fill_scope(version)
        self.cycle = self._make_cycle(version)
        self._has_cycle = True
        if not (self._running or self.pipeline):
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.pipeline.appendleft((self.cycle, self.app))
            self.flow.pause_reading()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._noticed = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request has arrived."""
        if self._framing and self.parser.should_upgrade():
            return  # only its head: see _AfterUpgrade
        self._arriving = False
        if not self.flow.write_paused:
            self._due = math.inf
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The app has answered: go on with the next request, or wait for it."""
        self.server_state.total_requests += 1
        self._running = None
        self._go_on()

    def _go_on(self) -> None:
        """Answer what waits for its turn; then wait for the next, of which a part may be there."""
        if self.pipeline and not (self._running or self.flow.write_paused or self.is_closing()):
            self._start_asgi_task(*self.pipeline.pop())
        if self.is_closing():
            return
        if self.pipeline:
            self.flow.pause_reading()
        if self.pipeline or self._running:
            return
        if self._refusal is not None:
            self._leave(self._refusal)
            return
        if self._arriving:
            self.flow.resume_reading()
            return
        self._wait_for_client()
        if self._ahead and self.flow.write_paused:
            return
        ahead, self._ahead = self._ahead, b""
        self.flow.resume_reading()
        self._settle()
        if ahead:
            self.data_received(ahead)  # as if it came now
        if self._is_idle() and self.is_last:
            self._leave(b"")

    def _settle(self) -> None:
        """Have what comes next taken by the fast path, if it begins where a request does."""
        if self._refusal is None and not self.flow.write_paused and self.fast_path is not None:
            self.ready = self._is_idle()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _feed(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                self.parser.feed_data(rest)
                break
            except httptools.HttpParserUpgrade as upgrade:
                rest = rest[upgrade.args[0] :]
                if self._framing:
                    self._parse_body_without_upgrade()

    def _parse_body_without_upgrade(self) -> None:
        callbacks = _AfterUpgrade(self)
        self.parser = httptools.HttpRequestParser(callbacks)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
        self.parser.feed_data(b"PUT / HTTP/1.1\r\n" + self._framing + b"\r\n")
        callbacks.quiet = False

    def _look_at(self, name: bytes, value: bytes) -> None:
        if name == b"host":
            self._hosts += 1
        elif name == b"content-length":
            self._framing = b"content-length: %s\r\n" % value
        elif name == b"transfer-encoding":
            self._framing = b"transfer-encoding: chunked\r\n"
            if value.lower() != b"chunked":
                raise _Refused(
                    problems.BAD_REQUEST, "the only transfer coding understood here is chunked"
                )

    def _checked_version(self) -> str:
        version = self.parser.get_http_version()
        if version not in _VERSIONS:
            raise _Refused(problems.BAD_REQUEST, f"HTTP/{version} is not spoken here: use HTTP/1.1")
        if self._hosts != 1 and version == "1.1":
            raise _Refused(problems.BAD_REQUEST, "an HTTP/1.1 request has one Host header")
        return version

    def _fill_scope(self, version: str) -> None:
        raw_path, query = _split(self.url)
        root = self.root_path
        self.scope["method"] = self.parser.get_method().decode("ascii")
        self.scope["http_version"] = version
        self.scope["path"] = root + unquote(raw_path.decode("ascii"))
        self.scope["raw_path"] = root.encode("ascii") + raw_path
        self.scope["query_string"] = query

    def _make_cycle(self, version: str) -> _Cycle:
        cycle = _Cycle(
            scope=self.scope,
            transport=cast("asyncio.Transport", self),  # write, is_closing, close are all it uses
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version == "1.1" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        cycle.protocol = self
        return cycle

    # Saying no

    def _bound_unnoticed(self, size: int) -> None:
        if self._noticed or not self._arriving:
            self._unnoticed = 0
            return
        self._unnoticed += size
        if self._unnoticed > MAX_HEAD:
            self._refuse_after(_headers_too_large())

    def _refuse_after(self, error: BaseException | None) -> None:
        if isinstance(error, _Refused):
            self._refuse(error.kind, error.detail)
        else:
            _log.error("a parser callback failed", exc_info=error)
            self._refuse(problems.INTERNAL, "the log of the server says more")

    def _refuse(self, kind: Kind, detail: str) -> None:
        """Answer the request that is arriving with a problem, in its turn, and then leave."""
        self._count_refused(kind.status)
        self._refusal = last_words(kind, detail, self.server_state.default_headers)
        self._withdraw_arriving()
        if self._running is None and not self.pipeline:
            self._leave(self._refusal)

    def _withdraw_arriving(self) -> None:
        """Take the request of which only a part arrived from the app, or from the queue."""
        if not (self._arriving and self._has_cycle):
            return
        if self.cycle is not self._running:
            self.pipeline.popleft()
            return
        if self.cycle.response_started:
            self._refusal = b""
        cast("_Cycle", self.cycle).is_withdrawn = True
        self.cycle.disconnected = True
        self.cycle.message_event.set()
        self._running = None

    def _count_refused(self, status: int) -> None:
        method = self.scope.get("method", OTHER) if self._arriving else OTHER
        waited = self.loop.time() - (self._due - self._state.idle_timeout)
        self._state.recorder.request(method, status, max(0.0, waited))

    def _leave(self, words: bytes) -> None:
        """End the connection, `words` last. Nothing else is sent or parsed after this."""
        if self.is_closing():
            return
        self._leaving = True
        self._refusal = words
        self.pipeline.clear()
        self._forget_unparsed()
        if self.ended_by_client:  # there is nothing left to read
            self.transport.write(words)
            self.transport.close()
            return
        self.flow.resume_reading()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        farewell = Farewell(self._state, words, self.connection_lost)
        self.connections.discard(self)
        self.transport.set_protocol(farewell)
        farewell.connection_made(self.transport)

    # Waiting

    def _is_idle(self) -> bool:
        return not (self._running or self._arriving or self.kept_since or self._is_client_ahead())

    def _is_client_ahead(self) -> bool:
        """Tell whether something came whose turn has not come."""
        return bool(self.pipeline or self._ahead)

    def _forget_unparsed(self) -> None:
        self.ready = False
        self._ahead = b""
        self.take_kept()

    def _close_if_idle(self) -> None:
        if not self._is_idle() or self.is_closing():
            return
        if self.transport.get_write_buffer_size():
            self._leave(b"")
        else:
            self.transport.close()

    def _wait_for_client(self) -> None:
        self._due = self.loop.time() + self._state.idle_timeout

    def _watch(self) -> None:
        now = self.loop.time()
        if self.kept_since:
            self._due = self.kept_since + self._state.idle_timeout
        else:
            self._due = max(self._due, self.answered_at + self._state.idle_timeout)
        if now >= self._due:
            if not self._is_excused():
                self._give_up()
            self._wait_for_client()
            if self._timer is None:
                return  # the farewell has a timer of its own
        wait = min(self._due - now, self._state.idle_timeout)
        self._timer = self.loop.call_later(wait, self._watch)

    def _is_excused(self) -> bool:
        """Tell whether the client couldn't do better: it takes its answer slowly, or we don't read."""
        if self.answered_at > self._looked_at:
            self._unsent = math.inf  # what was left of other answers tells nothing of these
        self._looked_at = self.loop.time()
        before, self._unsent = self._unsent, self.transport.get_write_buffer_size()
        return 0 < self._unsent < before or (self._arriving and self.flow.read_paused)

    def _give_up(self) -> None:
        if self._unsent or self.transport.is_closing():
            self.transport.abort()
            return
        self._parse_kept()
        if self.is_closing():
            return  # it was found to be malformed
        if self._arriving and self._refusal is None:
            self._refuse(
                TIMEOUT, f"the request was not complete after {self._state.idle_timeout:g} seconds"
            )
        else:
            self.transport.close()


def _plain_socket(transport: asyncio.Transport) -> int:
    """Return the descriptor of a socket that takes what the transport is given, as it is; or -1."""
    encrypts = transport.get_extra_info("sslcontext") is not None
    socket = transport.get_extra_info("socket")
    return -1 if encrypts or socket is None else int(socket.fileno())


def _headers_too_large() -> _Refused:
    return _Refused(
        HEADERS_TOO_LARGE, f"target and headers are longer than {MAX_HEAD} bytes: send fewer"
    )


def _split(url: bytes) -> tuple[bytes, bytes]:
    """Return the raw path and the query of a request target."""
    if url == b"*":
        return url, b""
    if b"#" in url:
        raise _Refused(
            problems.BAD_REQUEST, "a request target has no fragment: a # of a key is written %23"
        )
    try:
        parsed = httptools.parse_url(url)
    except httptools.HttpParserError:
        raise _Refused(
            problems.BAD_REQUEST, "the request target is neither a path nor an http URL"
        ) from None
    return parsed.path or b"/", parsed.query or b""
