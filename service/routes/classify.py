"""POST /v1/classify: one image or several, with what the client chose."""

import asyncio
from contextlib import ExitStack
from time import monotonic

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from service.classify import Service, choose, classify
from service.errors import DeadlineExceededError, ServiceError
from service.metrics import CUSTOM_TIER, UNKNOWN
from service.routes import bodies, problems
from service.schemas import (
    ClassifyManyResponse,
    ClassifyParameters,
    ClassifyResponse,
    ImageJson,
    Problem,
)
from service.settings import Settings

CLIENT_GONE = 499
"""never seen by a client: the status under which a request counts that its client gave up."""


def _request_schema() -> dict[str, object]:
    """What `/openapi.json` says of the three forms of a request."""
    parameters = ClassifyParameters.model_json_schema()["properties"]
    binary = {"type": "string", "format": "binary"}
    form = {
        "type": "object",
        "required": [bodies.IMAGE_FIELD],
        "properties": {
            bodies.IMAGE_FIELD: {"type": "array", "items": binary, "minItems": 1},
            **parameters,
        },
        "additionalProperties": False,
    }
    content: dict[str, object] = {
        media_type: {"schema": binary} for media_type in bodies.IMAGE_TYPES
    }
    content[bodies.MULTIPART_TYPE] = {"schema": form}
    content[bodies.JSON_TYPE] = {"schema": ImageJson.model_json_schema()}
    return {
        "parameters": [
            {"name": name, "in": "query", "required": False, "schema": schema}
            for name, schema in parameters.items()
        ],
        "requestBody": {"required": True, "content": content},
    }


def create_router(service: Service, settings: Settings) -> APIRouter:
    """The route, for one service."""
    router = APIRouter(tags=["classify"])

    @router.post(
        "/v1/classify",
        summary="Classify an image, or several",
        response_model=ClassifyResponse | ClassifyManyResponse,
        responses=problems.documented(*sorted(problems.STATUS.values())),
        openapi_extra=_request_schema(),
    )
    async def post_classify(request: Request) -> Response:
        """Send the image file as the body, as multipart field `image`, or in JSON as base64."""
        arrival = monotonic()
        labels = [UNKNOWN, UNKNOWN]
        status = 500
        with service.metrics.inflight_requests.track_inprogress():
            try:
                response = await answer(request, arrival, labels)
                status = response.status_code
            except ServiceError as exc:
                service.metrics.rejected.labels(exc.code).inc()
                response = problems.problem_response(request, exc)
                status = response.status_code
            except (ClientDisconnect, asyncio.CancelledError):
                status = CLIENT_GONE
                raise
            finally:
                service.metrics.requests.labels(*labels, str(status)).inc()
                service.metrics.request_seconds.labels(*labels).observe(monotonic() - arrival)
        return response

    async def answer(request: Request, arrival: float, labels: list[str]) -> Response:
        """Read, understand and classify; `labels` are set as soon as they are known."""
        service.lifecycle.require_ready()
        with ExitStack() as places:
            num_bytes = bodies.expected_length(request.headers, settings.max_body_bytes)
            places.enter_context(service.admission.enter(num_bytes=num_bytes))
            upload = await receive(request, arrival)
            model, reduction = choose(service, upload.parameters)
            labels[:] = model.name, reduction.tier or CUSTOM_TIER
            places.enter_context(service.admission.enter(num_images=len(upload.images)))
            answers = await asyncio.gather(
                *(
                    classify(
                        service,
                        image,
                        upload.parameters,
                        arrival=arrival,
                        request_id=request.state.request_id,
                    )
                    for image in upload.images
                ),
                return_exceptions=True,
            )
        if len(answers) == 1:
            return JSONResponse(_result(answers[0]).model_dump())
        return JSONResponse({"results": [_entry(request, item).model_dump() for item in answers]})

    async def receive(request: Request, arrival: float) -> bodies.Upload:
        deadline_s = settings.deadline_ms / 1000
        try:
            async with asyncio.timeout(arrival + deadline_s - monotonic()):
                body = await bodies.read_body(request, settings.max_body_bytes)
                return await bodies.parse(
                    body,
                    request.headers,
                    request.query_params.multi_items(),
                    settings.max_images_per_request,
                    service.decoders,
                )
        except TimeoutError as exc:
            raise DeadlineExceededError(f"the body did not arrive within {deadline_s:g} s") from exc

    def _entry(
        request: Request, item: ClassifyResponse | BaseException
    ) -> ClassifyResponse | Problem:
        """One image's place in the list: its answer, or what was wrong with it."""
        if isinstance(item, ServiceError):
            service.metrics.rejected.labels(item.code).inc()
            return problems.problem(request, item)
        return _result(item)

    return router


def _result(item: ClassifyResponse | BaseException) -> ClassifyResponse:
    if isinstance(item, BaseException):
        raise item
    return item
