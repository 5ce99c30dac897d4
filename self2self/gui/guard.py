"""Who may talk to the page: the browser that has been given its address, from this computer, and nobody else.

The page has no password, and other programs on the computer, other users of it, and web pages that the same browser
shows can all reach its port. So each request has to bring

- the address of the page as its host: a foreign name that leads to 127.0.0.1 (DNS rebinding) is refused;
- no origin but the page itself: scripts of other pages are refused;
- the key, which is part of the address that the command prints, and then a cookie.

And each answer forbids the browser to load anything from, or to send anything to, another host.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = "127.0.0.1"
NAMES = (LOOPBACK, "localhost")

ASK_FOR_ADDRESS = "Open the address that self2self gui has printed; it ends with the key of this page."
WRONG_HOST = "This page answers only at its own address."


class Guard:
    """Passes on what comes from the page itself.

    Args:
        app: the page.
        key: what the address of the page ends with.
        port: of the page.
    """

    def __init__(self, app: App, key: str, port: int) -> None:
        self._app = app
        self._key = key
        self._cookie = f"self2self-{port}"
        self._hosts = {f"{name}:{port}" for name in NAMES}
        sockets = " ".join(f"ws://{host}" for host in sorted(self._hosts))
        self._headers = {
            # Vue compiles templates in the browser, which needs eval.
            "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
            f"style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
            f"connect-src 'self' {sockets}; form-action 'self'; base-uri 'self'; frame-ancestors 'none'",
            "referrer-policy": "no-referrer",
            "x-content-type-options": "nosniff",
            "cross-origin-resource-policy": "same-origin",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, as ASGI has it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if headers.get("host") not in self._hosts or not self._is_own(headers.get("origin")):
            await _refuse(scope, send, WRONG_HOST)
        elif scope["type"] == "http" and scope["path"] == "/" and self._is_key(_key_in(scope)):
            cookie = f"{self._cookie}={self._key}; Path=/; HttpOnly; SameSite=Strict"
            await _answer(send, 303, "", {"location": "/", "set-cookie": cookie, "cache-control": "no-store"})
        elif not self._is_key(_cookies(headers).get(self._cookie, "")):
            await _refuse(scope, send, ASK_FOR_ADDRESS)
        else:
            await self._app(scope, receive, self._with_headers(send))

    def _is_own(self, origin: str | None) -> bool:
        return origin is None or origin.removeprefix("http://") in self._hosts

    def _is_key(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._key.encode())

    def _with_headers(self, send: Send) -> Send:
        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                added = [(name.encode(), value.encode()) for name, value in self._headers.items()]
                message = {**message, "headers": [*message.get("headers", []), *added]}
            await send(message)

        return send_with_headers


def _key_in(scope: Scope) -> str:
    values: dict[str, list[str]] = parse_qs(scope["query_string"].decode("latin-1"))
    return values.get("key", [""])[0]


def _cookies(headers: dict[str, str]) -> dict[str, str]:
    try:
        return {name: morsel.value for name, morsel in SimpleCookie(headers.get("cookie", "")).items()}
    except CookieError:
        return {}


async def _refuse(scope: Scope, send: Send, text: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
    else:
        await _answer(send, 403, text)


async def _answer(send: Send, status: int, text: str, headers: dict[str, str] | None = None) -> None:
    body = text.encode()
    given = {"content-type": "text/plain; charset=utf-8", "content-length": str(len(body)), **(headers or {})}
    encoded = [(name.encode(), value.encode()) for name, value in given.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
