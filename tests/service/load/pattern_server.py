"""A server that answers as it is told, and counts what it was asked."""

import asyncio
import itertools
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from aiohttp import web
from anyio.from_thread import start_blocking_portal

DROP = 0
"""instead of a status: the connection is closed without an answer."""
GARBLED = -1
"""instead of a status: 200, and no JSON of ours."""


class PatternServer:
    """Answers with these statuses, in turn, and counts what it did for each kind of request."""

    def __init__(self, *statuses: int, ready: int = 200) -> None:
        """The pattern starts again at its end."""
        self.statuses = itertools.cycle(statuses)
        self.ready = ready
        self.sent: dict[str, Counter[int]] = {}
        self.queries: list[dict[str, str]] = []
        self.bodies: set[bytes] = set()
        self.media_types: set[str] = set()
        self.interrupt_at: int | None = None
        self.hold_from: int | None = None
        self.release = asyncio.Event()

    async def classify(self, request: web.Request) -> web.Response:
        query = dict(request.query)
        self.queries.append(query)
        self.bodies.add(await request.read())
        self.media_types.add(request.content_type)
        if len(self.queries) == self.interrupt_at:
            signal.raise_signal(signal.SIGINT)
        if self.hold_from is not None and len(self.queries) >= self.hold_from:
            await self.release.wait()
        status = next(self.statuses)
        self.sent.setdefault(entry_of(query), Counter())[status] += 1
        if status == DROP:
            assert request.transport is not None
            request.transport.abort()
        if status == GARBLED:
            return web.Response(text="[1, 2]")
        if status != 200:
            headers = {"Location": "/v1/classify"} if status == 307 else {}
            problem = {"detail": "as planned"}
            return web.json_response(problem, status=max(status, 200), headers=headers)
        return web.json_response(
            {
                "tier": query.get("tier", None if "r" in query else "turbo"),
                "timing_ms": {"queue": 1.5, "inference": 20},
                "batch_size": 3,
                "choice": {"reason": "fits"} if "max_latency_ms" in query else None,
            }
        )

    async def readyz(self, _: web.Request) -> web.Response:
        return web.json_response({"detail": "still loading"}, status=self.ready)

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"models": [{"name": "tiny", "max_r": 8}]})

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """On a free port of this machine; gives its URL."""
        app = web.Application()
        app.add_routes(
            [
                web.post("/v1/classify", self.classify),
                web.get("/readyz", self.readyz),
                web.get("/v1/models", self.models),
            ]
        )
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0][:2]
            yield f"http://{host}:{port}"
        finally:
            self.release.set()
            await runner.cleanup()

    @contextmanager
    def in_a_thread(self) -> Iterator[str]:
        """The same beside a test that has no event loop."""
        with (
            start_blocking_portal() as portal,
            portal.wrap_async_context_manager(self.running()) as url,
        ):
            yield url


def entry_of(query: dict[str, str]) -> str:
    """The entry of the mix that asks so."""
    if "r" in query:
        return f"r:{query['r']}"
    return query.get("tier") or f"budget:{query['max_latency_ms']}"
