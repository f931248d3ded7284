"""The HTTP interface: every route, who may use it, and what is counted."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import logging
import os
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .. import __version__
from ..machine import give_memory_back
from ..types import Prompts
from . import label_studio
from .collection import Collection
from .images import decode_image
from .labels import label_routes
from .limits import Limits
from .model_thread import Job, ModelThread
from .outputs import OUTPUTS, Answer
from .problems import Problem
from .requests import body_of, image_of, object_of, options_of, prompts_of
from .runs import run_routes
from .samples import sample_routes
from .served import Embedded, Served
from .workers import METRICS

PAGE = Path(__file__).with_name("page")
_SECURITY = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; worker-src 'self' blob:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_LOCAL = ("localhost", "127.0.0.1", "[::1]")
_PAGE_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_LOG = logging.getLogger("pixelwise.serve")


class Counters:
    """What `/metrics` tells; no label comes from a request."""

    def __init__(self, models: Mapping[str, Served], thread: ModelThread) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "pixelwise_requests", "Requests by route and status.", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "pixelwise_seconds", "Seconds of each stage of a prediction.", ["stage"], registry=self.registry
        )
        self.batches = Histogram(
            "pixelwise_batch_size", "Images of a batch.", buckets=(1, 2, 4, 8, 16), registry=self.registry
        )
        self.refused = Counter(
            "pixelwise_refused", "Requests that were refused, by reason.", ["kind"], registry=self.registry
        )
        told: dict[str, Any] = {"registry": self.registry, "multiprocess_mode": "livesum"}
        self.waiting = Gauge("pixelwise_waiting", "Images that wait.", **told)
        self.kept = Gauge("pixelwise_embedding_bytes", "Bytes of kept embeddings.", **told)
        self.models, self.thread = models, thread
        thread.observe = self.batches.observe

    def look(self) -> None:
        """Note what waits and what is kept."""
        self.waiting.set(self.thread.waiting)
        self.kept.set(sum(one.embeddings.bytes for one in self.models.values()))

    def text(self) -> bytes:
        """In Prometheus' format; of all processes where several answer."""
        self.look()
        if METRICS not in os.environ:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        multiprocess.MultiProcessCollector(together)
        return generate_latest(together)


