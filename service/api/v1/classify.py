"""POST /v1/classify: one image or several, with what the client chose."""

import logging
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from service.api import problems
from service.api.exchange import exchange
from service.api.parameters import ClassifyParameters
from service.api.v1 import bodies, media_types
from service.api.v1.answers import answer
from service.api.v1.schemas import (
    ClassifyManyResponse,
    ClassifyResponse,
    ImageJson,
)
from service.errors import ServiceError
from service.models.served import METHODS
from service.pipeline.request import Outcome
from service.runtime.runtime import Runtime
from service.telemetry.events import Call

logger = logging.getLogger(__name__)


EMPTY = {"type": "string", "maxLength": 0}
NULL = {"type": "null"}


def _parameters() -> dict[str, dict[str, Any]]:
    """The schemas of the parameters. One that is empty or null counts as not given."""
    schemas = ClassifyParameters.model_json_schema()["properties"]
    schemas["method"]["enum"] = list(METHODS)
    for name, schema in schemas.items():
        about = {word: schema.pop(word) for word in ("title", "description", "default")}
        kinds = [kind for kind in schema.pop("anyOf", [{}]) if kind != NULL]
        schemas[name] = {**about, "anyOf": [*({**kind, **schema} for kind in kinds), EMPTY, NULL]}
    return dict(schemas)


def _request_schema() -> dict[str, object]:
    """What `/openapi.json` says of the three forms of a request."""
    parameters = _parameters()
    image_json = ImageJson.model_json_schema()
    image_json["properties"] |= parameters
    binary = {"type": "string", "format": "binary"}
    form = {
        "type": "object",
        "required": [media_types.IMAGE_FIELD],
        "properties": {
            media_types.IMAGE_FIELD: {"type": "array", "items": binary, "minItems": 1},
            **parameters,
        },
        "additionalProperties": False,
    }
    content: dict[str, object] = {
        media_type: {"schema": binary} for media_type in media_types.IMAGE_TYPES
    }
    content[media_types.MULTIPART_TYPE] = {"schema": form}
    content[media_types.JSON_TYPE] = {"schema": image_json}
    return {
        "parameters": [
            {"name": name, "in": "query", "required": False, "schema": schema}
            for name, schema in parameters.items()
        ],
        "requestBody": {"required": True, "content": content},
    }


def create_router(runtime: Runtime) -> APIRouter:
    """The route, for one runtime."""
    router = APIRouter(tags=["classify"])

    @router.post(
        "/v1/classify",
        summary="Classify an image, or several",
        response_model=ClassifyResponse | ClassifyManyResponse,
        responses=problems.documented(*problems.ALL_STATUSES),
        openapi_extra=_request_schema(),
    )
    async def post_classify(request: Request) -> Response:
        """Send the image file as the body, as multipart field `image`, or in JSON as base64."""

        async def work(call: Call, body: bytes) -> Response:
            upload = await bodies.parse(
                body,
                request.headers,
                request.query_params.multi_items(),
                runtime.settings.max_images_per_request,
                runtime.pool.run,
            )
            outcomes = await runtime.classify(upload.images, upload.parameters.wanted(), call)
            if len(outcomes) == 1:
                return JSONResponse(answered(outcomes[0], call).model_dump())
            entries = [entry(request, outcome, call) for outcome in outcomes]
            return JSONResponse({"results": [item.model_dump() for item in entries]})

        return await exchange(runtime, request, work)

    def answered(outcome: Outcome | BaseException, call: Call) -> ClassifyResponse:
        if isinstance(outcome, BaseException):
            raise outcome
        return answer(outcome, call.request_id)

    def entry(
        request: Request, outcome: Outcome | BaseException, call: Call
    ) -> ClassifyResponse | problems.Problem:
        """One image's place in the list: its answer, or what was wrong with it."""
        if isinstance(outcome, ServiceError):
            runtime.record.refused(outcome)
            return problems.problem(request, outcome)
        if isinstance(outcome, Exception):
            logger.error("unexpected error", exc_info=outcome)
            return problems.unexpected(request)
        return answered(outcome, call)

    return router
