"""`Runtime`: one replica without HTTP, from its start to its end."""

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Sequence
from time import monotonic
from typing import NamedTuple, Self

from service.backends import malloc
from service.errors import ModelLoadError
from service.images.processes import room
from service.pipeline.request import Outcome, Picture, Wanted
from service.runtime import startup
from service.runtime.build import build
from service.runtime.lifecycle import Phase
from service.settings import Settings
from service.telemetry.events import Call, WayChosen

logger = logging.getLogger(__name__)


class Status(NamedTuple):
    """How a replica is doing, for an autoscaler."""

    phase: Phase
    backlog_s: float
    """forecast of the seconds until all images inside have been computed"""
    saturation: float
    """how close the replica is to refusing requests, 0 ... 1: by room, or by time"""


class Runtime:
    """One replica. Used from one event loop only.

    ```python
    async with Runtime(Settings()) as runtime:
        outcomes = await runtime.classify([photo], Wanted(tier="fast", top_k=3))
        print(outcomes[0].predictions)
    ```
    """

    def __init__(self, settings: Settings) -> None:
        """Build a replica; nothing of it runs yet.

        Raises:
            SettingsError: the API keys cannot be read, or the device cannot do what is set.
        """
        self.settings = settings
        parts = build(settings)
        self.lifecycle = parts.lifecycle
        self.entrance = parts.entrance
        self.probe = parts.probe
        self.pipeline = parts.pipeline
        self.forecast = parts.forecast
        self.models = parts.pipeline.models
        self.pool = parts.pipeline.pool
        self.record = parts.pipeline.record
        self.ways: dict[str, WayChosen] = {}
        """how each model computes, and why"""
        self._parts = parts
        self._engine = parts.engine
        self._batcher = parts.pipeline.batcher
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Start, and wait until the models are warm.

        Raises:
            ModelLoadError: a model cannot be served.
            NotReadyError: the replica was drained before it was ready.
        """
        self.start()
        try:
            await self.lifecycle.wait_until_loaded()
            for task in self._tasks:
                if task.done():
                    task.result()
            self.lifecycle.require_serving()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        await self.stop()

    def start(self) -> None:
        """Begin to load the models, to compute and to probe; `lifecycle` tells the phase."""
        self._tasks = [
            asyncio.create_task(self._load_and_probe()),
            asyncio.create_task(self._batcher.run()),
            asyncio.create_task(self._batcher.watch(self.settings.batch_timeout_s)),
        ]
        if self.pipeline.shadow is not None:
            self._tasks.append(asyncio.create_task(self.pipeline.shadow.run()))
        for task in self._tasks:
            task.add_done_callback(self._fail_with)

    async def stop(self) -> None:
        """Give an error to all who still wait, and end all tasks; the threads end by themselves."""
        self.drain()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # Not waited for: nobody needs what the threads still compute, and a stuck one never ends.
        self.pool.close()
        self._engine.close()

    def classify(
        self, pictures: Sequence[Picture], wanted: Wanted | None = None, call: Call | None = None
    ) -> Awaitable[list[Outcome | BaseException]]:
        """Classify some pictures. One that fails does not affect the others.

        Args:
            pictures: image files, or pixels (3, H, W) as the model's own transform gives them.
            wanted: the choices of the client; None: the defaults.
            call: the request that an API has noted for them; None: a new one.

        Returns:
            Outcome or error of each, in order.

        Raises:
            ServiceError: one of its kinds, if there is no answer for any of them.
        """
        if call is None:
            self.lifecycle.require_serving()  # an API that passes a call has checked this
            call = Call(uuid.uuid4().hex, monotonic())
        return self.pipeline.classify(pictures, wanted or Wanted(), call)

    def leave(self) -> None:
        """Ask for no new traffic; requests that still come are served."""
        self.lifecycle.leave()

    def drain(self) -> None:
        """Finish accepted work, and refuse new work."""
        self.lifecycle.drain()
        self._batcher.drain()

    def status(self) -> Status:
        """How the replica is doing."""
        return Status(self.lifecycle.phase, self._batcher.backlog_s, self._parts.saturation)

    async def _load_and_probe(self) -> None:
        """Make the replica ready; then probe until cancelled, if the settings say so.

        Raises:
            ModelLoadError: a model cannot be served, or its probe pictures cannot be used.
        """
        folders = startup.probe_folders(self.settings)
        models = startup.load_models(self.settings, self._engine, self._choose_way)
        async for model, warm_variants in models:
            for variant, warm in warm_variants.items():
                self._parts.warmed_up(variant, warm)
            self.models.add(model)
            self.record.model_loaded(startup.loaded(model))
        probe_sets = [
            (model, startup.read_probe_set(folders[model.name], model, self.settings))
            for model in self.models
            if model.name in folders
        ]
        await self.pool.start(room.for_pictures(self.settings.max_queue_bytes))
        malloc.give_back_freed_memory()
        self.lifecycle.loaded()
        logger.info("ready")
        if self.settings.probe_interval_s > 0:
            await self.probe.run(probe_sets, self.settings.probe_interval_s)

    def _choose_way(self, way: WayChosen) -> None:
        self.ways[way.model] = way
        self.record.way_chosen(way)

    def _fail_with(self, task: asyncio.Task[None]) -> None:
        """Mark the replica as failed if one of its tasks has ended with an error."""
        if task.cancelled() or (error := task.exception()) is None:
            return
        # A model's error explains itself, to clients as well. Any other one is logged with its
        # traceback.
        is_of_model = isinstance(error, ModelLoadError)
        if is_of_model:
            self.lifecycle.fail(str(error))
        else:
            self.lifecycle.fail()
        place = None if is_of_model else error
        logger.critical("the service cannot go on: %s", error, exc_info=place)
