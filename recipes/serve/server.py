"""A server that stops without losing a request."""

import asyncio
import time

import h11
import orjson
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from recipes.serve.app import App

# Seconds in which a request may still come over a connection that is open when the server
# stops. uvicorn closes idle ones at once, and with them requests that it has not read.
_GRACE = 1.0
# Seconds for the headers of a request, and between requests.
_HEADERS_TIMEOUT = 20.0
_KEEP_ALIVE = 75


class Server(uvicorn.Server):
    """uvicorn's, with a slower end.

    Args:
        app: an `App`.
        host: str, an address.
        port: int; 0 for any that is free.
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
        )
        super().__init__(config)
        self._app = app

    def run(self, sockets=None):
        """Serves until a signal; exits with 1 where the address cannot be had."""
        super().run(sockets=sockets or [self.config.bind_socket()])

    async def startup(self, sockets=None):
        await super().startup(sockets)
        host, port = sockets[0].getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        print(f"Serving {self._app.name}, version {self._app.version}: {url}", flush=True)

    async def shutdown(self, sockets=None):
        accepted = _accepted(sockets[0])
        for server in self.servers:
            server.close()
        self._app.draining = True
        loop = asyncio.get_running_loop()
        for connection in accepted:
            await loop.connect_accepted_socket(self._protocol, connection)
        end = time.monotonic() + _GRACE
        while self.server_state.connections and time.monotonic() < end:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)

    def _protocol(self):
        return _Protocol(self.config, self.server_state, app_state={})


def _accepted(listener):
    """What the kernel has accepted; closing the listener would reset it."""
    connections = []
    try:
        while True:
            connections.append(listener.accept()[0])
    except OSError:  # BlockingIOError: there are no more.
        return connections


class _Protocol(H11Protocol):
    """uvicorn's, which would wait for ever for the headers of a request."""

    _timer = None

    def connection_made(self, transport):
        super().connection_made(transport)
        self._expect_headers()

    def data_received(self, data):
        super().data_received(data)
        self._expect_headers()

    def connection_lost(self, exc):
        self._cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg):
        """Answer what is no HTTP, unless an answer is under way already."""
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
