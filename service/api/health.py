"""The routes for probes and metrics: alive, ready, and all metrics."""

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from service.api import problems
from service.api.scrapes import Scrapes
from service.runtime.runtime import Runtime
from service.telemetry.record import MEDIA_TYPE


class Health(BaseModel):
    """Whether the service is alive or ready."""

    status: str


def create_router(runtime: Runtime) -> APIRouter:
    """The routes, for one runtime."""
    router = APIRouter(tags=["operations"])
    scrapes = Scrapes(runtime.record.render)

    @router.get("/livez", response_model=Health, responses=problems.documented(503))
    async def livez() -> Response:
        """Alive: 200 unless the process should be restarted."""
        runtime.lifecycle.require_alive()
        return JSONResponse({"status": "alive"})

    @router.get("/readyz", response_model=Health, responses=problems.documented(503))
    @router.get("/healthz", response_model=Health, responses=problems.documented(503))
    async def readyz() -> Response:
        """Ready: 200 while requests are welcome, 503 while loading or draining."""
        runtime.lifecycle.require_ready()
        return JSONResponse({"status": "ready"})

    @router.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """All metrics in Prometheus' text format."""
        return Response(await scrapes.text(), media_type=MEDIA_TYPE)

    return router
