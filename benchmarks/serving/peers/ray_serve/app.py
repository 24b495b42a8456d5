"""Ray Serve: `@serve.batch` in one replica; decoding and the model in threads beside its loop."""

import asyncio
import signal
from typing import Any

import ray
from ray import serve
from starlette.requests import Request
from torch import Tensor

from benchmarks.serving.peers import classifier
from benchmarks.serving.peers.classifier import Classifier

MAX_INSIDE = 256


@serve.deployment(
    num_replicas=classifier.NUM_WORKERS,
    max_ongoing_requests=MAX_INSIDE,
    ray_actor_options={"num_cpus": classifier.NUM_THREADS},
)
class Api:
    """The model behind /."""

    def __init__(self) -> None:
        self.classifier = Classifier()

    @serve.batch(
        max_batch_size=classifier.MAX_BATCH_SIZE,
        batch_wait_timeout_s=classifier.MAX_WAIT_MS / 1000,
    )
    async def predict(self, pixels: list[Tensor]) -> list[dict[str, Any]]:
        return await asyncio.to_thread(self.classifier.predict, pixels)

    async def __call__(self, request: Request) -> dict[str, Any]:
        body, loop = await request.body(), asyncio.get_running_loop()
        pixels = await loop.run_in_executor(self.classifier.threads, self.classifier.decode, body)
        return await self.predict(pixels)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    num_cores = classifier.NUM_WORKERS * classifier.NUM_THREADS
    ray.init(num_cpus=num_cores, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": classifier.PORT})
    try:
        serve.run(Api.bind(), blocking=True)
    finally:
        ray.shutdown()
