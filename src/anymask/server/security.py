"""Who may talk to the server: the guard in front of every request.

- Host: a page of another site cannot reach a loopback server by giving it its own name (DNS rebinding).
- Token: asked for whenever the server can be reached from elsewhere; compared in constant time.
- Origin: another site's page cannot write, whatever the browser would let it send.
- Size: a body is cut off at its limit, before anything reads it.
- Headers: cross-origin isolation, which WebAssembly threads need, and a content policy without inline scripts.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")
COOKIE = "anymask_token"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

CONTENT_POLICY = (
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'{scripts}; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' blob: data:; worker-src 'self' blob:; connect-src 'self' blob: data:; font-src 'self' data:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "content-security-policy": CONTENT_POLICY.format(scripts=""),
    "cache-control": "no-cache",
}


class Guard:
    """ASGI middleware that lets a request through or answers it itself; see the head of this module.

    token: None asks for none. allowed_hosts: names without ports, "*" for any. body_limits: (prefix of the path,
    bytes), the first that fits counts; the last should be "".
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str | None,
        allowed_hosts: Iterable[str],
        body_limits: Iterable[tuple[str, int]],
    ) -> None:
        self.app = app
        self.token = token
        self.allowed_hosts = frozenset(host.lower() for host in allowed_hosts)
        self.body_limits = tuple(body_limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":  # there are none
                await send({"type": "websocket.close", "code": 1008})
                return
            await self.app(scope, receive, send)
            return
        send = _with_headers(send)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if not self._is_host_allowed(headers.get("host", "")):
            await _answer(send, 403, "host", "the Host header names another server")
            return
        if self.token is not None and not self._has_token(headers):
            await self._ask_for_token(scope, send)
            return
        if scope["method"] not in SAFE_METHODS and not _is_same_origin(headers):
            await _answer(send, 403, "origin", "writes from another origin are not allowed")
            return
        await self._limited(scope, receive, send, headers)

    def _is_host_allowed(self, host: str) -> bool:
        return "*" in self.allowed_hosts or _without_port(host) in self.allowed_hosts

    def _has_token(self, headers: dict[str, str]) -> bool:
        given = headers.get("authorization", "")
        if given[:7].lower() == "bearer ":
            return self._is_token(given[7:].strip())
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and self._is_token(cookie.value)

    def _is_token(self, given: str) -> bool:
        assert self.token is not None
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.token.encode())

    async def _ask_for_token(self, scope: Scope, send: Send) -> None:
        """Take the token from the page's URL into a cookie, or say that one is needed."""
        pairs = parse_qsl(scope.get("query_string", b"").decode("latin-1"))
        given = dict(pairs).get("token", "")
        if scope["method"] != "GET" or not self._is_token(given):
            await _answer(send, 401, "token", "open the address with the token that the server printed")
            return
        rest = urlencode([(name, value) for name, value in pairs if name != "token"])
        path = scope.get("root_path", "") or "/"
        cookie = f"{COOKIE}={given}; Path={path}; HttpOnly; SameSite=Strict"
        if scope.get("scheme") == "https":
            cookie += "; Secure"
        location = f"./{'?' + rest if rest else ''}"
        await _answer(send, 303, "see_other", "", {"location": location, "set-cookie": cookie})

    async def _limited(self, scope: Scope, receive: Receive, send: Send, headers: dict[str, str]) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        limit = next(bytes_ for prefix, bytes_ in self.body_limits if path.startswith(prefix))
        detail = f"the body is over {limit} bytes"
        declared = headers.get("content-length", "0")
        if not declared.isdecimal() or int(declared[:20]) > limit:
            await _answer(send, 413, "too_large", detail)
            return
        received = 0
        is_over = False
        has_answered = False

        async def counted() -> Message:
            nonlocal received, is_over
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                is_over = True
                return {"type": "http.request", "body": b"", "more_body": False}
            return message

        async def watched(message: Message) -> None:
            nonlocal has_answered
            if is_over:  # whatever the app makes of half a body
                if not has_answered:
                    has_answered = True
                    await _answer(send, 413, "too_large", detail)
                return
            await send(message)

        await self.app(scope, counted, watched)


def _is_same_origin(headers: dict[str, str]) -> bool:
    """Browsers say where a write comes from; machines say nothing, and are no danger of this kind."""
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    if origin is None:
        return True
    try:
        return urlsplit(origin).netloc.lower() == headers.get("host", "").lower()
    except ValueError:
        return False


def _without_port(host: str) -> str:
    host = host.lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def _with_headers(send: Send) -> Send:
    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = list(message.get("headers", []))
            names = {name.lower() for name, _ in given}
            given += [(name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in names]
            message = {**message, "headers": given}
        await send(message)

    return with_headers


async def _answer(send: Send, status: int, code: str, detail: str, headers: dict[str, str] | None = None) -> None:
    body = json.dumps({"code": code, "detail": detail}).encode()
    fields = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
    if status == 413:
        fields["connection"] = "close"  # nobody will read the rest
    start = [(name.encode(), value.encode()) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})
