"""The headers of every answer: the request's id, its trace, and whether to close the connection.

This middleware also answers HEAD like GET, without the body, and refuses a target that is too
long before anything parses it.
"""

import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import problem_response
from service.errors import InvalidParameterError, InvalidRequestError, ServiceError
from service.runtime.runtime import Runtime
from service.telemetry.logs import REQUEST_ID, TRACE_ID

ID_HEADER = "x-request-id"
TRACE_HEADER = "traceparent"
ACCEPTABLE_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
LONGEST_TARGET = 8192
"""most bytes of path and query; RFC 9110, 4.1 asks for at least 8000"""
MAX_PARAMETERS = 32
"""most parameters of a query, as of a form; there are about ten. Thousands of them would hold the
event loop while they are parsed and each is refused."""
ACCEPTABLE_TRACE = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


class CommonHeaders:
    """Pure ASGI middleware. `BaseHTTPMiddleware` would hide that a client has left."""

    def __init__(self, app: ASGIApp, runtime: Runtime) -> None:
        self._app = app
        self._lifecycle = runtime.lifecycle
        self._record = runtime.record

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the request's id to its state, to the log and to the headers of its answer.

        Each route that answers GET also answers HEAD.
        """
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = headers.get(ID_HEADER, "")
        if not ACCEPTABLE_ID.fullmatch(request_id):
            request_id = uuid.uuid4().hex
        trace = ACCEPTABLE_TRACE.fullmatch(headers.get(TRACE_HEADER, ""))
        scope.setdefault("state", {})["request_id"] = request_id
        REQUEST_ID.set(request_id)
        TRACE_ID.set(trace.group(1) if trace else None)

        is_head = scope["method"] == "HEAD"
        if is_head:
            # A copy: the server still has to see HEAD, because the answer has no body.
            scope = {**scope, "method": "GET"}

        async def send_with_headers(message: Message) -> None:
            if is_head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            if message["type"] == "http.response.start":
                sent = MutableHeaders(scope=message)
                sent[ID_HEADER] = request_id
                if trace:
                    sent[TRACE_HEADER] = trace.group()
                if self._lifecycle.is_stopping:
                    # The connection is about to end: a next request on it would be lost.
                    sent["connection"] = "close"
            await send(message)

        await self._answer(scope, receive, send_with_headers)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if fault := _fault_of_target(scope):
            self._record.refused(fault)
            await problem_response(Request(scope), fault)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _fault_of_target(scope: Scope) -> ServiceError | None:
    """What is wrong with path and query, before they are parsed."""
    query: bytes = scope["query_string"]
    num_bytes = len(scope["raw_path"]) + len(query)
    if num_bytes > LONGEST_TARGET:
        return InvalidRequestError(
            f"path and query have {num_bytes} bytes; allowed are {LONGEST_TARGET}. Images go into "
            "the body"
        )
    num_parameters = query.count(b"&") + 1
    if num_parameters > MAX_PARAMETERS:
        return InvalidParameterError(
            f"the query string has {num_parameters} parameters; allowed are {MAX_PARAMETERS}"
        )
    return None
