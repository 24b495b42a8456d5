"""What a way to compute answers on pictures, beside what float32 answers.

Source: docs/decisions/0018.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from service.accuracy import alike
from service.accuracy.alike import Counted, Evidence
from service.backends.contract import Variant
from service.backends.engine import Engine
from service.errors import InferenceError
from service.images import files
from service.models.served import ServedModel
from service.tiers import Tier

MAX_BATCH_SIZE = 8


class Picture(NamedTuple):
    """A picture to compare on."""

    path: Path
    label: int | None
    """index of its class; None: unknown"""


List = Callable[[ServedModel], Sequence[Picture]]
"""a model -> pictures to compare on, at least one"""
Logits = dict[Tier, Tensor]
"""(N, K), of some pictures, by tier"""


async def side_by_side(
    engine: Engine, variant: Variant, batches: Sequence[Sequence[Tensor]]
) -> Tensor:
    """Logits (N, K) of all images of some batches, which are computed at the same time.

    Raises:
        InferenceError: some logits are not finite.
    """
    threads = max(1, engine.num_threads // engine.num_streams)
    works = (engine.forward(variant, batch, threads) for batch in batches)
    logits = torch.stack([row for rows in await asyncio.gather(*works) for row in rows])
    if not logits.isfinite().all():
        raise InferenceError("the model gives logits that are not finite")
    return logits


class Comparison:
    """Pictures and the answers of float32, with which other ways are compared.

    The pixels are decoded for each way again: to keep them would take hundreds of megabytes.
    """

    def __init__(self, engine: Engine, tiers: Sequence[Tier], pictures: Sequence[Picture]) -> None:
        """Compute nothing yet.

        Args:
            engine: of the device, without other work.
            tiers: the tiers to compare, `exact` first.
            pictures: at least one.
        """
        self._engine = engine
        self._tiers = tiers
        self._pictures = pictures
        self._expected: Logits = {}

    async def expect(self, model: ServedModel) -> None:
        """Compute the answers of float32.

        Raises:
            InferenceError: the model gives none.
            ModelLoadError: a picture cannot be read.
        """
        groups = [logits async for logits in self._answers(model)]
        self._expected = _joined(groups)

    async def evidence(self, model: ServedModel) -> Evidence:
        """Compare the answers of another way, until it is lost or has answered all pictures.

        Raises:
            InferenceError: the model gives none.
            ModelLoadError: a picture cannot be read.
        """
        groups: list[Logits] = []
        num_seen = num_differing = 0
        async for logits in self._answers(model):
            groups.append(logits)
            seen = slice(num_seen, num_seen + len(logits["exact"]))
            same = alike.same(logits["exact"], self._expected["exact"][seen])
            num_seen, num_differing = seen.stop, num_differing + int((~same).sum())
            if alike.is_lost(num_differing, len(self._pictures)):
                break
        found = _joined(groups)
        counted = {tier: self._count(tier, found[tier]) for tier in self._tiers}
        return Evidence(num_seen, num_seen - num_differing, counted)

    def _count(self, tier: Tier, found: Tensor) -> Counted:
        number = len(found)
        unreduced, expected = (self._expected[name][:number] for name in ("exact", tier))
        labels = torch.tensor([-1 if one.label is None else one.label for one in self._pictures])
        return Counted(
            int(alike.same(found, unreduced).sum()),
            int(alike.same(expected, unreduced).sum()),
            int((found.argmax(dim=1) == labels[:number]).sum()),
            int((expected.argmax(dim=1) == labels[:number]).sum()),
        )

    async def _answers(self, model: ServedModel) -> AsyncIterator[Logits]:
        streams = self._engine.num_streams
        size = MAX_BATCH_SIZE * streams
        for start in range(0, len(self._pictures), size):
            some = self._pictures[start : start + size]
            pixels = await asyncio.to_thread(_decoded, some, model)
            batches = [pixels[number::streams] for number in range(min(streams, len(pixels)))]
            order = [
                place for number in range(streams) for place in range(number, len(some), streams)
            ]
            logits = {}
            for tier in self._tiers:
                mixed = await side_by_side(self._engine, model.at(tier), batches)
                logits[tier] = mixed[torch.tensor(order).argsort()]
            yield logits


def _decoded(pictures: Sequence[Picture], model: ServedModel) -> list[Tensor]:
    return [files.read(picture.path, model.input_spec) for picture in pictures]


def _joined(groups: Sequence[Logits]) -> Logits:
    return {tier: torch.cat([logits[tier] for logits in groups]) for tier in groups[0]}
