"""The HTTP application: TF Serving's REST API, health, metrics and the web page."""

import asyncio
import concurrent.futures
import contextlib
import functools
import html
import mimetypes
import pathlib
import string
import time
from collections.abc import Sequence

import orjson
import prometheus_client
from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from keras_vit.serve import tensor_json
from keras_vit.serve.batching import Batcher
from keras_vit.serve.image_errors import IMAGE_ERRORS
from keras_vit.serve.images import png_pixels, read_files
from keras_vit.serve.json_process import JsonProcess
from keras_vit.serve.limits import Admission, Limits, RefusedError
from keras_vit.serve.model import Model
from keras_vit.serve.origin import OriginCheck

_PAGE = pathlib.Path(__file__).parent / "page"
# Browsers refuse scripts of another type, which the registry of Windows may state.
mimetypes.add_type("text/javascript", ".js")
_SELF_ONLY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'"
)
# Largest number of pixels decoded in one batch; a larger image forms a batch alone.
_MAX_WORK = 2**22
# JSON up to these sizes is parsed and written in this process. Larger JSON would hold
# Python's global lock, and block all other requests, for too long.
_SMALL_BODY = 2**20  # Bytes.
_SMALL_JSON = 2**16  # Values.
_PIECE = 2**16  # Bytes of a response body that are passed to the transport at a time.


class _Name(Convertor[str]):
    """URL convertor for the name of a model."""

    regex = "[^/:]+"

    def convert(self, value):
        return value

    def to_string(self, value):
        return value


class _Version(_Name):
    """URL convertor for the version of a model.

    The version stays a string because Python refuses to convert very long numbers.
    """

    regex = "[0-9]+"


register_url_convertor("model", _Name())
register_url_convertor("version", _Version())


