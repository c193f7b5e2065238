"""Checks of request headers that protect the server from other websites.

A page on any website can send requests to a server on its reader's own machine. The check
of `Host` rejects such requests when the name of the website resolves to this machine (DNS
rebinding); the checks of `Origin` and `Content-Type` reject cross-site posts.
"""

import ipaddress
import socket
import urllib.parse
from collections.abc import Iterable

from starlette.datastructures import Headers

from keras_vit.serve.limits import RefusedError

# Content types that a page may post to other sites without a CORS preflight request.
_FORM_TYPES = {"text/plain", "multipart/form-data", "application/x-www-form-urlencoded"}


class OriginCheck:
    """ASGI middleware that rejects requests made by pages of other websites.

    Args:
        app: an ASGI application.
        address: str, the host name or address that the server listens on.
        allowed: host names that are allowed in `Host`, in addition to `address`, IP
            addresses, `localhost` and the name of this machine; `"*"` allows any.
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
        host = headers.get("host")  # HTTP/1.0 clients omit it; browsers never do.
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
        # `curl -d` and many clients of TF Serving send JSON as form data. It is accepted
        # from them, but not from browsers, which send `Origin` or `Sec-Fetch-Site`.
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
        return True  # DNS rebinding needs a name; an address is not resolved.

    def _is_same(self, origin, host):
        if host is not None and origin.lower() in (
            f"http://{host.lower()}",
            f"https://{host.lower()}",
        ):
            return True
        name = _name(origin)
        # "localhost" and the name of this machine are not sufficient, because another
        # server on this machine is a different origin.
        return name is not None and name in self._origins


def _name(url):
    """Return the host name in `url`, or None if there is none."""
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port  # Raises ValueError if the port is not a number.
        name = parts.hostname
    except ValueError:
        return None
    if name is None or "@" in parts.netloc:
        return None
    return name.rstrip(".")
