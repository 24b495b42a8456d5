"""Agreement on live traffic: some answers are compared with those of the unreduced model."""

import asyncio
import logging
from random import Random
from typing import NamedTuple

from torch import Tensor

from service.accuracy.probe import Infer
from service.backends.contract import Variant
from service.errors import NotReadyError
from service.models.served import ServedModel
from service.telemetry.record import AccuracyRecord

logger = logging.getLogger(__name__)

MAX_WAITING = 8
"""most answers that wait for their comparison; each keeps its pixels in memory until then"""


class Sample(NamedTuple):
    """An answer that a client got."""

    model: ServedModel
    variant: Variant
    tier: str
    pixels: Tensor
    """(3, H, W)"""
    logits: Tensor
    """(K,)"""


class Shadow:
    """Compares a random share of the answers in spare time of the device, and stores no picture."""

    def __init__(
        self,
        infer: Infer,
        record: AccuracyRecord,
        *,
        fraction: float,
        seed: int | None = None,
    ) -> None:
        """Create a shadow; `run` compares.

        Args:
            infer: runs the unreduced model, in spare time.
            record: told of each comparison.
            fraction: share of the answers to compare, 0 ... 1.
            seed: of the random choice; None: a different one in each process.
        """
        self._infer = infer
        self._record = record
        self._fraction = fraction
        self._random = Random(seed)
        self._waiting: asyncio.Queue[Sample] = asyncio.Queue(MAX_WAITING)

    def offer(self, sample: Sample) -> None:
        """Queue this answer for a comparison if the random choice takes it; never waits."""
        if not any(sample.variant.schedule) or self._random.random() >= self._fraction:
            return
        try:
            self._waiting.put_nowait(sample)
        except asyncio.QueueFull:
            self._record.shadow_dropped()

    async def run(self) -> None:
        """Compare the queued answers until the service shuts down."""
        while True:
            sample = await self._waiting.get()
            try:
                await self._compare(sample)
            except NotReadyError:
                return
            except Exception:  # clients are served whatever goes wrong here
                logger.exception("a comparison failed", extra={"model": sample.model.name})

    async def _compare(self, sample: Sample) -> None:
        model = sample.model
        (unreduced,) = await self._infer(model.at("exact"), [sample.pixels])
        agrees = bool(unreduced.argmax() == sample.logits.argmax())
        self._record.shadow_done(model.name, sample.variant.method, sample.tier, agrees=agrees)
