"""Who may talk to the page."""

import asyncio
from typing import Any

import pytest

from self2self.gui.guard import Guard

OWN = {"host": "127.0.0.1:8765", "cookie": "self2self-8765=secret"}


async def page(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"the page"})


def ask(headers: dict[str, str], *, kind: str = "http", path: str = "/", query: str = "") -> list[Any]:
    """The messages that answer a request."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    scope = {
        "type": kind,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    asyncio.run(Guard(page, "secret", 8765)(scope, receive, send))
    return sent


def headers_of(message: Any) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in message["headers"]}


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost:8765"])
@pytest.mark.parametrize("origin", [{}, {"origin": "http://127.0.0.1:8765"}])
def test_the_page_answers_its_own_window(host: str, origin: dict[str, str]) -> None:
    start, body = ask({**OWN, "host": host, **origin})
    assert (start["status"], body["body"]) == (200, b"the page")


@pytest.mark.parametrize(
    "headers",
    [
        {**OWN, "host": "evil.example:8765"},  # DNS rebinding
        {**OWN, "host": "127.0.0.1:9999"},
        {"cookie": OWN["cookie"]},
        {**OWN, "origin": "http://evil.example"},
        {**OWN, "origin": "http://127.0.0.1:8766"},
        {**OWN, "origin": "null"},
        {"host": OWN["host"]},
        {**OWN, "cookie": "self2self-8765=guess"},
        {**OWN, "cookie": "self2self-8765=\N{LATIN SMALL LETTER E WITH ACUTE}"},
        {**OWN, "cookie": "self2self-8766=secret"},
    ],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_everybody_else_is_refused(headers: dict[str, str], kind: str) -> None:
    messages = ask(headers, kind=kind)
    if kind == "websocket":
        assert messages == [{"type": "websocket.close", "code": 1008}]
    else:
        assert messages[0]["status"] == 403
        assert b"the page" not in messages[1]["body"]


def test_the_key_becomes_a_cookie_that_no_script_and_no_other_site_can_use() -> None:
    start, _ = ask({"host": OWN["host"]}, query="key=secret")
    given = headers_of(start)
    assert (start["status"], given["location"]) == (303, "/")
    assert given["set-cookie"].startswith("self2self-8765=secret;")
    assert {"HttpOnly", "SameSite=Strict"} <= set(given["set-cookie"].split("; "))


@pytest.mark.parametrize(("host", "query"), [("127.0.0.1:8765", "key=guess"), ("evil.example", "key=secret")])
def test_a_wrong_key_or_host_gets_no_cookie(host: str, query: str) -> None:
    start, _ = ask({"host": host}, query=query)
    assert start["status"] == 403
    assert "set-cookie" not in headers_of(start)


def test_answers_forbid_the_browser_to_load_anything_from_elsewhere() -> None:
    policy = headers_of(ask(OWN)[0])["content-security-policy"]
    rules = dict(rule.split(maxsplit=1) for rule in policy.split("; "))
    assert rules["default-src"] == "'self'"
    assert rules["frame-ancestors"] == "'none'"
    sources = {source for rule in rules.values() for source in rule.split()}
    hosts = {source for source in sources if not source.startswith("'")} - {"data:", "blob:"}
    assert hosts == {"ws://127.0.0.1:8765", "ws://localhost:8765"}