class Counting:
    """Counts every answer by route and status.

    Args:
        app: what answers.
        counters: that count.
    """

    def __init__(self, app: ASGIApp, counters: Counters) -> None:
        self.app, self.counters = app, counters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and note the status of its answer."""

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = getattr(scope.get("route"), "path", "other")
                self.counters.requests.labels(path, str(message["status"])).inc()
                self.counters.look()
            await send(message)

        await self.app(scope, receive, answer if scope["type"] == "http" else send)


class Guard:
    """Looks at every request before anything else does, and adds headers to every answer.

    Args:
        app: what answers.
        token: that clients must send; None for none.
        hosts: names under which the server may be addressed; None for any.
        origins: of pages that may use the interface from elsewhere.
    """

    def __init__(
        self, app: ASGIApp, token: str | None, hosts: Sequence[str] | None, origins: Sequence[str]
    ) -> None:
        self.app, self.token, self.hosts, self.origins = app, token, hosts, tuple(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or refuse."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        given = headers.get("x-request-id", "")
        name = given if 0 < len(given) <= 64 and given.isascii() and given.isalnum() else secrets.token_hex(8)
        scope["state"] = {**scope.get("state", {}), "request_id": name}
        origin = headers.get("origin", "")
        extra = {**_SECURITY, "X-Request-Id": name}
        if origin and origin in self.origins:
            extra |= {
                "Access-Control-Allow-Origin": origin,
                "Access-Control-Expose-Headers": "X-Shape, X-Type, X-Model, X-Request-Id, Server-Timing",
                "Cross-Origin-Resource-Policy": "cross-origin",
                "Vary": "Origin",
            }

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {key.lower() for key, _ in message.get("headers", [])}
                more = {key.lower().encode(): value.encode() for key, value in extra.items()}
                listed = [(key, value) for key, value in more.items() if key not in own]
                message = {**message, "headers": [*message.get("headers", []), *listed]}
            await send(message)

        try:
            self._check(scope, headers, origin)
        except Problem as problem:
            await problem.response()(scope, receive, answer)
            return
        if scope["method"] == "OPTIONS" and origin in self.origins:
            allowed = {
                "Access-Control-Allow-Methods": "GET, POST, PUT, DELETE",
                "Access-Control-Allow-Headers": "Authorization, Content-Type, X-Request-Id",
            }
            await Response(None, 204, allowed)(scope, receive, answer)
            return
        await self.app(scope, receive, answer)

    def _check(self, scope: Scope, headers: Mapping[str, str], origin: str) -> None:
        host = headers.get("host", "")
        bare = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        if self.hosts is not None and bare.lower() not in self.hosts:
            raise Problem("wrong-host", "this server is not called by that name")
        if origin and scope["method"] not in ("GET", "HEAD", "OPTIONS") and origin not in self.origins:
            if origin.partition("://")[2] != host:
                raise Problem("wrong-origin", "pages from elsewhere may not use this server: see --cors")
        path = scope["path"]
        open_to_all = "/health/" in path or not path.startswith(("/v1", "/v2", "/metrics", "/openapi"))
        if self.token is None or open_to_all or scope["method"] == "OPTIONS":
            return
        sent = headers.get("authorization", "").partition(" ")
        given = sent[2].strip()
        if sent[0].lower() == "basic":  # Label Studio sends a name and a password
            with contextlib.suppress(ValueError):
                given = base64.b64decode(given, validate=True).decode("latin-1").partition(":")[2]
        right = hmac.compare_digest(given.encode(), self.token.encode())
        if sent[0].lower() not in ("bearer", "basic") or not right:
            raise Problem("unauthorized", "this server wants a token: Authorization: Bearer TOKEN")


def create_app(
    models: Sequence[Served],
    thread: ModelThread,
    *,
    limits: Limits,
    token: str | None = None,
    hosts: Sequence[str] | None = _LOCAL,
    origins: Sequence[str] = (),
    size: int = 512,
    drain: float = 30.0,
    warm_first: bool = False,
    images_of_tasks: Path | None = None,
    collection: Collection | None = None,
    reports: Sequence[Path] = (),
) -> FastAPI:
    """The application.

    Args:
        models: what is served; the first is the usual one.
        thread: runs them.
        limits: what is taken at once.
        token: that clients must send; None for none.
        hosts: names under which the server may be addressed; None for any.
        origins: of pages from elsewhere that may use the interface.
        size: height and width in pixels of the images that the models are warmed up with.
        drain: seconds that requests under way have when the server stops.
        images_of_tasks: folder with the images of Label Studio's tasks; None without its routes.
        warm_first: whether nothing is answered before the warm-up: where other processes answer meanwhile.
        collection: images to walk through and to label.
        reports: HTML files of evaluations and comparisons.

    Raises:
        ValueError: if two models have one name.
    """
    known = {one.name: one for one in models}
    if len(known) < len(models):
        raise ValueError("two models have one name: rename one of the files or run directories")
    counters = Counters(known, thread)
    pool = ThreadPoolExecutor(2, "pixels")
    state = {"draining": False}

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()

        def warm() -> None:
            for one in models:
                work = Job(
                    None, one, lambda works: [w.warm_up(size) for w in works], 0, time.monotonic() + 3600
                )
                thread.submit(work).result()
            thread.batch = max(one.batch for one in models)
            give_memory_back()

        warming = loop.run_in_executor(None, warm)
        if warm_first:
            await warming
        yield
        state["draining"] = True
        if not warming.done():
            warming.cancel()
        await loop.run_in_executor(None, thread.stop, drain)
        pool.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(
        title="pixelwise",
        version=__version__,
        summary="Image segmentation over HTTP.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )

    app.state.models = known

    # --- problems -----------------------------------------------------------------------------------

    @app.exception_handler(Problem)
    async def problem(request: Request, error: Problem) -> Response:
        counters.refused.labels(error.kind).inc()
        return error.response()

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        kind = {404: "not-found", 405: "wrong-method"}.get(error.status_code, "malformed")
        answer = Problem(kind, f"{request.method} {request.url.path[:100]}: {error.detail}").response()
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        name = request.state.request_id
        _LOG.exception("request %s failed", name, exc_info=error)
        return Problem("internal", f"this is a bug: see request {name} in the log of the server").response()

    def named(name: str) -> Served:
        if name not in known:
            raise Problem("no-such-model", f"there is no model {name[:60]!r}: there are {', '.join(known)}")
        return known[name]

    def model_of(name: str) -> Served:
        one = named(name)
        if state["draining"]:
            raise Problem("draining", "the server is stopping", retry_after=5)
        if not one.ready:
            raise Problem("starting", "the model is being warmed up", retry_after=2)
        return one

    async def within(future: "Future[Any]", request: Request) -> Any:
        """The result of a job, unless its client leaves or the time is over."""
        waiting = asyncio.wrap_future(future)
        leaving = asyncio.ensure_future(_left(request))
        try:
            done, _ = await asyncio.wait(
                {waiting, leaving}, timeout=limits.seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if waiting in done:
                return waiting.result()
            future.cancel()
            raise Problem("deadline", f"the answer took longer than {limits.seconds:g} s")
        finally:
            leaving.cancel()

    # --- health -------------------------------------------------------------------------------------

    @app.get("/v1/health/live", summary="Whether the server runs")
    @app.get("/v2/health/live", include_in_schema=False)
    async def live() -> Response:
        return JSONResponse({"live": True})

    @app.get("/v1/health/ready", summary="Whether it takes images")
    @app.get("/v2/health/ready", include_in_schema=False)
    async def ready() -> Response:
        if state["draining"]:
            raise Problem("draining", "the server is stopping", retry_after=5)
        if not all(one.ready for one in models) or not thread.alive:
            raise Problem("starting", "the models are being warmed up", retry_after=2)
        return JSONResponse({"ready": True})

    @app.get("/metrics", summary="Counters, in Prometheus' format")
    async def metrics() -> Response:
        return Response(counters.text(), media_type="text/plain; version=0.0.4")

    # --- models -------------------------------------------------------------------------------------

    @app.get("/v1/models", summary="What is served")
    async def list_models() -> Response:
        return JSONResponse({"models": [one.described() for one in models], "version": __version__})

    @app.get("/v1/models/{model}", summary="One model")
    async def one_model(model: str) -> Response:
        return JSONResponse(named(model).described())

    async def predict_with(one: Served, request: Request) -> Response:
        if one.promptable:
            route = f"/v1/models/{one.name}/images"
            raise Problem("bad-parameter", f"the model {one.name} answers prompts: send the image to {route}")
        thread.check_room()  # before the body is read: a refusal must cost nothing
        times = [time.perf_counter()]
        body, fields, is_hf = await image_of(request, limits)
        given = {**fields, **dict(request.query_params)}
        is_hf = is_hf or "hf_hub/" in request.headers.get("user-agent", "")  # it sends bare files too
        if is_hf and "output" not in given:
            given["output"] = "hf"
            for name in ("subtask", "mask_threshold", "overlap_mask_area_threshold"):
                given.pop(name, None)
        output, options = options_of(given, one.outputs, one.usual_output)
        loop = asyncio.get_running_loop()
        image = await loop.run_in_executor(pool, one.decoded, body, limits.pixels, bool(options.get("unit")))
        times.append(time.perf_counter())
        job = one.predict(image, output, options)
        read = await within(thread.submit(job), request)
        times.append(time.perf_counter())
        answer: Answer = await loop.run_in_executor(pool, OUTPUTS[output].encode, read)
        times.append(time.perf_counter())
        if len(answer.content) > limits.response:
            told = f"the answer has {len(answer.content)} bytes, at most {limits.response} are sent"
            raise Problem("response-too-large", told)
        waited = max(0.0, job.started - job.entered)
        stages = {
            "decode": times[1] - times[0],
            "queue": waited,
            "model": max(0.0, times[2] - times[1] - waited),
            "encode": times[3] - times[2],
        }
        for stage, seconds in stages.items():
            counters.seconds.labels(stage).observe(seconds)
        headers = {
            **answer.headers,
            "Server-Timing": ", ".join(f"{k};dur={1000 * v:.1f}" for k, v in stages.items()),
            "X-Model": f"{one.name}@{one.sha256[:12]}",
        }
        return Response(answer.content, 200, headers, answer.media_type)

    @app.post("/v1/models/{model}/predict", summary="Segment an image", openapi_extra=_IMAGE_BODY)
    async def predict(model: str, request: Request) -> Response:
        return await predict_with(model_of(model), request)

    @app.post("/v1/predict", summary="Segment an image with the first model", openapi_extra=_IMAGE_BODY)
    async def predict_first(request: Request) -> Response:
        return await predict_with(model_of(models[0].name), request)

    # --- prompts ------------------------------------------------------------------------------------

    def promptable(name: str) -> Served:
        one = model_of(name)
        if not one.promptable:
            raise Problem(
                "bad-parameter", f"the model {name} takes no prompts: use /v1/models/{name}/predict"
            )
        return one

    def embedded_in(one: Served, id: str) -> Embedded:
        found = one.embeddings.get(id)
        if found is None:
            raise Problem("no-such-image", "this image is not known, or no more: send it again")
        return found

    @app.post("/v1/models/{model}/images", summary="Look at an image", openapi_extra=_IMAGE_BODY)
    async def add_image(model: str, request: Request) -> Response:
        one = promptable(model)
        thread.check_room()
        body, _, _ = await image_of(request, limits)
        id = hashlib.sha256(body).hexdigest()
        found = one.embeddings.get(id)
        if found is None:
            loop = asyncio.get_running_loop()
            image = await loop.run_in_executor(pool, decode_image, body, limits.pixels)
            found = await within(one.embed(id, image), request)
        told = {"image": id, "height": found.height, "width": found.width, "bytes": found.bytes}
        return JSONResponse(told, 201)

    @app.post("/v1/models/{model}/images/{image}/segment", summary="The object that is pointed at")
    async def segment(model: str, image: str, request: Request) -> Response:
        one = promptable(model)
        found = embedded_in(one, image)
        content = object_of(await body_of(request, 2**20))
        given = prompts_of(content, found.height, found.width, limits.prompts)
        points, box = given.get("points"), given.get("box")
        prompts = Prompts.of(
            None if points is None else torch.tensor([points], dtype=torch.float32),
            None if points is None else torch.tensor([given["labels"]]),
            None if box is None else torch.tensor([box], dtype=torch.float32),
        )
        masks = await within(thread.submit(one.segment(found, prompts, every=given["multimask"])), request)
        told = [{"id": i, "rle": rle, "score": score} for i, (rle, score) in enumerate(masks)]
        return JSONResponse({"masks": told})

    @app.delete("/v1/models/{model}/images/{image}", summary="Forget an image")
    async def forget(model: str, image: str) -> Response:
        if not promptable(model).embeddings.remove(image):
            raise Problem("no-such-image", "this image is not known, or no more")
        return Response(status_code=204)

    # --- Label Studio -------------------------------------------------------------------------------

    async def found_in(one: Served, image: Any, request: Request) -> Any:
        thread.check_room()
        return await within(thread.submit(one.predict(image, label_studio.FOUND, {})), request)

    if images_of_tasks is not None:
        label_studio.add_routes(app, images_of_tasks, limits, pool, model_of, found_in)
    app.include_router(run_routes(models, named, reports, pool))
    app.include_router(label_routes(collection, models, limits, pool))
    app.include_router(sample_routes())

    # --- the page -----------------------------------------------------------------------------------

    files = {path.name: path for path in sorted(PAGE.iterdir()) if path.suffix in _PAGE_TYPES}

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return FileResponse(
            files["index.html"], media_type="text/html", headers={"Cache-Control": "no-cache"}
        )

    @app.get("/page/{name}", include_in_schema=False)
    async def page(name: str) -> Response:
        if name not in files:
            raise Problem("not-found", "there is no such page")
        kind = _PAGE_TYPES[files[name].suffix]
        return FileResponse(files[name], media_type=kind, headers={"Cache-Control": "no-cache"})

    app.add_middleware(Counting, counters=counters)
    app.add_middleware(Guard, token=token, hosts=hosts, origins=origins)
    return app


_IMAGE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"image": {"type": "string", "format": "binary"}},
                    "required": ["image"],
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {"inputs": {"type": "string", "format": "byte"}, "parameters": {}},
                    "required": ["inputs"],
                }
            },
        },
    }
}


async def _left(request: Request) -> None:
    """Returns when the client has gone."""
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            return
