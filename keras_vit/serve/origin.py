"""Checks on the headers of a request that protect a server from web pages.

A page on any website can send requests to a server on the reader's own machine. These
checks refuse such requests: by `Host` when the page's own name resolves to this machine
(DNS rebinding), by `Origin` and `Content-Type` when the page posts across sites.
"""

import ipaddress
import socket
import urllib.parse
from collections.abc import Iterable

from starlette.datastructures import Headers

from keras_vit.serve.limits import RefusedError

# The types that a page may post across sites without asking the server first.
_FORM_TYPES = {"text/plain", "multipart/form-data", "application/x-www-form-urlencoded"}


class OriginCheck:
    """ASGI middleware that refuses requests made by pages of other websites.

    Args:
        app: an ASGI application.
        address: str, the host name or address that the server listens on.
        allowed: host names that `Host` may state besides that, IP addresses, `localhost`
            and the name of this machine; `"*"` for any.
    """

    def __init__(self, app, address: str, allowed: Iterable[str] = ()):
        self._app = app
        self._origins = {name.lower().rstrip(".") for name in allowed}
        own = {"localhost", address, socket.gethostname(), socket.getfqdn()}
        self._names = self._origins | {name.lower().rstrip(".") for name in own}

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            try:
                self._check(scope["method"], Headers(scope=scope))
            except RefusedError as refusal:
                await refusal.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, method, headers):
        if "content-length" in headers and "transfer-encoding" in headers:
            raise RefusedError(
                400,
                "A request has either Content-Length or Transfer-Encoding, not both.",
                unread=True,
            )
        host = headers.get("host")  # HTTP/1.0 has none; every browser sends it.
        if host is not None and not self._is_own(_name(f"//{host}")):
            raise RefusedError(
                403,
                f"Host {host[:80]!r} is not served here; start the server with "
                "--allow-host NAME to serve it under another name.",
                unread=True,
            )
        if method in ("GET", "HEAD"):
            return
        origin = headers.get("origin")
        if origin is not None and not self._is_same(origin, host):
            raise RefusedError(
                403,
                f"Pages of {origin[:80]!r} may not post to {(host or '')[:80]!r}; start "
                "the server with --allow-host NAME to allow those of NAME.",
                unread=True,
            )
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        # curl -d sends the last of them, and so do clients of TF Serving.
        if kind in _FORM_TYPES and not (
            kind == "application/x-www-form-urlencoded"
            and origin is None
            and "sec-fetch-site" not in headers
        ):
            raise RefusedError(
                415,
                f"Content-Type is {kind}; send the JSON as application/json.",
                unread=True,
            )

    def _is_own(self, name):
        if name is None:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._names or "*" in self._names
        return True  # Nobody can make an address resolve to another one.

    def _is_same(self, origin, host):
        if host is not None and origin.lower() in (
            f"http://{host.lower()}",
            f"https://{host.lower()}",
        ):
            return True
        name = _name(origin)
        # "localhost" and this machine's name are not enough: another server on this
        # machine is another origin.
        return name is not None and name in self._origins


def _name(url):
    """Return the host name in `url`, or None if there is none."""
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port  # Raises for what is no number.
        name = parts.hostname
    except ValueError:
        return None
    if name is None or "@" in parts.netloc:
        return None
    return name.rstrip(".")
