"""Precisions are tried for real, and one that answers otherwise is not taken."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from service.backends.engine import Engine
from service.backends.placement import CPU, Placement
from service.errors import InferenceError
from service.images import files
from service.models import catalog
from service.models.served import ServedModel
from service.runtime import trial_process
from service.runtime.comparison import Picture, side_by_side
from service.runtime.trial import Trial
from service.settings import Settings
from service.telemetry.events import WayTried
from tests.conftest import AppClient
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

FAST = CPU._replace(precision="bfloat16")
FASTER = CPU._replace(backend="onednn", precision="bfloat16")
WAYS = (CPU, FAST, FASTER)


class Timed(Trial):
    """A trial whose ways are as fast as the test wants; the answers are real."""

    async def _timed(self, ways: Sequence[Placement]) -> list[WayTried]:
        tried = await super()._timed(ways)
        speeds = dict(zip(WAYS, (1.0, 2.0, 3.0), strict=True))
        return [
            one if one.verdict else WayTried(*way[1:3], "", one.images_per_s, speeds[way])
            for one, way in zip(tried, ways, strict=True)
        ]


@pytest.fixture(name="engine")
def two_streams() -> Iterator[Engine]:
    with closing(Engine(CPU, num_threads=2, num_streams=2)) as engine:
        yield engine


@pytest.fixture(name="pictures")
def labelled(examples: list[Path]) -> list[Picture]:
    return [Picture(path, None) for path in examples]


class Loads:
    """Loads the tiny model; some ways answer otherwise, or not at all."""

    def __init__(self, folder: Path, wrong: Sequence[Placement], broken: Sequence[Placement]):
        self.folder, self.wrong, self.broken = folder, wrong, broken

    def __call__(self, way: Placement) -> ServedModel:
        model = catalog.load(str(self.folder), way)
        if way in self.broken:
            raise RuntimeError("this processor has no such instruction")
        if way in self.wrong:
            with torch.no_grad():
                model.at("exact").module.head.bias.add_(torch.arange(10) * 10.0)
        return model


@pytest.mark.parametrize(
    ("wrong", "broken", "chosen", "reason", "verdicts"),
    [
        ((), (), FASTER, "fastest", ["slower", "slower", "chosen"]),
        ((FASTER,), (), FAST, "fastest", ["slower", "chosen", "agreement"]),
        ((FASTER, FAST), (), CPU, "agreement", ["chosen", "agreement", "agreement"]),
        ((), (FASTER,), FAST, "fastest", ["slower", "chosen", "failed"]),
        ((), (FASTER, FAST), CPU, "fastest", ["chosen", "failed", "failed"]),
        ((), (CPU,), CPU, "failed", ["failed", "slower", "slower"]),
    ],
)
async def test_the_fastest_way_that_answers_alike_is_chosen(  # noqa: PLR0913
    tiny_model: Path,
    engine: Engine,
    pictures: list[Picture],
    wrong: Sequence[Placement],
    broken: Sequence[Placement],
    chosen: Placement,
    reason: str,
    verdicts: list[str],
) -> None:
    load = Loads(tiny_model, wrong, broken)
    way = await Timed(engine, load, ("extreme",), lambda _: pictures).choose("tiny", WAYS)
    assert (way.backend, way.precision) == (chosen.backend, chosen.precision)
    assert way.reason == reason
    assert [tried.verdict for tried in way.tried] == verdicts
    for placement, tried in zip(WAYS, way.tried, strict=True):
        assert set(tried.images_per_s) == (set() if placement in broken else {"exact", "extreme"})
        if tried.verdict == "agreement":
            assert tried.num_agreeing < tried.num_pictures
        if tried.verdict == "chosen" and placement is not CPU:
            assert tried.num_agreeing == tried.num_pictures == len(pictures)
            assert set(tried.kept) == {"exact", "extreme"}
            assert tried.top1 == {}


async def test_answers_are_counted_for_the_pictures_that_they_belong_to(
    tiny_model: Path, engine: Engine, examples: list[Path]
) -> None:
    model = catalog.load(str(tiny_model), CPU)
    listed = [Picture(path, None) for path in examples * 3]  # more than one group of batches
    trial = Timed(engine, Loads(tiny_model, (), ()), ("exact",), lambda _: listed)
    comparison = await trial._expect(CPU, WayTried("torch", "float32"))
    pixels = [files.read(path, model.input_spec) for path in examples * 3]
    with torch.inference_mode():
        expected = model.at("exact").module(torch.stack(pixels))
    assert torch.allclose(comparison._expected["exact"], expected, atol=1e-5)


async def test_a_trial_that_dies_is_survived(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trial_process.sys, "executable", "/bin/false")
    settings = Settings(models=(str(tiny_model),))
    assert await trial_process.run(str(tiny_model), settings, None) is None
    assert "no precision can be tried" in caplog.text


async def test_a_trial_that_hangs_is_ended(
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    hangs = tmp_path / "python"
    hangs.write_text(f"#!{sys.executable}\nimport time\ntime.sleep({PATIENCE_S})\n")
    hangs.chmod(0o755)
    monkeypatch.setattr(trial_process.sys, "executable", str(hangs))
    monkeypatch.setattr(trial_process, "MOST_S", 0.2)
    settings = Settings(models=(str(tiny_model),))
    assert await trial_process.run(str(tiny_model), settings, None) is None
    assert "no precision can be tried" in caplog.text


async def test_not_finite_is_no_answer(tiny_model: Path, engine: Engine) -> None:
    model = catalog.load(str(tiny_model), CPU)
    image = torch.full(model.input_size, torch.nan)
    with pytest.raises(InferenceError, match="not finite"):
        await side_by_side(engine, model.at("exact"), [[image]])


@pytest.mark.slow
async def test_the_service_tries_once_and_remembers(
    app_client: AppClient, tmp_path: Path, owl: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    first = await _described(app_client, tmp_path, owl)
    tried = first["precision_choice"]["tried"]
    lines = [record for record in caplog.records if record.message == "precision tried"]
    assert [record.__dict__["verdict"] for record in lines] == [one["verdict"] for one in tried]
    if first["precision_choice"]["reason"] == "only":
        pytest.skip("this processor has float32 only")
    assert [one["verdict"] for one in tried].count("chosen") == 1
    assert {tuple(one["images_per_s"]) for one in tried} == {("exact", "extreme")}
    again = await _described(app_client, tmp_path, owl)
    assert again["precision_choice"].pop("is_remembered")
    assert not first["precision_choice"].pop("is_remembered")
    assert again["precision_choice"] == first["precision_choice"]


async def _described(client: AppClient, cache_dir: Path, picture: bytes) -> dict[str, Any]:
    """The document of the model, once the service has started; it also answers, and counts."""
    settings = {"precision": "auto", "probe_interval_s": 0, "cache_dir": str(cache_dir)}
    async with client(num_threads=0, **settings) as started:
        model: dict[str, Any] = (await started.get("/v1/models/tiny")).json()
        assert (await started.post("/v1/classify", content=picture)).status_code == 200
        metrics = (await started.get("/metrics")).text
        labels = f'backend="{model["backend"]}",model="tiny",precision="{model["precision"]}"'
        assert f"rapid_model_precision_info{{{labels}," in metrics
    return model
