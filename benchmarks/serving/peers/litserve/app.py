"""LitServe: dynamic batching in one worker; a batch is decoded in threads, then computed.

LitServe decodes request by request, on one core; so `decode_request` only hands the bytes on, and
`batch`, its hook for putting a batch together, decodes all of them at once.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import litserve
from fastapi import Body
from torch import Tensor

from benchmarks.serving.peers import classifier
from benchmarks.serving.peers.classifier import Classifier


class Api(litserve.LitAPI):
    """The model behind /predict."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe's signature
        self.classifier = Classifier()

    def decode_request(self, request: Annotated[bytes, Body(media_type="image/jpeg")]) -> bytes:
        return request

    def batch(self, inputs: Sequence[bytes]) -> list[Tensor]:
        return self.classifier.decode_all(inputs)

    def predict(self, x: list[Tensor]) -> list[dict[str, Any]]:
        return self.classifier.predict(x)

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


if __name__ == "__main__":
    api = Api(max_batch_size=classifier.MAX_BATCH_SIZE, batch_timeout=classifier.MAX_WAIT_MS / 1000)
    server = litserve.LitServer(
        api,
        accelerator="cpu",
        workers_per_device=classifier.NUM_WORKERS,
        timeout=classifier.TIMEOUT_S,
    )
    server.run(
        host="127.0.0.1",
        port=classifier.PORT,
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
    )
