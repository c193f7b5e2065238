"""What a server takes upon itself, and how it refuses more."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Iterator

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

# Bodies and answers that are held together, in multiples of the largest body. Those over
# a small size leave some room for the small ones.
_HELD_TOGETHER = 4
_LARGE_TOGETHER = 3
_SMALL = 1 / 32
# Large answers that are computed and written together.
_LARGE_ANSWERS = 2
# The status, in the metrics alone, of a request whose client did not wait (nginx's).
_GONE = 499
# Work that may wait to be decoded, in multiples of the most of one request.
_WORK_TOGETHER = 4
# Seconds for which what a refused client still sends is read and forgotten. Closing at
# once would reset the connection, and the client might not see why.
_LINGER = 2.0
# A body must arrive at this many bytes a second after these seconds.
_BODY_RATE = 2**14
_BODY_GRACE = 5.0


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Args:
        max_body: int, bytes of a request's body.
        max_instances: int, instances of a request.
        max_waiting: int, requests that are computed or wait for it.
        body_timeout: float, seconds in which a body must arrive; after 5 seconds also
            16 KiB a second.
        max_pixels: int, pixels of the image files of a request.
        max_values: int, values and lists in the JSON of a request.
        max_answer: int, values in an answer.
        deadline: float, seconds in which a request is answered once its body is there.
    """

    max_body: int = 32 * 2**20
    max_instances: int = 256
    max_waiting: int = 256
    body_timeout: float = 20.0
    max_pixels: int = 2**25
    max_values: int = 2**23
    max_answer: int = 2**22
    deadline: float = 30.0


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


@dataclasses.dataclass(eq=False)
class Held:
    """A request and the bytes that the server holds for it.

    Args:
        request: the request.

    Attributes:
        size: int, bytes of its body, or of its answer once there is one.
        reading: the timeout of its body while that arrives, otherwise None.
        evicted: bool, whether its memory was needed for others.
    """

    request: Request
    size: int = 0
    reading: asyncio.Timeout | None = None
    sending: bool = False
    evicted: bool = False

    def evict(self) -> None:
        """Drop what is held for a client that does not send or read."""
        self.evicted, self.size = True, 0
        if self.reading is not None:
            self.reading.reschedule(asyncio.get_running_loop().time())
        else:
            self.request.state.connection.transport.abort()


class Admission:
    """Bounds the requests inside, and the bytes held for them.

    A client that sends its request or reads its answer slowly takes no place from
    others: places are counted once a body is there, and where bytes are scarce, the
    client that makes the server hold the most of them is refused.

    Args:
        limits: a `Limits`.
    """

    def __init__(self, limits: Limits):
        self._limits = limits
        self._held: list[Held] = []
        self._work = 0
        self.waiting = 0
        self._large_answers = asyncio.Semaphore(_LARGE_ANSWERS)

    @contextlib.contextmanager
    def held(self, request: Request) -> Iterator[Held]:
        """Account for a request until its answer is sent."""
        length = request.headers.get("content-length")
        if length is not None and int(length) > self._limits.max_body:
            raise _too_large(self._limits)
        held = Held(request)
        self._held.append(held)
        try:
            yield held
        finally:
            self._held.remove(held)

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Let a request in whose body is there, or raise RefusedError."""
        if self.waiting >= self._limits.max_waiting:
            raise RefusedError(503, "Too many requests are waiting.")
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    @contextlib.contextmanager
    def decoding(self, work: int) -> Iterator[None]:
        """Let in a request whose images are large, or raise RefusedError."""
        limit = self._limits.max_pixels
        if work > limit:
            raise RefusedError(
                413,
                f"The images of the request take the work of {work} pixels to decode; "
                f"this server takes {limit} in a request (--max-pixels).",
            )
        if self._work + work > _WORK_TOGETHER * limit:
            raise RefusedError(503, "Too many large images are waiting.")
        self._work += work
        try:
            yield
        finally:
            self._work -= work

    @contextlib.asynccontextmanager
    async def answering(self, request: Request) -> AsyncIterator[None]:
        """Cancel what runs inside at the deadline, or when the client has gone.

        Raises:
            RefusedError: at either, from a task that is then free for other requests.
        """
        connection, loop = request.state.connection, asyncio.get_running_loop()
        seconds = self._limits.deadline
        try:
            async with asyncio.timeout(seconds) as timeout:
                connection.on_gone = lambda: timeout.reschedule(loop.time())
                if connection.transport.is_closing():
                    connection.on_gone()
                yield
        except TimeoutError:
            if connection.transport.is_closing():
                raise RefusedError(_GONE, "The client has gone.") from None
            message = f"The request took more than {seconds:g} seconds."
            raise RefusedError(504, message) from None
        finally:
            connection.on_gone = None

    @contextlib.asynccontextmanager
    async def answer(self, values: int, instances: int) -> AsyncIterator[None]:
        """Wait until there is memory for the values of an answer.

        Args:
            values: int, of all outputs.
            instances: int, of the request.

        Raises:
            RefusedError: they are more than this server ever sends together.
        """
        limit = self._limits.max_answer
        if values > limit:
            fit = max(1, instances * limit // values)
            raise RefusedError(
                413,
                f"The answer would have {values} values; this server sends {limit} "
                f"(--max-answer). Send {fit} of the {instances} instances at a time.",
            )
        large = values > _SMALL * limit
        async with self._large_answers if large else contextlib.nullcontext():
            yield

    async def body(self, held: Held) -> bytearray:
        """Return the body of a request, or raise RefusedError."""
        limits = self._limits
        body = bytearray()
        start = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self._seconds_for(0)) as held.reading:
                async for chunk in held.request.stream():
                    body += chunk
                    if len(body) > limits.max_body:
                        raise _too_large(limits)
                    self._grow(held, len(body))
                    if not held.evicted:
                        held.reading.reschedule(start + self._seconds_for(len(body)))
        except TimeoutError:
            if held.evicted:
                raise _no_room() from None
            message = (
                f"The body did not arrive in {self._seconds_for(len(body)):.3g} seconds; "
                f"received {len(body)} bytes. Send {_BODY_RATE} bytes a second or more, "
                f"and all in {limits.body_timeout:g} seconds."
            )
            raise RefusedError(408, message, unread=True) from None
        except ClientDisconnect:
            raise RefusedError(400, "The body ended too soon.") from None
        finally:
            held.reading = None
        return body

    def _seconds_for(self, size):
        """Return the seconds that a body may take when `size` bytes have arrived."""
        return min(self._limits.body_timeout, _BODY_GRACE + size / _BODY_RATE)

    def send(self, held: Held, size: int) -> None:
        """Account for an answer of `size` bytes instead of the body."""
        held.size, held.sending = 0, True
        self._grow(held, size)

    def _grow(self, held, size):
        held.size = size
        small = _SMALL * self._limits.max_body
        while True:
            sizes = [other.size for other in self._held]
            large = sum(size for size in sizes if size > small)
            if (
                sum(sizes) <= _HELD_TOGETHER * self._limits.max_body
                and large <= _LARGE_TOGETHER * self._limits.max_body
            ):
                return
            victim = max(
                (other for other in self._held if other.reading or other.sending),
                key=lambda other: other.size,
            )
            if victim is held:
                held.size = 0
                raise _no_room()
            victim.evict()


def _no_room():
    return RefusedError(503, "Too many large requests are waiting.", unread=True)


def _too_large(limits):
    message = f"The body has more than {limits.max_body} bytes, the limit of this server."
    return RefusedError(413, message, unread=True)
