"""The trial of the ways to compute a model: how fast each is here, and whether it answers alike.

What follows from the figures is decided in `service/accuracy/alike.py`.
Source: docs/decisions/0018.
"""

import asyncio
import gc
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from time import monotonic

import torch

from service.accuracy import alike
from service.accuracy.alike import Evidence, Way
from service.backends.engine import Engine
from service.backends.placement import Placement
from service.errors import InferenceError, ModelLoadError
from service.models.served import ServedModel
from service.runtime.comparison import Comparison, List, side_by_side
from service.telemetry.events import WayChosen, WayTried
from service.tiers import TIERS, Tier

logger = logging.getLogger(__name__)

TIMED_IMAGES = 4
"""images of a batch that is timed"""
PASSES = 2
"""passes over the ways, of which the better time of each counts: others may use the cores, too"""
MOST_PICTURES = 400
"""most pictures to compare on"""
FEWEST_PICTURES = 100
COMPARED_S = 6.0
"""seconds for the answers of float32; a slower machine compares on fewer pictures"""
FAILURES = (InferenceError, ModelLoadError, RuntimeError)
"""errors of a way that cannot compute the model"""

Load = Callable[[Placement], ServedModel]
"""a way to compute -> the model that computes so"""


class Trial:
    """Tries the ways to compute one model. One of them is in memory at a time."""

    def __init__(self, engine: Engine, load: Load, tiers: Sequence[Tier], list_: List) -> None:
        """Try nothing yet.

        Args:
            engine: of the device, without other work.
            load: loads the model.
            tiers: those that are warmed up; `exact` and the fastest of them are tried.
            list_: lists the pictures to compare on.
        """
        self._engine = engine
        self._load = load
        last: Tier = max(tiers, key=TIERS.index, default="exact")
        self._tiers: Sequence[Tier] = ("exact",) if last == "exact" else ("exact", last)
        self._list = list_
        self._comparison: Comparison | None = None

    async def choose(self, name: str, ways: Sequence[Placement]) -> WayChosen:
        """Try the ways and take the fastest that answers as float32 does.

        Args:
            name: of the model.
            ways: float32 first. On a GPU the others are preferred without being timed.
        """
        tried = await self._timed(ways)
        index = 0
        while not tried[0].verdict:
            index = alike.fastest([_way(one) for one in tried])
            if index == 0 or tried[index].num_pictures:
                break
            tried[index] = await self._compared(ways, index, tried)
        verdicts = ["chosen" if place == index else "slower" for place in range(len(tried))]
        return WayChosen(
            name,
            ways[index].backend,
            ways[index].precision,
            _reason(tried, index),
            tried=[
                replace(one, verdict=one.verdict or verdict)
                for one, verdict in zip(tried, verdicts, strict=True)
            ],
        )

    async def _timed(self, ways: Sequence[Placement]) -> list[WayTried]:
        """How many images a second each way computes. A GPU is not timed."""
        tried = [WayTried(way.backend, way.precision) for way in ways]
        if ways[0].device.type != "cpu":
            return tried
        for _ in range(PASSES):
            for index, way in enumerate(ways):
                tried[index] = await self._timed_again(way, tried[index])
        return [replace(one, speed_up=_speed_up(one, tried[0])) for one in tried]

    async def _timed_again(self, way: Placement, before: WayTried) -> WayTried:
        """The better one of a new time and an earlier one."""
        if before.verdict:
            return before
        started = monotonic()
        model: ServedModel | None = None
        try:
            model = await self._engine.run(partial(self._load, way))
            rates: dict[str, float] = {tier: await self._rate(model, tier) for tier in self._tiers}
        except FAILURES as exc:
            return _failed(before, exc)
        finally:
            model = None
            gc.collect()
        best = {tier: max(rate, before.images_per_s.get(tier, 0.0)) for tier, rate in rates.items()}
        return replace(
            before, images_per_s=best, seconds=round(before.seconds + _since(started), 3)
        )

    async def _rate(self, model: ServedModel, tier: Tier) -> float:
        """Images a second of a tier, with all streams computing."""
        generator = torch.Generator().manual_seed(0)
        images = list(torch.randn(TIMED_IMAGES, *model.input_size, generator=generator))
        batches = [images] * self._engine.num_streams
        await side_by_side(self._engine, model.at(tier), batches)
        started = monotonic()
        await side_by_side(self._engine, model.at(tier), batches)
        return round(TIMED_IMAGES * len(batches) / (monotonic() - started), 2)

    async def _compared(
        self, ways: Sequence[Placement], index: int, tried: Sequence[WayTried]
    ) -> WayTried:
        """What one way answers on the pictures, and whether that speaks against it."""
        started = monotonic()
        model: ServedModel | None = None
        try:
            if self._comparison is None:
                self._comparison = await self._expect(ways[0], tried[0])
            model = await self._engine.run(partial(self._load, ways[index]))
            evidence = await self._comparison.evidence(model)
        except FAILURES as exc:
            return _failed(tried[index], exc)
        finally:
            model = None
            gc.collect()
        return _with_evidence(tried[index], evidence, _since(started))

    async def _expect(self, reference: Placement, timed: WayTried) -> Comparison:
        """The answers of float32."""
        model = await self._engine.run(partial(self._load, reference))
        listed = await asyncio.to_thread(self._list, model)
        number = min(len(listed), MOST_PICTURES)
        if timed.images_per_s:
            seconds = sum(1 / rate for rate in timed.images_per_s.values())
            number = min(number, max(FEWEST_PICTURES, int(COMPARED_S / seconds)))
        pictures = [listed[place * len(listed) // number] for place in range(number)]
        comparison = Comparison(self._engine, self._tiers, pictures)
        await comparison.expect(model)
        return comparison


def _way(tried: WayTried) -> Way:
    return Way(
        math.inf if tried.speed_up is None else tried.speed_up, is_refused=bool(tried.verdict)
    )


def _speed_up(tried: WayTried, reference: WayTried) -> float | None:
    """The geometric mean of the tiers' speed-ups."""
    if not (tried.images_per_s and reference.images_per_s):
        return None
    ratios = [rate / reference.images_per_s[tier] for tier, rate in tried.images_per_s.items()]
    return round(math.prod(ratios) ** (1 / len(ratios)), 3)


def _reason(tried: Sequence[WayTried], index: int) -> str:
    if tried[0].verdict:
        return "failed"
    if index == 0:
        refused = any(one.verdict in ("agreement", "top1") for one in tried)
        return "agreement" if refused else "fastest"
    return "fastest" if tried[index].images_per_s else "device"


def _with_evidence(tried: WayTried, evidence: Evidence, seconds: float) -> WayTried:
    total, tiers = evidence.num_pictures, evidence.tiers.items()
    return replace(
        tried,
        verdict=alike.refusal(evidence) or "",
        num_pictures=total,
        num_agreeing=evidence.num_agreeing,
        kept={tier: round(one.kept / total, 4) for tier, one in tiers},
        top1={tier: round(one.right / total, 4) for tier, one in tiers if one.right_by_float32},
        seconds=round(tried.seconds + seconds, 3),
    )


def _failed(tried: WayTried, exc: Exception) -> WayTried:
    about = {"backend": tried.backend, "precision": tried.precision, "error": str(exc)[:200]}
    logger.warning("a precision cannot be tried", extra=about)
    return replace(tried, verdict="failed")


def _since(started: float) -> float:
    return round(monotonic() - started, 3)
