"""HTTP(S) connections for downloads, with a time limit for every step."""

import contextlib
import http.client
import socket
import threading
import time
import urllib.parse
import urllib.request

SCHEMES = ("http", "https")


class Watchdog:
    """Context manager that closes a connection when a step of a download times out.

    A socket timeout only limits the time between two bytes. A server that sends its
    headers or its chunk sizes one byte at a time never exceeds that timeout.

    Args:
        seconds: float, time limit for each step. Opening a connection, including TLS and
            all headers, is one step; receiving each piece of the file is another.

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
            # The server may have closed the connection already.
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def connected(self, connection: socket.socket | None) -> None:
        """Watch `connection` instead of the previous one, for example after a redirect.

        Args:
            connection: an open socket, or None to stop watching.
        """
        previous, self._socket = self._socket, connection and connection.dup()
        if previous is not None:
            previous.close()
        if self._expired:
            self._shut_down()

    def step(self) -> None:
        """Restart the timer for the next step.

        Raises:
            HTTPException: if the previous step timed out.
        """
        if self._expired:
            raise http.client.HTTPException(
                f"the server took more than {self._seconds:.0f} seconds to send its "
                "headers or a piece of the file"
            )
        self._end = time.monotonic() + self._seconds


class _Connection(http.client.HTTPConnection):
    watchdog: Watchdog

    def connect(self):
        super().connect()
        self.watchdog.connected(self.sock)


class _SecureConnection(http.client.HTTPSConnection, _Connection):
    # `HTTPSConnection.connect` calls `_Connection.connect` (the next class in the method
    # resolution order) before it negotiates TLS, so the watchdog covers the handshake.
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
    """Redirect handler that accepts only web addresses and never downgrades from HTTPS.

    Hugging Face sends the hash of a file with the redirect instead of with the file; the
    handler stores it in `etag`.

    Args:
        url: str, the original URL.
    """

    etag = ""

    def __init__(self, url: str):
        self.first_scheme = urllib.parse.urlsplit(url).scheme

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        """Return the request for the new URL.

        Raises:
            HTTPException: if the new URL is not a web address, or is not encrypted
                although the original URL is.
        """
        scheme = urllib.parse.urlsplit(newurl).scheme
        downgraded = self.first_scheme == "https" != scheme
        if scheme not in SCHEMES or downgraded:
            raise http.client.HTTPException(
                f"it redirects to {newurl!r}, which is "
                f"{'not encrypted' if downgraded else 'not a web address'}"
            )
        self.etag = headers.get("X-Linked-ETag") or self.etag
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def make_opener(
    redirects: Redirects, watchdog: Watchdog
) -> urllib.request.OpenerDirector:
    """Return an opener that supports only HTTP and HTTPS.

    The default opener of urllib also opens local files and FTP addresses.

    Args:
        redirects: handler of redirects.
        watchdog: watchdog that limits the time of every step.
    """
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
