"""Resource limits of the server, and the rejection of requests that exceed them."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Iterator

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

# Limits on the total size of the request bodies and responses in memory, in multiples of
# `max_body`: of all of them, and of those larger than `_SMALL * max_body`. The difference
# is left for small ones.
_HELD_TOGETHER = 3
_LARGE_TOGETHER = 2
_SMALL = 1 / 32
# Number of large responses that are computed and written at the same time.
_LARGE_ANSWERS = 2
# Status of a request whose client disconnected, as in nginx; only the metrics show it.
_GONE = 499
# Limit on the pixels that wait to be decoded, in multiples of the limit of one request.
_WORK_TOGETHER = 4
# Seconds for which the rest of a rejected request is read and discarded. Closing the
# connection immediately would reset it, and the client might never see the error.
_LINGER = 5.0
# Rates, in bytes per second, at which all large bodies together are read and at which the
# rest of all rejected requests together is discarded. Without them, reading would leave
# the event loop no time for other requests.
_LARGE_RATE = 2**25
_DISCARD_RATE = 2**26
# A body must arrive at this rate on average, in bytes per second, after a grace period.
_BODY_RATE = 2**14
_BODY_GRACE = 5.0  # Seconds.


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Args:
        max_body: int, bytes in the body of a request.
        max_instances: int, instances in a request.
        max_waiting: int, requests that are being computed or wait to be.
        body_timeout: float, seconds in which the body of a request must arrive. After 5
            seconds, it must also have arrived at 16 KiB per second on average.
        max_pixels: int, pixels to decode for the image files of a request.
        max_values: int, values, lists and objects in the JSON of a request.
        max_answer: int, values in a response.
        deadline: float, seconds in which a request must be answered after its body has
            arrived.
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
    """Error for a request that the server rejects.

    Args:
        status: int, the HTTP status.
        message: str, error message for the client.
        unread: bool, whether the client may still be sending its request.
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


class _Pace:
    """Pauses that keep the readers of many bodies together to a rate.

    Args:
        rate: float, bytes per second.
    """

    def __init__(self, rate: float):
        self._rate = rate
        self._next = 0.0  # Time when the next part may be read.

    async def __call__(self, size: int) -> None:
        """Wait after reading `size` bytes."""
        now = asyncio.get_running_loop().time()
        self._next = max(self._next, now) + size / self._rate
        await asyncio.sleep(self._next - now)


_discard_pace = _Pace(_DISCARD_RATE)


class _LastResponse(Response):
    """Response that closes the connection after the client has stopped sending.

    If the client keeps sending, the connection is closed after `_LINGER` seconds.
    """

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
                while (message := await receive()).get("more_body", False):
                    await _discard_pace(len(message["body"]))
        await send({"type": "http.response.body", "body": b""})


@dataclasses.dataclass(eq=False)
class Held:
    """Request in progress, with the memory that the server holds for it.

    Args:
        request: the request.

    Attributes:
        size: int, bytes of the body of the request, or of the response once it exists.
        reading: the timeout for the body while it arrives, otherwise None.
        sending: bool, whether the response is being sent.
        evicted: bool, whether the request was dropped to free memory for others.
    """

    request: Request
    size: int = 0
    reading: asyncio.Timeout | None = None
    sending: bool = False
    evicted: bool = False

    def evict(self) -> None:
        """Drop the request to free its memory, because its client is slow."""
        self.evicted = True
        if self.reading is not None:
            self.reading.reschedule(asyncio.get_running_loop().time())
        else:
            self.request.state.connection.transport.abort()


