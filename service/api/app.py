"""The HTTP application over a runtime."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from service.api import health, problems
from service.api.headers import CommonHeaders
from service.api.open_inference import routes as open_inference
from service.api.v1 import classify, models
from service.runtime.runtime import Runtime
from service.settings import Settings

DESCRIPTION = (
    "Vision Transformer classifiers that let every request choose how much of the network's work "
    "to skip: `tier`, or the number `r` of tokens to remove in every block."
)


def create_app(settings: Settings, runtime: Runtime | None = None) -> FastAPI:
    """Build the application. Its lifespan starts the runtime and stops it.

    Args:
        settings: the settings for a new runtime.
        runtime: the runtime to use; None: a new one with these settings.

    Raises:
        SettingsError: the API keys cannot be read, or the device cannot do what is set.
    """
    runtime = runtime or Runtime(settings)
    runtime.record.expect_statuses(problems.ALL_STATUSES)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        runtime.start()
        yield
        await runtime.stop()

    app = FastAPI(
        title="rapid-vit",
        version=version("rapid-vit"),
        description=DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.add_middleware(CommonHeaders, runtime=runtime)
    problems.install(app)
    app.include_router(classify.create_router(runtime))
    app.include_router(models.create_router(runtime))
    app.include_router(open_inference.create_router(runtime))
    app.include_router(health.create_router(runtime))
    return app
