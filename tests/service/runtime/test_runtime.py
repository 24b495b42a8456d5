"""A replica without HTTP: entered, asked, drained, and told apart when it has failed."""

import asyncio
import io
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from service.backends.options import Precision
from service.errors import (
    ImageRejectedError,
    InvalidParameterError,
    ModelLoadError,
    NotReadyError,
    SettingsError,
)
from service.images.colors.profiles import DISPLAY_P3, matrix_profile
from service.pipeline.request import Outcome, Wanted
from service.runtime.lifecycle import Phase
from service.runtime.runtime import Runtime, Status
from service.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(tiny_model: Path) -> Settings:
    return Settings(models=(str(tiny_model),), num_threads=1, probe_interval_s=0)


async def test_pictures_are_answered_in_their_order(settings: Settings, owl: bytes) -> None:
    async with Runtime(settings) as runtime:
        assert runtime.status() == Status(Phase.READY, 0.0, 0.0)
        outcomes = await runtime.classify([owl, b"no picture", owl], Wanted(tier="fast", top_k=3))
        assert isinstance(outcomes[1], ImageRejectedError)
        for outcome in (outcomes[0], outcomes[2]):
            assert isinstance(outcome, Outcome)
            assert outcome.plan.choice.reduction.tier == "fast"
            assert len(outcome.predictions) == 3
            best = outcome.predictions[0]
            assert best.label == f"thing {int(outcome.logits.argmax())}"
            assert best.probability == pytest.approx(float(outcome.logits.softmax(-1).max()))
    assert runtime.status().phase is Phase.DRAINING
    with pytest.raises(NotReadyError):
        await runtime.classify([owl])


async def test_pixels_are_answered_as_the_file_that_they_come_from(
    settings: Settings, owl: bytes
) -> None:
    async with Runtime(settings) as runtime:
        model = runtime.models.find(None)
        pixels, _ = await runtime.pool.decode(owl, model.input_spec, model.name)
        from_file, from_pixels = await runtime.classify([owl, pixels])
        assert isinstance(from_file, Outcome)
        assert isinstance(from_pixels, Outcome)
        assert from_file.predictions == from_pixels.predictions


async def test_the_setting_of_colours_reaches_the_pictures(settings: Settings, owl: bytes) -> None:
    with Image.open(io.BytesIO(owl)) as image:
        file = io.BytesIO()
        image.save(file, "PNG", icc_profile=matrix_profile(DISPLAY_P3))
    for color, changes in (("srgb", True), ("ignore", False)):
        async with Runtime(settings.model_copy(update={"color": color})) as runtime:
            model = runtime.models.find(None)
            pixels, _ = await runtime.pool.decode(file.getvalue(), model.input_spec, model.name)
            plain = model.input_spec.transform(image.convert("RGB"))
            assert (not torch.equal(pixels, plain)) == changes


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"tier": "quick"}, "tier 'quick' is unknown; allowed: exact, high"),
        ({"min_tier": "quick"}, "min_tier 'quick' is unknown"),
        ({"max_latency_ms": 0}, "max_latency_ms = 0 must be greater than 0"),
        ({"deadline_ms": float("nan")}, "deadline_ms = nan must be greater"),
        ({"priority": 2}, "priority = 2 must be 0 or 1"),
    ],
)
async def test_what_no_model_allows_is_refused_by_name(
    settings: Settings, owl: bytes, wanted: dict[str, object], message: str
) -> None:
    async with Runtime(settings) as runtime:
        with pytest.raises(InvalidParameterError, match=message):
            await runtime.classify([owl], Wanted(**wanted))  # type: ignore[arg-type]


async def test_a_model_that_cannot_be_loaded_is_said_on_entering(tmp_path: Path) -> None:
    runtime = Runtime(Settings(models=(str(tmp_path),), num_threads=1))
    with pytest.raises(ModelLoadError, match=r"config\.json"):
        await runtime.__aenter__()
    assert runtime.status().phase is Phase.FAILED


@pytest.mark.parametrize(
    ("value", "precision", "says"),
    [
        (math.nan, "float32", "NaN at tier fast, computed in float32; its weights are damaged"),
        (math.inf, "bfloat16", "infinite logits at tier fast, computed in bfloat16; .* float32"),
    ],
)
async def test_a_model_whose_logits_are_not_finite_is_not_served(
    tmp_path: Path, tiny_model: Path, value: float, precision: Precision, says: str
) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "tiny")
    weights = load_file(folder / "model.safetensors")
    weights["head.bias"][3] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    warm = {"num_threads": 1, "warmup_tiers": ("fast",), "precision": precision}
    runtime = Runtime(Settings(models=(str(folder),), **warm))
    with pytest.raises(ModelLoadError, match=f"cannot serve 'tiny': the model gives {says}"):
        await runtime.__aenter__()
    for require in (runtime.lifecycle.require_ready, runtime.lifecycle.require_alive):
        with pytest.raises(NotReadyError, match=says):
            require()


def test_a_gpu_that_does_not_exist_is_said_when_the_replica_is_built() -> None:
    with pytest.raises(SettingsError, match="no device cuda:99; PyTorch sees"):
        Runtime(Settings(device="cuda:99"))


async def test_backlog_and_saturation_follow_the_work(settings: Settings, owl: bytes) -> None:
    full = settings.model_copy(update={"max_queue_images": 4})
    async with Runtime(full) as runtime:
        work = asyncio.ensure_future(runtime.classify([owl] * 4))
        await asyncio.sleep(0)
        assert runtime.status().saturation == 1.0
        seen = []
        while not work.done():  # until the pictures have been decoded and wait for their batch
            seen.append(runtime.status().backlog_s)
            await asyncio.sleep(0)
        assert max(seen) > 0.0
        assert runtime.status() == Status(Phase.READY, 0.0, 0.0)


def test_it_knows_no_http() -> None:
    code = (
        "import sys, service.runtime.runtime as r; "
        "print(sorted({'fastapi', 'starlette', 'uvicorn', 'httptools'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