class Admission:
    """Admission control for the requests in progress and the memory that they hold.

    Clients that send requests or read responses slowly do not block others. A request
    counts toward `max_waiting` only after its body has arrived. When memory is short, the
    client that holds the most of it is dropped, if it is still sending or reading.

    Args:
        limits: a `Limits`.
    """

    def __init__(self, limits: Limits):
        self._limits = limits
        self._held: list[Held] = []
        self._size = self._large_size = 0  # Sums of the sizes in `_held`.
        self._pace = _Pace(_LARGE_RATE)
        self._work = 0
        self.waiting = 0
        self._large_answers = asyncio.Semaphore(_LARGE_ANSWERS)

    @contextlib.contextmanager
    def held(self, request: Request) -> Iterator[Held]:
        """Account for the memory of a request until its response is sent.

        Args:
            request: the request.

        Yields:
            A `Held`.

        Raises:
            RefusedError: its `Content-Length` exceeds `max_body`.
        """
        length = request.headers.get("content-length")
        if length is not None and int(length) > self._limits.max_body:
            raise _too_large(self._limits)
        held = Held(request)
        self._held.append(held)
        try:
            yield held
        finally:
            self._resize(held, 0)
            self._held.remove(held)

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Count a request whose body has arrived as waiting.

        Raises:
            RefusedError: `max_waiting` requests are waiting already.
        """
        if self.waiting >= self._limits.max_waiting:
            raise RefusedError(503, "Too many requests are waiting.")
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    @contextlib.contextmanager
    def decoding(self, work: int) -> Iterator[None]:
        """Account for the decoding of a request with large images.

        Args:
            work: int, number of pixels to decode.

        Raises:
            RefusedError: the request exceeds `max_pixels`, or too many pixels are waiting
                to be decoded.
        """
        limit = self._limits.max_pixels
        if work > limit:
            raise RefusedError(
                413,
                f"Decoding the images of the request costs as much as {work} pixels; "
                f"this server accepts {limit} in a request (--max-pixels).",
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
        """Cancel the enclosed work at the deadline, or when the client disconnects.

        Args:
            request: the request that the work is for.

        Raises:
            RefusedError: the deadline has passed or the client has disconnected.
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
                raise RefusedError(_GONE, "The client has disconnected.") from None
            message = f"The request took more than {seconds:g} seconds."
            raise RefusedError(504, message) from None
        finally:
            connection.on_gone = None

    @contextlib.asynccontextmanager
    async def answer(self, values: int, instances: int) -> AsyncIterator[None]:
        """Wait until there is memory for a response.

        Args:
            values: int, number of values in all outputs.
            instances: int, number of instances in the request.

        Raises:
            RefusedError: the response would exceed `max_answer`.
        """
        limit = self._limits.max_answer
        if values > limit:
            fit = max(1, instances * limit // values)
            raise RefusedError(
                413,
                f"The response would have {values} values; this server sends at most "
                f"{limit} (--max-answer). Send {fit} of the {instances} instances at a "
                "time.",
            )
        large = values > _SMALL * limit
        async with self._large_answers if large else contextlib.nullcontext():
            yield

    async def body(self, held: Held) -> bytearray:
        """Return the body of a request.

        Args:
            held: the request.

        Raises:
            RefusedError: the body is too large, too slow or incomplete, or its memory is
                needed for other requests.
        """
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
                    if self._is_large(len(body)):
                        await self._pace(len(chunk))
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
            raise RefusedError(400, "The body of the request is incomplete.") from None
        finally:
            held.reading = None
        return body

    def _seconds_for(self, size):
        """Return the seconds that a body may take after `size` bytes have arrived."""
        return min(self._limits.body_timeout, _BODY_GRACE + size / _BODY_RATE)

    def send(self, held: Held, size: int) -> None:
        """Account for a response of `size` bytes instead of the request's body.

        Args:
            held: the request.
            size: int, bytes of the response.

        Raises:
            RefusedError: the memory is needed for other requests.
        """
        held.sending = True
        self._grow(held, size)

    def _grow(self, held, size):
        self._resize(held, size)
        most, large = (
            n * self._limits.max_body for n in (_HELD_TOGETHER, _LARGE_TOGETHER)
        )
        while self._size > most or self._large_size > large:
            victim = max(
                (other for other in self._held if other.reading or other.sending),
                key=lambda other: other.size,
            )
            self._resize(victim, 0)
            if victim is held:
                raise _no_room()
            victim.evict()

    def _resize(self, held, size):
        for old, new in ((held.size, 0), (0, size)):
            self._size += new - old
            if self._is_large(new or old):
                self._large_size += new - old
        held.size = size

    def _is_large(self, size):
        return size > _SMALL * self._limits.max_body


def _no_room():
    return RefusedError(503, "Too many large requests are waiting.", unread=True)


def _too_large(limits):
    message = f"The body has more than {limits.max_body} bytes, the limit of this server."
    return RefusedError(413, message, unread=True)
