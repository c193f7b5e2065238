"""HTTP server that answers all pending requests before it stops."""

import asyncio
import functools
import os
import resource
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import h11
import orjson
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from keras_vit.serve.app import App

# Seconds in which open connections may still send a request after the server was told to
# stop. uvicorn closes idle connections immediately, and loses requests not yet read.
_GRACE = 1.0
# Seconds after the signal to stop in which requests are answered; then they are dropped.
_STOP = 6
# Further seconds in which the handlers of dropped requests may finish by themselves.
_UNWIND = 2
# Seconds after the signal to stop when the process exits, even if threads still run.
_EXIT = 10
# Seconds in which a client must read the next 64 KiB of its response, or the rest.
_WRITE_TIMEOUT = 10.0
# Maximum number of open connections, if the operating system allows that many files.
_CONNECTIONS = 2000
# Timeouts in seconds for the headers of a request, and for an idle connection.
_HEADERS_TIMEOUT = 20.0
_KEEP_ALIVE = 75
# TCP_CLOSE and TCP_CLOSE_WAIT in Linux.
_CLOSED = (7, 8)


class Server(uvicorn.Server):
    """uvicorn server with a graceful shutdown.

    Args:
        app: an `App`.
        host: str, the address to listen on.
        port: int, the port to listen on; 0 for any free port.
    """

    def __init__(self, app: App, host: str, port: int):
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            http=_Protocol,
            ws="none",
            lifespan="off",
            access_log=False,
            log_level="warning",
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=_STOP + _UNWIND,
        )
        super().__init__(config)
        self._app = app

    def run(self, sockets=None):
        """Serve until a signal arrives; exit with status 1 if binding the address fails.

        Args:
            sockets: list with the socket to listen on; the default binds a new one.
        """
        super().run(sockets=sockets or [self.config.bind_socket()])

    async def startup(self, sockets=None):
        await super().startup(sockets)
        host, port = sockets[0].getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        what = f"{self._app.name}, version {self._app.version}"
        print(f"Serving {what}: {url} (Ctrl-C stops it)", flush=True)

    async def on_tick(self, counter):
        now = asyncio.get_running_loop().time()
        connections: list[Any] = list(self.server_state.connections)
        for connection in connections:
            connection.check_client(now)
        return await super().on_tick(counter)

    def handle_exit(self, sig, frame):
        if not self.should_exit:
            # Python waits for its threads at exit, and a batch may still be running.
            watchdog = threading.Timer(_EXIT, os._exit, [0])
            watchdog.daemon = True
            watchdog.start()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets=None):
        accepted = _accepted(sockets[0])
        for server in self.servers:
            server.close()
        self._app.draining = True
        loop = asyncio.get_running_loop()
        for connection in accepted:
            await loop.connect_accepted_socket(self._protocol, connection)
        # Drop the connections first: uvicorn would cancel the handlers after its timeout
        # and log each as an error.
        loop.call_later(_STOP, self._drop_all)
        end = time.monotonic() + _GRACE
        while self.server_state.connections and time.monotonic() < end:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)

    def _drop_all(self):
        connections: list[Any] = list(self.server_state.connections)
        for connection in connections:
            connection.transport.abort()

    def _protocol(self):
        return _Protocol(self.config, self.server_state, app_state={})


@functools.cache
def _most_connections():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _CONNECTIONS + 100
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted - 100


def _accepted(listener):
    """Return the connections in the backlog, which closing the listener would reset."""
    connections = []
    try:
        while True:
            connections.append(listener.accept()[0])
    except OSError:  # BlockingIOError: the backlog is empty.
        return connections


def _is_closed(transport):
    """Return True if the client has closed the connection, False if that is unknown."""
    connection = transport.get_extra_info("socket")
    if connection is None or not hasattr(socket, "TCP_INFO"):
        return False
    try:
        state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    except OSError:
        return False
    return state in _CLOSED


class _Protocol(H11Protocol):
    """uvicorn's protocol with a timeout for headers and checks for stalled clients."""

    _timer = None
    _unread_since: float | None = None  # Time since when the client has not read.
    # Called when the client of the current request disconnects.
    on_gone: Callable[[], None] | None = None

    def connection_made(self, transport):
        # Handlers find their connection as `request.state.connection`.
        self.app_state = {**self.app_state, "connection": self}
        if len(self.connections) >= _most_connections():
            self._drop_another()
        self._since = self.loop.time()
        super().connection_made(transport)
        self._expect_headers()

    def _drop_another(self):
        connections: list[Any] = list(self.connections)
        waiting = [c for c in connections if c.waits_for_client()]
        if waiting:
            min(waiting, key=lambda connection: connection._since).transport.abort()

    def waits_for_client(self):
        """Return True if the server is waiting for the client to send or to read."""
        cycle = self.cycle
        return cycle is None or cycle.response_started or cycle.more_body

    def resume_writing(self):
        self._unread_since = None
        super().resume_writing()

    def check_client(self, now):
        """Drop the connection if the client has left or does not read its response.

        asyncio does not notice that a client has closed its connection while reading is
        paused, for example behind a pipelined request.

        Args:
            now: float, the time of the event loop.
        """
        if self.flow.read_paused and _is_closed(self.transport):
            self.transport.abort()
        elif not self.transport.get_write_buffer_size():
            self._unread_since = None
        elif self._unread_since is None:
            self._unread_since = now
        elif now - self._unread_since > _WRITE_TIMEOUT:
            self.transport.abort()

    def on_response_complete(self):
        self._since = self.loop.time()
        super().on_response_complete()

    def data_received(self, data):
        if self.conn.their_state is h11.MUST_CLOSE:
            return  # Ignore data after the last request, such as a line break.
        super().data_received(data)
        self._expect_headers()

    def connection_lost(self, exc):
        self._cancel()
        super().connection_lost(exc)
        if self.on_gone is not None:
            self.on_gone()

    def send_400_response(self, msg):
        """Respond to malformed HTTP with an error, unless a response has started.

        Args:
            msg: str, the error message.
        """
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if self.cycle.response_started:
                self.transport.abort()
                return
        body = orjson.dumps({"error": msg})
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        ]
        for event in (
            h11.Response(status_code=400, headers=headers, reason="Bad Request"),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event))
        self.transport.close()

    def _expect_headers(self):
        if self.cycle is not None and not self.cycle.response_complete:
            self._cancel()
        elif self._timer is None:
            self._timer = self.loop.call_later(
                _HEADERS_TIMEOUT, self.timeout_keep_alive_handler
            )

    def _cancel(self):
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