class App(Starlette):
    """ASGI application that serves one model under one name.

    Args:
        model: a `Model`.
        name: str, the name of the model in URLs.
        limits: a `Limits`.
        max_batch: int, largest number of instances in a batch.
        delay: float, seconds that a request waits for others to fill its batch.
        address: str, the host name or address that the server listens on.
        allowed_hosts: sequence of str, additional host names that clients may use; see
            `OriginCheck`.

    Attributes:
        name: str, the name of the model in URLs.
        version: str, the version of the model.
        draining: bool, set by the server when it stops. Responses then carry
            `Connection: close`, and the health check fails.
    """

    def __init__(
        self,
        model: Model,
        name: str,
        limits: Limits,
        max_batch: int,
        delay: float,
        address: str = "127.0.0.1",
        allowed_hosts: Sequence[str] = (),
    ):
        self.draining = False
        self._model = model
        self.name = name
        self.version = str(model.version)
        self._limits = limits
        self._metadata = {
            "model_spec": {"name": name, "signature_name": "", "version": self.version},
            "metadata": {"signature_def": {"signature_def": model.metadata}},
        }
        self._admission = Admission(limits)
        self._make_metrics()
        # Small and large requests have separate batchers and threads, so that small ones
        # never wait for large ones. Each has one thread, so that only one large image
        # and one large tree of Python objects are in memory at a time.
        self._json_process = JsonProcess()
        self._batcher, self._large_batcher = (
            Batcher(
                functools.partial(model.run, copy=copy),
                max_batch,
                delay,
                _MAX_WORK,
                self._observe_batch,
            )
            for copy in (False, True)
        )
        self._json, self._large_json = (
            concurrent.futures.ThreadPoolExecutor(1, name)
            for name in ("json", "large json")
        )
        served = "/v1/models/{name:model}"
        super().__init__(
            routes=[
                Route("/", self._index),
                Mount("/page", StaticFiles(directory=_PAGE)),
                Route("/healthz", self._health),
                Route("/monitoring/prometheus/metrics", self._metrics),
                Route(f"{served}:predict", self._predict, methods=["POST"]),
                Route(
                    f"{served}/versions/{{version:version}}:predict",
                    self._predict,
                    methods=["POST"],
                ),
                Route(served, self._status),
                Route(f"{served}/versions/{{version:version}}", self._status),
                Route(f"{served}/metadata", self._describe),
                Route(f"{served}/versions/{{version:version}}/metadata", self._describe),
            ],
            middleware=[Middleware(OriginCheck, address, allowed_hosts)],
            exception_handlers={
                HTTPException: self._no_route,
                RefusedError: _refuse,
                Exception: _fail,
            },
        )

    async def __call__(self, scope, receive, send):
        async def send_last(message):
            if message["type"] == "http.response.start" and self.draining:
                headers = [*message["headers"], (b"connection", b"close")]
                message = {**message, "headers": headers}
            await send(message)

        # The request counts against the limits until its response has been sent.
        with contextlib.ExitStack() as until_sent:
            scope.setdefault("state", {})["until_sent"] = until_sent
            await super().__call__(scope, receive, send_last)

    def _make_metrics(self):
        self._registry = registry = prometheus_client.CollectorRegistry()
        prometheus_client.ProcessCollector(registry=registry)
        self._requests = prometheus_client.Counter(
            "requests", "Predict requests answered", ["status"], registry=registry
        )
        self._seconds = prometheus_client.Histogram(
            "request_seconds",
            "From a request's headers to its answer",
            ["signature"],
            registry=registry,
        )
        self._batches = prometheus_client.Histogram(
            "batch_instances",
            "Instances that were run together",
            ["signature"],
            buckets=[1, 2, 4, 8, 16, 32, 64, 128],
            registry=registry,
        )
        waiting = prometheus_client.Gauge(
            "waiting_requests", "Requests not answered yet", registry=registry
        )
        waiting.set_function(lambda: self._admission.waiting)

    def _observe_batch(self, signature, size):
        self._batches.labels(signature).observe(size)

    async def _predict(self, request: Request) -> Response:
        start = time.perf_counter()
        status = 500
        try:
            held = request.state.until_sent.enter_context(self._admission.held(request))
            body = await self._admission.body(held)
            self._check_served(request)
            with self._admission.place():
                async with self._admission.answering(request):
                    signature, answer = await self._answer(body)
            self._admission.send(held, len(answer))
            self._seconds.labels(signature).observe(time.perf_counter() - start)
            status = 200
            return _Answer(answer, media_type="application/json")
        except RefusedError as refusal:
            status = refusal.status
            return refusal.response()
        except tensor_json.BadRequestError as error:
            status = 400
            return RefusedError(status, str(error)).response()
        finally:
            self._requests.labels(str(status)).inc()

    async def _answer(self, body):
        request, small = await self._parsed(body)
        values = request.size * self._model.output_values[request.signature]
        async with self._admission.answer(values, request.size):
            outputs = await self._outputs(request, small)
            values = sum(output.size for output in outputs.values())
            small = values <= _SMALL_JSON
            answer = await self._in_json(small, "write_answer", outputs, request.by_rows)
        return request.signature, answer

    async def _parsed(self, body):
        """Return the request and whether it is small."""
        limits = self._limits
        small = len(body) <= _SMALL_BODY
        # Refuse too many values before the process gets a copy of the JSON.
        values = await asyncio.get_running_loop().run_in_executor(
            self._json if small else self._large_json,
            tensor_json.check_values,
            body,
            limits.max_values,
        )
        small = small and values <= _SMALL_JSON
        request = await self._in_json(
            small,
            "read_request",
            body,
            self._model.signatures,
            limits.max_instances,
            limits.max_values,
        )
        return request, small

    async def _in_json(self, small, function, *arguments):
        loop = asyncio.get_running_loop()
        if small:
            call = getattr(tensor_json, function)
            return await loop.run_in_executor(self._json, call, *arguments)
        call = self._json_process
        try:
            return await loop.run_in_executor(
                self._large_json, call, function, *arguments
            )
        except (ChildProcessError, MemoryError):
            message = "Not enough memory to process the JSON; send fewer instances."
            raise RefusedError(503, message) from None

    async def _outputs(self, request, small):
        # The data of large PNGs are inflated, for which small requests must not wait.
        small = small and png_pixels(request.inputs) <= _MAX_WORK
        files = await asyncio.get_running_loop().run_in_executor(
            self._json if small else self._large_json,
            read_files,
            request.inputs,
            self._limits.max_pixels,
        )
        if sum(files.work) <= min(_MAX_WORK, self._limits.max_pixels):
            outputs = await self._batcher(request.signature, files.inputs, files.work)
        else:
            with self._admission.decoding(sum(files.work)):
                outputs = await self._large_batcher(
                    request.signature, files.inputs, files.work
                )
        if "error" in outputs and outputs["error"].all():
            raise RefusedError(400, _reasons(outputs["error"], files.reasons))
        return outputs

    def _check_served(self, request):
        name = request.path_params["name"]
        version = request.path_params.get("version", self.version)
        if name != self.name or (version.lstrip("0") or "0") != self.version:
            wanted = f"{name}/{version}" if "version" in request.path_params else name
            raise RefusedError(
                404,
                f"Servable not found for request: {wanted[:80]}; this server has "
                f"{self.name}, version {self.version}.",
            )

    async def _status(self, request: Request) -> Response:
        self._check_served(request)
        status = {
            "version": self.version,
            "state": "AVAILABLE",
            "status": {"error_code": "OK", "error_message": ""},
        }
        return _json(orjson.dumps({"model_version_status": [status]}))

    async def _describe(self, request: Request) -> Response:
        self._check_served(request)
        return _json(orjson.dumps(self._metadata))

    async def _health(self, request: Request) -> Response:
        if self.draining:
            return PlainTextResponse("stopping\n", 503)
        return PlainTextResponse("ok\n")

    async def _metrics(self, request: Request) -> Response:
        text = prometheus_client.generate_latest(self._registry)
        return Response(text, media_type=prometheus_client.CONTENT_TYPE_LATEST)

    async def _index(self, request: Request) -> Response:
        page = string.Template((_PAGE / "index.html").read_text("utf-8"))
        text = page.substitute(name=html.escape(self.name), version=self.version)
        return HTMLResponse(text, headers={"Content-Security-Policy": _SELF_ONLY})

    async def _no_route(self, request, error):
        path = request.url.path[:80]
        if path.startswith("/v1/"):  # TF Serving responds with this message.
            message = f"Malformed request: {request.method} {path}"
            return RefusedError(400, message, unread=True).response()
        return RefusedError(
            error.status_code, f"{error.detail}: {path}", unread=True
        ).response()


async def _refuse(request, refusal):
    return refusal.response()


async def _fail(request, error):
    # Starlette re-raises the error after this response, so that it is logged.
    return RefusedError(500, "The server failed.").response()


def _json(body):
    return Response(body, media_type="application/json")


def _reasons(codes, reasons):
    texts = [
        f"image {i} {reasons.get(i) or IMAGE_ERRORS[code]}"
        for i, code in enumerate(codes[:10])
    ]
    return f"No image could be read: {'; '.join(texts)}."


class _Answer(Response):
    """Response that sends its body in pieces, no faster than the client reads them."""

    async def __call__(self, scope, receive, send):
        start = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **start})
        for i in range(0, len(self.body), _PIECE):
            piece, more = self.body[i : i + _PIECE], i + _PIECE < len(self.body)
            message = {"type": "http.response.body", "body": piece, "more_body": more}
            await send(message)
