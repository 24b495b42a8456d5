"""Errors as problem documents (RFC 9457), and with `error` for the Open Inference Protocol.

Only this module maps errors to HTTP statuses.
"""

from collections.abc import Iterable, Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import Match

from service import errors
from service.errors import ServiceError


class Problem(BaseModel):
    """An error, RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str


STATUS: dict[type[ServiceError], int] = {
    errors.InvalidRequestError: 400,
    errors.ImageRejectedError: 400,
    errors.UnauthorizedError: 401,
    errors.ModelNotFoundError: 404,
    errors.SlowClientError: 408,
    errors.TooLargeError: 413,
    errors.UnsupportedMediaError: 415,
    errors.InvalidParameterError: 422,
    errors.OverloadedError: 429,
    errors.TooManyRequestsError: 429,
    errors.InferenceError: 500,
    errors.OutOfDeviceMemoryError: 500,
    errors.NotReadyError: 503,
    errors.DeadlineExceededError: 504,
}

ALL_STATUSES = sorted(set(STATUS.values()))
"""all statuses of a request for work that fails"""

MEDIA_TYPE = "application/problem+json"
OPEN_INFERENCE = "/v2"
OPEN_INFERENCE_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}},
}
LONGEST_DETAIL = 500
"""most characters of `detail`, which may quote the request"""

Documented = dict[int | str, dict[str, object]]
"""status -> its entry in `/openapi.json`"""


def problem(request: Request, error: ServiceError) -> Problem:
    """Describe an error to the client."""
    return _problem(request, STATUS[type(error)], str(error), error.code)


def problem_response(request: Request, error: ServiceError) -> JSONResponse:
    """Answer a request with an error."""
    return _response(problem(request, error), _headers(error))


def unexpected(request: Request) -> Problem:
    """Describe an error of an unknown kind. The caller logs it."""
    detail = "an unexpected error; it was logged under the request id"
    return _problem(request, 500, detail, "internal")


def unexpected_response(request: Request) -> JSONResponse:
    """Answer a request with an error of an unknown kind."""
    return _response(unexpected(request), None)


def _headers(error: ServiceError) -> dict[str, str]:
    """Headers that go with an error."""
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    if isinstance(error, errors.UnauthorizedError):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, errors.SlowClientError):
        headers["Connection"] = "close"
    return headers


def documented(*statuses: int) -> Documented:
    """What `/openapi.json` says of these statuses."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return _documented(statuses, content)


def documented_v2(*statuses: int) -> Documented:
    """What `/openapi.json` says of these statuses under `/v2`."""
    return _documented(statuses, {"application/json": {"schema": OPEN_INFERENCE_ERROR}})


def install(app: FastAPI) -> None:
    """Make every error of the app a problem document."""

    @app.exception_handler(ServiceError)
    async def _(request: Request, exc: ServiceError) -> JSONResponse:
        return problem_response(request, exc)

    @app.exception_handler(HTTPException)
    async def _(request: Request, exc: HTTPException) -> JSONResponse:
        code = HTTPStatus(exc.status_code).phrase.lower().replace(" ", "_")
        detail = f"{request.method} {request.url.path}: {exc.detail}"
        if exc.status_code == HTTPStatus.NOT_FOUND:
            detail += f"{_elsewhere(app, request)}; /docs lists what there is"
        elif allowed := (exc.headers or {}).get("Allow"):
            detail += _instead(request, allowed)
        return _response(_problem(request, exc.status_code, detail, code), exc.headers)

    @app.exception_handler(RequestValidationError)
    async def _(request: Request, exc: RequestValidationError) -> JSONResponse:
        detail = "; ".join(f"{error['loc'][-1]}: {error['msg']}" for error in exc.errors())
        return problem_response(request, errors.InvalidParameterError(detail))

    @app.exception_handler(Exception)
    async def _(request: Request, _: Exception) -> JSONResponse:
        return unexpected_response(request)


def _elsewhere(app: FastAPI, request: Request) -> str:
    """Where a request for an unknown path should perhaps have gone."""
    path = request.url.path
    tidy = "/" + "/".join(name for name in path.split("/") if name)
    scope = {**request.scope, "path": tidy}
    if tidy != path and any(route.matches(scope)[0] != Match.NONE for route in app.routes):
        return f"; did you mean {tidy}?"
    is_work = request.method == "POST" and not path.startswith(OPEN_INFERENCE)
    return "; images go to POST /v1/classify" if is_work else ""


def _instead(request: Request, allowed: str) -> str:
    """Which methods a path has. A preflight comes here only if no origin is allowed."""
    if request.method == "OPTIONS" and "access-control-request-method" in request.headers:
        return (
            f"; allowed: {allowed}. Pages of other origins may call if RAPID_CORS_ORIGINS says so"
        )
    return f"; allowed: {allowed}"


def _documented(statuses: Iterable[int], content: object) -> Documented:
    return {
        status: {"description": HTTPStatus(status).phrase, "content": content}
        for status in statuses
    }


def _problem(request: Request, status: int, detail: str, code: str) -> Problem:
    return Problem(
        type="about:blank",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail if len(detail) <= LONGEST_DETAIL else f"{detail[:LONGEST_DETAIL]}...",
        instance=request.url.path,
        code=code,
        request_id=request.state.request_id,
    )


def _response(problem: Problem, headers: Mapping[str, str] | None) -> JSONResponse:
    document = problem.model_dump()
    if problem.instance.startswith(OPEN_INFERENCE):
        # Clients of this protocol read `error`; one of them reads it only with this media type.
        document = {"error": problem.detail, **document}
        return JSONResponse(document, problem.status, headers=headers)
    return JSONResponse(document, problem.status, headers=headers, media_type=MEDIA_TYPE)
