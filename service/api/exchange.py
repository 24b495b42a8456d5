"""One request for work: it is let in, read, answered (or refused with a reason), and counted.

The native API and the Open Inference Protocol share this code.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any, TypeVar

from fastapi import Request, Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from service.api import receiving
from service.api.problems import STATUS, problem_response, unexpected_response
from service.errors import NotReadyError, ServiceError, SlowClientError, UnauthorizedError
from service.runtime.runtime import Runtime
from service.telemetry.events import CLIENT_GONE, Call

T = TypeVar("T")
logger = logging.getLogger(__name__)

Arrived = Callable[[int], None]
"""counts bytes that have arrived; raises OverloadedError if there is no room for them"""
Unpack = Callable[[bytes, Arrived], Coroutine[Any, Any, bytes]]
"""(body as it was sent, to be called with the size of each piece) -> body, decompressed"""
Work = Callable[[Call, bytes], Coroutine[Any, Any, Response]]
"""(call, body of the request) -> answer"""


def presented_key(request: Request) -> str | None:
    """The API key that a request carries, if any."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key")


async def authorize(runtime: Runtime, request: Request) -> None:
    """Check that a client may see what is served. A wrong key is counted and logged.

    Raises:
        UnauthorizedError: a key is needed, and this one is missing or unknown.
        NotReadyError: the service is loading or shutting down.
    """
    try:
        runtime.entrance.api_keys.identify(presented_key(request))
    except UnauthorizedError as exc:
        call = Call(request.state.request_id, monotonic(), code=exc.code)
        runtime.record.refused(exc)
        runtime.record.reading_refused(call, request.scope["route"].path, STATUS[type(exc)])
        raise
    runtime.lifecycle.require_serving()


async def exchange(
    runtime: Runtime, request: Request, work: Work, unpack: Unpack | None = None
) -> Response:
    """Read a request and answer it by `work`, unless its client leaves; count and log it.

    Args:
        runtime: the replica.
        request: the request.
        work: answers it.
        unpack: decompresses its body; None: `work` gets the body as it was sent.
    """
    call = Call(request.state.request_id, monotonic())
    status = 500
    try:
        with runtime.record.answering():
            response = await _answer(runtime, request, call, work, unpack)
        status = response.status_code
    except ServiceError as exc:
        runtime.record.refused(exc)
        call.code = exc.code
        response = problem_response(request, exc)
        status = response.status_code
    except ClientDisconnect:
        runtime.record.client_left(call)
        response = Response(status_code=CLIENT_GONE)
        status = CLIENT_GONE
    except Exception:
        logger.exception("unexpected error")
        response = unexpected_response(request)
    finally:
        runtime.record.request_done(call, request.scope["route"].path, status)
    response.headers["server-timing"] = ", ".join(
        f"{name};dur={1000 * seconds:.3f}" for name, seconds in call.timings_s.items()
    )
    return response


async def _answer(
    runtime: Runtime, request: Request, call: Call, work: Work, unpack: Unpack | None
) -> Response:
    """Let the request in, read it, and answer it by `work`.

    Raises:
        ServiceError: the request cannot be answered.
        ClientDisconnect: the client has left.
    """
    runtime.lifecycle.require_serving()
    max_bytes = runtime.settings.max_body_bytes
    announced = receiving.announced_length(request.headers, max_bytes)
    key = presented_key(request)
    with runtime.entrance.enter(key, announced_bytes=announced) as (call.api_key, arrived):
        body = await _receive(request, runtime, arrived)
        call.phase = "queued"

        async def unpack_and_work() -> Response:
            return await work(call, await unpack(body, arrived) if unpack else body)

        try:
            return await _while_connected(request.receive, unpack_and_work())
        except asyncio.CancelledError as exc:
            if not runtime.lifecycle.is_stopping:
                raise
            # The time to drain is over. Without this error, the client would get a bare 500.
            raise NotReadyError("the service has shut down before the answer was there") from exc


async def _receive(request: Request, runtime: Runtime, arrived: Callable[[int], None]) -> bytes:
    settings = runtime.settings
    try:
        async with asyncio.timeout(settings.receive_timeout_s):
            return await receiving.read_body(request, settings.max_body_bytes, arrived)
    except TimeoutError as exc:
        raise SlowClientError(
            f"the body did not arrive within {settings.receive_timeout_s:g} s"
        ) from exc


async def _while_connected(receive: Receive, work: Coroutine[None, None, T]) -> T:
    """Await the work for as long as the client stays connected.

    Raises:
        ClientDisconnect: the client has left; the work is cancelled.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
