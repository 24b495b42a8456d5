"""CORS: pages of other origins may call the service, where the settings allow it."""

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api import problems
from service.errors import InvalidRequestError, SettingsError

EVERY_ORIGIN = "*"
NO_ORIGIN = "null"
"""what a browser sends for a page from a file, for example"""
METHODS = ("GET", "HEAD", "POST")
REQUEST_HEADERS = (
    *("content-encoding", "inference-header-content-length"),
    *("authorization", "x-api-key", "x-request-id", "traceparent", "tracestate"),
    *("cache-control", "x-requested-with"),  # upload libraries send these by themselves
)
"""what a page may send beside Content-Type, which starlette adds"""
ANSWER_HEADERS = (
    *("x-request-id", "traceparent", "server-timing", "retry-after", "www-authenticate"),
    "inference-header-content-length",
)
"""what a page may read, beside the headers that need no permission"""
MAX_AGE_S = 3600
"""seconds for which a browser may remember the answer to a preflight"""
USUAL_PORTS = {"http": 80, "https": 443}
HOST = re.compile(r"[\w.:-]+", re.ASCII)


def check(origins: Sequence[str]) -> None:
    """Check the origins that the settings allow.

    Raises:
        SettingsError: one of them would never match, because no browser sends it.
    """
    if EVERY_ORIGIN in origins and len(origins) > 1:
        raise SettingsError("RAPID_CORS_ORIGINS: '*' allows every origin; leave out the others")
    for origin in origins:
        sent = origin if origin in (EVERY_ORIGIN, NO_ORIGIN) else _as_sent(origin)
        if sent != origin:
            needed = (
                f"did you mean {sent}?" if sent else "needed is scheme://host or scheme://host:port"
            )
            raise SettingsError(
                f"RAPID_CORS_ORIGINS: {origin!r} is not an origin as browsers send it; {needed}"
            )


class CrossOrigin(CORSMiddleware):
    """Starlette's middleware for CORS. A preflight that it refuses gets a problem document."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        """Wrap an application.

        Args:
            app: the application.
            origins: the allowed ones, checked; or `*` alone, for every one.
        """
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=METHODS,
            allow_headers=REQUEST_HEADERS,
            expose_headers=ANSWER_HEADERS,
            max_age=MAX_AGE_S,
        )
        self.allow_headers.append("")  # what an empty list of headers consists of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a preflight. Pass any other request on, and add headers to its answer."""
        if scope["type"] == "http" and is_preflight(request := Request(scope)):
            answer = self._permission(request)
            await answer(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def _permission(self, request: Request) -> Response:
        answer = self.preflight_response(request.headers)
        if answer.status_code == 200:
            return answer
        refused = bytes(answer.body).decode().removeprefix("Disallowed CORS ")
        error = InvalidRequestError(
            f"CORS: not allowed here: {refused}. Allowed are the origins of RAPID_CORS_ORIGINS, "
            f"the methods {', '.join(METHODS)} and the headers {', '.join(REQUEST_HEADERS)}"
        )
        problem = problems.problem_response(request, error)
        problem.headers["vary"] = answer.headers["vary"]
        return problem


def is_preflight(request: Request) -> bool:
    """Whether a browser asks if a page of another origin may send a request."""
    needed = {"origin", "access-control-request-method"}
    return request.method == "OPTIONS" and needed <= set(request.headers)


def _as_sent(origin: str) -> str:
    """The header `Origin` of a page of this origin; empty if it has no scheme or no host."""
    try:
        parts = urlsplit(origin)
        host = (parts.hostname or "").encode("idna").decode()
        port = parts.port
    except ValueError:
        return ""
    if not parts.scheme or not HOST.fullmatch(host):
        return ""
    if ":" in host:
        host = f"[{host}]"  # an address of IPv6
    is_usual = port is None or port == USUAL_PORTS.get(parts.scheme)
    return f"{parts.scheme}://{host}" + ("" if is_usual else f":{port}")
