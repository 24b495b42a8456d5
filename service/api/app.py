"""The HTTP application over a runtime."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp

from service.api import cross_origin, health, problems
from service.api.cross_origin import CrossOrigin
from service.api.headers import CommonHeaders
from service.api.open_inference import routes as open_inference
from service.api.v1 import classify, models
from service.runtime.runtime import Runtime
from service.settings import Settings

DESCRIPTION = (
    "Vision Transformer classifiers that let every request choose how much of the network's work "
    "to skip: `tier`, or the number `r` of tokens to remove in every block."
)


class _Application(FastAPI):
    """An application whose every answer has the common headers, and those for CORS."""

    def __init__(self, runtime: Runtime, **described: Any) -> None:
        super().__init__(**described)
        self._runtime = runtime

    def build_middleware_stack(self) -> ASGIApp:
        """Wrap the whole stack. `add_middleware` would leave out the answer to an unknown error."""
        stack = super().build_middleware_stack()
        if origins := self._runtime.settings.cors_origins:
            stack = CrossOrigin(stack, origins)
        return CommonHeaders(stack, self._runtime)


def create_app(settings: Settings, runtime: Runtime | None = None) -> FastAPI:
    """Build the application. Its lifespan starts the runtime and stops it.

    Args:
        settings: the settings for a new runtime.
        runtime: the runtime to use; None: a new one with these settings.

    Raises:
        SettingsError: the API keys cannot be read, the device cannot do what is set, or an origin
            is none.
    """
    runtime = runtime or Runtime(settings)
    cross_origin.check(runtime.settings.cors_origins)
    runtime.record.expect_statuses(problems.ALL_STATUSES)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        runtime.start()
        yield
        await runtime.stop()

    app = _Application(
        runtime,
        title="rapid-vit",
        version=version("rapid-vit"),
        description=DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    problems.install(app)
    app.include_router(classify.create_router(runtime))
    app.include_router(models.create_router(runtime))
    app.include_router(open_inference.create_router(runtime))
    app.include_router(health.create_router(runtime))
    return app
