"""BentoML: adaptive batching in one worker; a batch is decoded in threads, then computed.

A batchable API takes a list, and files come as a form: each request uploads one.
"""

from pathlib import Path
from typing import Any

import bentoml

from benchmarks.serving.peers import classifier
from benchmarks.serving.peers.classifier import Classifier


@bentoml.service(
    name="classify",
    workers=classifier.NUM_WORKERS,
    traffic={"timeout": classifier.TIMEOUT_S},
    logging={"access": {"enabled": False}},
    metrics={"enabled": True},
)
class Api:
    """The model behind /classify."""

    def __init__(self) -> None:
        self.classifier = Classifier()

    @bentoml.api(
        batchable=True,
        max_batch_size=classifier.MAX_BATCH_SIZE,
        max_latency_ms=1000 * classifier.TIMEOUT_S,
    )
    def classify(self, images: list[Path]) -> list[dict[str, Any]]:
        bodies = [image.read_bytes() for image in images]
        return self.classifier.predict(self.classifier.decode_all(bodies))


if __name__ == "__main__":
    bentoml.serve(
        "app:Api",
        working_dir=str(Path(__file__).parent),
        host="127.0.0.1",
        port=classifier.PORT,
        blocking=True,
    )
