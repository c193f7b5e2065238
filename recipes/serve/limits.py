"""What a server takes upon itself, and how it refuses more."""

import asyncio
import contextlib
import dataclasses
from collections.abc import Iterator

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

# Bodies that are held together, in multiples of the largest.
_BODIES_TOGETHER = 8
# Seconds for which what a refused client still sends is read and forgotten. Closing at
# once would reset the connection, and the client might not see why.
_LINGER = 2.0


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Args:
        max_body: int, bytes of a request's body.
        max_instances: int, instances of a request.
        max_waiting: int, requests that are read, computed or wait for it.
        body_timeout: float, seconds in which a body must arrive.
    """

    max_body: int = 32 * 2**20
    max_instances: int = 256
    max_waiting: int = 256
    body_timeout: float = 20.0


class RefusedError(Exception):
    """A request is answered with an error.

    Args:
        status: int, the HTTP status.
        message: str, for the client.
        unread: bool, whether the client may still be sending.
    """

    def __init__(self, status: int, message: str, unread: bool = False):
        super().__init__(message)
        self.status = status
        self.unread = unread

    def response(self) -> Response:
        headers = {"Retry-After": "1"} if self.status == 503 else {}
        kind = _LastResponse if self.unread else Response
        return kind(
            orjson.dumps({"error": str(self)}),
            self.status,
            headers,
            media_type="application/json",
        )


class _LastResponse(Response):
    """Closes the connection when the client has stopped sending, or soon."""

    async def __call__(self, scope, receive, send):
        headers = [*self.raw_headers, (b"connection", b"close")]
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": headers,
            }
        )
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER):
                while (await receive()).get("more_body", False):
                    pass
        await send({"type": "http.response.body", "body": b""})


class Admission:
    """Counts the requests inside, and the bytes of their bodies.

    Args:
        limits: a `Limits`.
    """

    def __init__(self, limits: Limits):
        self._limits = limits
        self._bytes = 0
        self.waiting = 0

    @contextlib.contextmanager
    def one(self, request: Request) -> Iterator[None]:
        """Lets a request in, or raises RefusedError before any of its body is read."""
        limits = self._limits
        size = _announced(request)
        if size is None:
            size = limits.max_body
        if size > limits.max_body:
            raise _too_large(limits)
        if (
            self.waiting >= limits.max_waiting
            or self._bytes + size > _BODIES_TOGETHER * limits.max_body
        ):
            raise RefusedError(503, "Too many requests are waiting.", unread=True)
        self.waiting += 1
        self._bytes += size
        try:
            yield
        finally:
            self.waiting -= 1
            self._bytes -= size

    async def body(self, request: Request) -> bytes:
        """The body of a request that has been let in; raises RefusedError."""
        limits = self._limits
        body = bytearray()
        try:
            async with asyncio.timeout(limits.body_timeout):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > limits.max_body:
                        raise _too_large(limits)
        except TimeoutError:
            message = f"The body did not arrive in {limits.body_timeout:g} seconds."
            raise RefusedError(408, message, unread=True) from None
        except ClientDisconnect:
            raise RefusedError(400, "The body ended too soon.") from None
        return bytes(body)


def _announced(request):
    """Length of the body where the request says it; the parser has seen to its form."""
    length = request.headers.get("content-length")
    if length is not None:
        return int(length)
    return None if "transfer-encoding" in request.headers else 0


def _too_large(limits):
    message = f"The body has more than {limits.max_body} bytes, the limit of this server."
    return RefusedError(413, message, unread=True)
