"""Connections for downloads: web servers only, and a time limit for every step."""

import contextlib
import http.client
import socket
import threading
import time
import urllib.parse
import urllib.request

SCHEMES = ("http", "https")


class Watchdog:
    """Shut a connection down when a step of the download takes too long.

    A timeout of a socket is the time without a single byte: a server that sends its
    headers, or the sizes of its chunks, byte by byte never exceeds it.

    Args:
        seconds: float, the longest time for a step. Opening a connection, with TLS and
            all headers, is one step, and so is each piece of the file.

    Example:

    >>> with Watchdog(60) as watchdog:  # doctest: +SKIP
    ...     response = opener(redirects, watchdog).open(request)
    ...     watchdog.step()
    """

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._end = time.monotonic() + seconds
        self._socket: socket.socket | None = None
        self._stopped = threading.Event()
        self._expired = False
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._stopped.set()
        self._thread.join()
        self.connected(None)

    def _watch(self):
        while not self._stopped.wait(max(0.0, self._end - time.monotonic())):
            if time.monotonic() >= self._end:
                self._expired = True
                self._shut_down()
                return

    def _shut_down(self):
        if self._socket is not None:
            with contextlib.suppress(OSError):  # The server may have been faster.
                self._socket.shutdown(socket.SHUT_RDWR)

    def connected(self, connection: socket.socket | None) -> None:
        """Watch another connection: the first one, or that after a redirect."""
        previous, self._socket = self._socket, connection and connection.dup()
        if previous is not None:
            previous.close()
        if self._expired:
            self._shut_down()

    def step(self) -> None:
        """Begin the next step.

        Raises:
            HTTPException: the last step took too long.
        """
        if self._expired:
            raise http.client.HTTPException(
                f"the server took more than {self._seconds:.0f} seconds for its headers, "
                "or for a piece of the file: it is too slow"
            )
        self._end = time.monotonic() + self._seconds


class _Connection(http.client.HTTPConnection):
    watchdog: Watchdog

    def connect(self):
        super().connect()
        self.watchdog.connected(self.sock)


class _SecureConnection(http.client.HTTPSConnection, _Connection):
    # The parent's `connect` calls that of `_Connection` before it negotiates TLS.
    pass


class _Handler(urllib.request.HTTPHandler):
    def __init__(self, watchdog):
        super().__init__()
        self._watchdog = watchdog

    def http_open(self, req):
        return self._open(_Connection, req)

    def https_open(self, req):
        return self._open(_SecureConnection, req)

    https_request = urllib.request.HTTPHandler.http_request

    def _open(self, kind, req):
        def connect(*arguments, **keywords):
            connection = kind(*arguments, **keywords)
            connection.watchdog = self._watchdog
            return connection

        return self.do_open(connect, req)


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects to other web servers, and from https to https only.

    Keeps the hash that Hugging Face sends with the redirect, not with the file.

    Args:
        url: str, the first address.
    """

    etag = ""

    def __init__(self, url: str):
        self.first_scheme = urllib.parse.urlsplit(url).scheme

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        """Return the request for the next address.

        Raises:
            HTTPException: it is no web address, or not encrypted like the first one.
        """
        scheme = urllib.parse.urlsplit(newurl).scheme
        downgraded = self.first_scheme == "https" != scheme
        if scheme not in SCHEMES or downgraded:
            raise http.client.HTTPException(
                f"it redirects to {newurl!r}, which is "
                f"{'not encrypted' if downgraded else 'no web address'}"
            )
        self.etag = headers.get("X-Linked-ETag") or self.etag
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def make_opener(
    redirects: Redirects, watchdog: Watchdog
) -> urllib.request.OpenerDirector:
    """Return an opener for http and https alone: urllib's own also opens local files."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        _Handler(watchdog),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        redirects,
    ):
        opener.add_handler(handler)
    return opener
