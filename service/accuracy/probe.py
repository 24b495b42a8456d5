"""Live accuracy: labelled pictures run through every tier, while the device has time to spare."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from torch import Tensor

from service import tiers
from service.accuracy.counts import Measured
from service.accuracy.probe_set import ProbeSet
from service.backends.contract import Variant
from service.errors import NotReadyError
from service.images.pool import Decoder
from service.models.served import ServedModel
from service.telemetry.metrics import Metrics
from service.tiers import TIERS, Tier

logger = logging.getLogger(__name__)

Infer = Callable[[Variant, Sequence[Tensor]], Awaitable[Sequence[Tensor]]]
"""images (3, H, W) -> logits (K,) of each."""


class Probe:
    """Measures the tiers of each model, and publishes what it finds."""

    def __init__(self, infer: Infer, decoder: Decoder, metrics: Metrics) -> None:
        """Prepare it.

        Args:
            infer: runs some images, in spare time.
            decoder: decodes pictures.
            metrics: what to publish on.
        """
        self._infer = infer
        self._decoder = decoder
        self._metrics = metrics

    async def run(
        self, probe_sets: Sequence[tuple[ServedModel, ProbeSet]], interval_s: float
    ) -> None:
        """Probe all models, again and again. A probe that fails is logged, and made up for later.

        Args:
            probe_sets: models with their labelled pictures.
            interval_s: from the start of a round to the start of the next one.
        """
        for model, probe_set in probe_sets:
            self._publish_baseline(model, probe_set)
            for tier in TIERS:
                self._metrics.probe_samples.labels(*_labels(model, tier))
        while True:
            started = time.monotonic()
            for model, probe_set in probe_sets:
                try:
                    await self._probe(model, probe_set)
                except NotReadyError:
                    return  # the service is going away
                except Exception:  # whatever is wrong with a picture, clients are served on
                    logger.exception("a probe failed", extra={"model": model.name})
            await asyncio.sleep(max(0.0, started + interval_s - time.monotonic()))

    async def _probe(self, model: ServedModel, probe_set: ProbeSet) -> None:
        started = time.monotonic()
        measured = {tier: Measured() for tier in TIERS}
        for picture in probe_set.pictures:
            body = await asyncio.to_thread(picture.path.read_bytes)
            pixels, _ = await self._decoder.decode(body, model)
            await measure(model, [(pixels, picture.label)], measured, self._infer)
            for tier in TIERS:
                self._metrics.probe_samples.labels(*_labels(model, tier)).inc()
        model.measured = measured
        self._publish(model, measured)
        logger.info(
            "probed",
            extra={
                "model": model.name,
                "num_pictures": len(probe_set.pictures),
                "seconds": round(time.monotonic() - started, 3),
                "top1": {tier: round(counts.top1.value, 4) for tier, counts in measured.items()},
            },
        )

    def _publish_baseline(self, model: ServedModel, probe_set: ProbeSet) -> None:
        for tier, wanted in probe_set.baseline.tiers.items() if probe_set.baseline else ():
            labels = _labels(model, tier)
            self._metrics.probe_baseline.labels(*labels, "1").set(wanted.top1)
            self._metrics.probe_baseline.labels(*labels, "5").set(wanted.top5)

    def _publish(self, model: ServedModel, measured: dict[Tier, Measured]) -> None:
        for tier, counts in measured.items():
            labels = _labels(model, tier)
            self._metrics.probe_accuracy.labels(*labels, "1").set(counts.top1.value)
            self._metrics.probe_accuracy.labels(*labels, "5").set(counts.top5.value)
            self._metrics.probe_agreement.labels(*labels).set(counts.agreement.value)
        self._metrics.probe_last_success.labels(model.name).set_to_current_time()


async def measure(
    model: ServedModel,
    pictures: Sequence[tuple[Tensor, int]],
    measured: dict[Tier, Measured],
    infer: Infer,
) -> None:
    """Run some labelled pictures through some tiers and count what comes out.

    Args:
        model: the model.
        pictures: pixels (3, H, W) and the index of the right class, of each.
        measured: the tiers, and where to count.
        infer: runs the pictures.
    """
    pixels = [pixels for pixels, _ in pictures]
    unreduced = await infer(model.variant(*tiers.of_tier(model.limits, "exact")), pixels)
    for tier, counts in measured.items():
        variant = model.variant(*tiers.of_tier(model.limits, tier))
        rows = unreduced if tier == "exact" else await infer(variant, pixels)
        for row, (_, label), reference in zip(rows, pictures, unreduced, strict=True):
            counts.add(row, label=label, unreduced=reference)


def _labels(model: ServedModel, tier: Tier) -> tuple[str, str, str]:
    return model.name, tiers.of_tier(model.limits, tier).method, tier
