"""The headers of every answer: the request's id, its trace, and whether to close the connection.

This middleware also answers HEAD like GET, without the body.
"""

import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.runtime.lifecycle import Lifecycle
from service.telemetry.logs import REQUEST_ID, TRACE_ID

ID_HEADER = "x-request-id"
TRACE_HEADER = "traceparent"
ACCEPTABLE_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
ACCEPTABLE_TRACE = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


class CommonHeaders:
    """Pure ASGI middleware. `BaseHTTPMiddleware` would hide that a client has left."""

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle) -> None:
        self._app = app
        self._lifecycle = lifecycle

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

        await self._app(scope, receive, send_with_headers)
