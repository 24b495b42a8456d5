"""The Open Inference Protocol v2, as the clients of KServe and Triton speak it, under /v2."""

from functools import partial
from importlib.metadata import version

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from service.api import problems
from service.api.exchange import Arrived, authorize, exchange
from service.api.open_inference.codec import LENGTH_HEADER
from service.api.open_inference.content_encoding import inflate
from service.api.open_inference.documents import (
    EXTENSIONS,
    VERSION,
    configuration,
    metadata,
    statistics,
)
from service.api.open_inference.translate import respond, understand
from service.errors import ImageRejectedError, ModelNotFoundError, TooLargeError
from service.models.served import ServedModel
from service.pipeline.request import Outcome
from service.runtime.runtime import Runtime
from service.telemetry.events import Call

MODEL = "/v2/models/{name}"
VERSIONED = MODEL + "/versions/{version}"
BINARY = "application/octet-stream"
INFER_SCHEMA = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "id": {"type": "string"},
                        "parameters": {"type": "object"},
                        "inputs": {"type": "array", "minItems": 1, "items": {"type": "object"}},
                        "outputs": {"type": "array", "items": {"type": "object"}},
                    },
                }
            },
            BINARY: {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


def create_router(runtime: Runtime) -> APIRouter:
    """The routes, for one runtime."""
    settings = runtime.settings
    router = APIRouter(tags=["open inference protocol"])
    router.include_router(_health(runtime))
    router.include_router(_models(runtime))
    max_images = settings.max_images_per_request

    @router.post(
        VERSIONED + "/infer",
        responses=problems.documented_v2(*problems.ALL_STATUSES),
        openapi_extra=INFER_SCHEMA,
    )
    @router.post(
        MODEL + "/infer",
        responses=problems.documented_v2(*problems.ALL_STATUSES),
        openapi_extra=INFER_SCHEMA,
    )
    async def infer(request: Request, name: str, version: str = VERSION) -> Response:
        """Classify pictures (`image`, BYTES) or normalised pixels (`pixel_values`, FP32)."""

        async def unpack(body: bytes, arrived: Arrived) -> bytes:
            return await inflate(
                body,
                request.headers.get("content-encoding", "identity"),
                settings.max_body_bytes,
                in_a_thread=runtime.pool.run,
                arrived=arrived,
            )

        async def work(call: Call, body: bytes) -> Response:
            model = _find(runtime, name, version)
            call.model = model.name
            asked = await runtime.pool.run(understand, body, request.headers, model, max_images)
            outcomes = await runtime.classify(asked.pictures, asked.wanted, call)
            answered = _all_or_none(outcomes)
            content, json_length = await runtime.pool.run(respond, model, asked, answered)
            if json_length is None:
                return Response(content, media_type="application/json")
            return Response(content, media_type=BINARY, headers={LENGTH_HEADER: str(json_length)})

        return await exchange(runtime, request, work, unpack)

    return router


def _health(runtime: Runtime) -> APIRouter:
    router = APIRouter()
    # Once, because `version` reads it from the disk.
    server = {"name": "rapid-vit", "version": version("rapid-vit"), "extensions": EXTENSIONS}

    @router.get("/v2/", include_in_schema=False)
    @router.get("/v2")
    async def show_server() -> Response:
        """Name, version and extensions of the server."""
        return JSONResponse(server)

    @router.get("/v2/health/live", responses=problems.documented_v2(503))
    async def live() -> Response:
        """Alive: 200 unless the process should be restarted."""
        runtime.lifecycle.require_alive()
        return JSONResponse({"live": True})

    @router.get("/v2/health/ready", responses=problems.documented_v2(503))
    async def ready() -> Response:
        """Ready: 200 while requests are welcome, 503 while loading or draining."""
        runtime.lifecycle.require_ready()
        return JSONResponse({"ready": True})

    return router


def _models(runtime: Runtime) -> APIRouter:
    router = APIRouter(
        dependencies=[Depends(partial(authorize, runtime))],
        responses=problems.documented_v2(401, 404, 503),
    )

    def counts_of(model: ServedModel) -> dict[str, object]:
        return statistics(model.name, runtime.record.statistics(model.name))

    @router.get("/v2/models")
    async def list_models() -> Response:
        """Names of the loaded models."""
        return JSONResponse({"models": [model.name for model in runtime.models]})

    @router.get("/v2/models/stats")
    async def show_all_statistics() -> Response:
        """Counts and durations of every model."""
        return JSONResponse({"model_stats": [counts_of(model) for model in runtime.models]})

    @router.get(VERSIONED)
    @router.get(MODEL)
    async def show_model(name: str, version: str = VERSION) -> Response:
        """Inputs and outputs of a model."""
        return JSONResponse(metadata(_find(runtime, name, version)))

    @router.get(VERSIONED + "/ready")
    @router.get(MODEL + "/ready")
    async def model_ready(name: str, version: str = VERSION) -> Response:
        """Whether a model is loaded and the service ready."""
        runtime.lifecycle.require_ready()
        return JSONResponse({"name": _find(runtime, name, version).name, "ready": True})

    @router.get(VERSIONED + "/config")
    @router.get(MODEL + "/config")
    async def show_configuration(name: str, version: str = VERSION) -> Response:
        """A model's configuration, as Triton writes it."""
        model = _find(runtime, name, version)
        return JSONResponse(configuration(model, runtime.settings.max_images_per_request))

    @router.get(VERSIONED + "/stats")
    @router.get(MODEL + "/stats")
    async def show_statistics(name: str, version: str = VERSION) -> Response:
        """Counts and durations of a model."""
        return JSONResponse({"model_stats": [counts_of(_find(runtime, name, version))]})

    return router


def _find(runtime: Runtime, name: str, version: str) -> ServedModel:
    model = runtime.models.find(name)
    if version != VERSION:
        raise ModelNotFoundError(f"no version {version!r} of {name!r} here; there is: {VERSION}")
    return model


def _all_or_none(outcomes: list[Outcome | BaseException]) -> list[Outcome]:
    """All outcomes, if no image failed: an answer of the protocol cannot hold an error.

    Raises:
        ServiceError: the first error; a rejected image is named by its number.
    """
    answered = []
    for number, outcome in enumerate(outcomes):
        if isinstance(outcome, ImageRejectedError | TooLargeError):
            raise type(outcome)(f"image {number}: {outcome}") from outcome
        if isinstance(outcome, BaseException):
            raise outcome
        answered.append(outcome)
    return answered
