"""Who may speak to the server: nobody but the page that it serves, and programs; and what browsers are told of it.

A page of another site can make its visitor's browser send requests to a server on the visitor's own machine. It then
names itself in Origin, or, where it has had its own name point to this machine, in Host.
"""

import asyncio
import ipaddress
import json
import socket
import urllib.parse

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "cache-control": "no-store",
}
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def names(host, more=()):
    """The names by which a server on an address may be called, in small letters; addresses of numbers see `refusal`."""
    own = () if host in LOOPBACK else (socket.gethostname(), socket.getfqdn())
    return frozenset(name.lower().strip("[]") for name in (*LOOPBACK, host, *own, *more))


def refusal(headers, known, anywhere):
    """Why a request with these headers {name: text} is refused, a sentence, or "".

    `known` are `names`; a server that is reached from `anywhere` may be called by any address of numbers, which no
    other site can have.
    """
    host = headers.get("host", "")
    name = (urllib.parse.urlsplit(f"//{host}").hostname or "") if plain(host) else ""
    if name not in known and not (anywhere and is_address(name)):
        return "This server is not called by that name; start it with --names=NAME to allow it."
    origin = headers.get("origin")
    foreign = origin is not None and origin.partition("://")[2].lower() != host.lower()
    if foreign or headers.get("sec-fetch-site") in ("cross-site", "same-site") and not visits(headers):
        return "Pages of other sites may not use this server."
    return ""


def plain(host):
    """Whether a Host can be taken apart."""
    try:
        urllib.parse.urlsplit(f"//{host}").port  # noqa: B018, it raises
    except ValueError:
        return False
    return True


def visits(headers):
    """Whether somebody follows a link to a page of ours."""
    return headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"


def is_address(name):
    """Whether a name is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def guarded(app, known, anywhere=False):
    """An ASGI application that lets through to `app` what `refusal` does not refuse, and adds HEADERS to answers."""
    added = [(key.encode(), value.encode()) for key, value in HEADERS.items()]

    async def handle(scope, receive, send):
        begun = []

        async def with_headers(message):
            begun.append(message["type"])
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                own = {key for key, _ in message.get("headers", ())}
                message["headers"] = [*message.get("headers", ()), *(pair for pair in added if pair[0] not in own)]
            await send(message)

        given = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        sentence = refusal(given, known, anywhere)
        if not sentence:
            try:
                await app(scope, receive, with_headers)
            except asyncio.CancelledError:  # Ctrl-C
                if scope["type"] == "http" and not begun:
                    await said(with_headers, "http", 503, "The server was ended.")
                raise
        elif scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": sentence})
        else:
            await said(with_headers, scope["type"], 403, sentence)

    return handle


async def said(send, kind, status, sentence):
    """Answers a request, or the opening of a WebSocket, with a status and a sentence."""
    prefix = "websocket.http" if kind == "websocket" else "http"
    body = json.dumps({"error": sentence}).encode()
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": f"{prefix}.response.start", "status": status, "headers": head})
    await send({"type": f"{prefix}.response.body", "body": body})
