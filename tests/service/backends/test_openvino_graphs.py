"""Full batches by OpenVINO: the same answers, for the batches that are full."""

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from service.backends import onednn, openvino_graphs, placement
from service.backends.contract import Variant
from service.backends.engine import Engine
from service.backends.openvino_graphs import Compiler, FullBatches, Run
from service.backends.placement import CPU, choose
from service.errors import SettingsError
from service.images.decode import InputSpec, decode
from service.models import catalog
from service.models.served import ServedModel
from service.tiers import of_tier
from tests.conftest import BUNDLED, AppClient
from tests.waiting import PATIENCE_S

OPENVINO = choose("cpu", "openvino", "float32")
MAX_BATCH_SIZE = 4
CLOSE = 1e-5


@pytest.fixture(autouse=True)
def inference_mode() -> Iterator[None]:
    """As the engine's thread computes."""
    with torch.inference_mode():
        yield


class Counted:
    """OpenVINO, and how often it compiled and computed."""

    def __init__(self, *, num_streams: int = 1) -> None:
        self.compiled = 0
        self.computed = 0
        self._compile = Compiler(num_threads=num_streams, num_streams=num_streams)

    def __call__(self, module: nn.Module, images: Tensor) -> Run:
        run = self._compile(module, images)
        self.compiled += 1

        def counted(images: Tensor) -> Tensor:
            self.computed += 1
            return run(images)

        return counted


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> ServedModel:
    return catalog.load(str(tiny_model), OPENVINO)


@pytest.fixture(scope="module")
def plain(tiny_model: Path) -> ServedModel:
    """The same weights in PyTorch's own layers."""
    return catalog.load(str(tiny_model), CPU)


def images_of(model: ServedModel, num_images: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_images, *model.input_size, generator=generator)


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=CLOSE, atol=CLOSE)


def said(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What this service logged; PyTorch traces what it exports."""
    return [record for record in caplog.records if record.name.startswith("service")]


@pytest.mark.parametrize("method", ["rapid", "tome"])
def test_full_batches_and_only_these_are_openvinos(
    model: ServedModel, plain: ServedModel, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    count = Counted()
    made = FullBatches(count, max_bytes=2**40)
    variants = [model.variant(method, r) for r in (0, 2, 3)]
    made.capture(variants, model.input_size, MAX_BATCH_SIZE)
    assert count.compiled == 2  # what reduces nothing gains nothing
    assert not said(caplog)
    count.computed = 0
    for r, num_full in ((0, 0), (1, 0), (2, 1), (3, 1)):
        for num_images in (MAX_BATCH_SIZE, 1, MAX_BATCH_SIZE - 1, MAX_BATCH_SIZE + 1):
            images = images_of(model, num_images)
            same(
                made.run(model.variant(method, r), images), plain.variant(method, r).module(images)
            )
        assert count.computed == num_full
        count.computed = 0


def test_batches_beside_each_other_do_not_mix(model: ServedModel, plain: ServedModel) -> None:
    num_streams = 3
    made = FullBatches(Counted(num_streams=num_streams), max_bytes=2**40)
    variant = model.variant("rapid", 2)
    made.capture([variant], model.input_size, MAX_BATCH_SIZE)
    batches = [images_of(model, MAX_BATCH_SIZE, seed) for seed in range(num_streams)]
    found: dict[int, list[Tensor]] = {number: [] for number in range(num_streams)}
    together = threading.Barrier(num_streams)

    def compute(number: int) -> None:
        with torch.inference_mode():
            together.wait(PATIENCE_S)
            for _ in range(20):
                found[number].append(made.run(variant, batches[number]))

    workers = [threading.Thread(target=compute, args=(number,)) for number in found]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(PATIENCE_S)
    for number, answers in found.items():
        assert len(answers) == 20
        expected = plain.variant("rapid", 2).module(batches[number])
        for answer in answers:  # none was written over by a later batch
            same(answer, expected)


class Chooses(nn.Module):
    """Decides by what the pixels are, which no graph of fixed operations can."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :5] * (2 if images.sum() > 0 else 3)


class Exotic(nn.Module):
    """Uses a function that OpenVINO does not know."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.special.bessel_j0(images.flatten(1)[:, :5])


@pytest.mark.parametrize("module", [Chooses(), Exotic()], ids=["PyTorch", "OpenVINO"])
def test_what_cannot_be_compiled_is_computed_as_before(
    model: ServedModel, module: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    count = Counted()
    made = FullBatches(count, max_bytes=2**40)
    good = model.variant("rapid", 2)
    bad = good._replace(module=module)
    made.capture([bad, good], model.input_size, MAX_BATCH_SIZE)
    assert [record.message for record in said(caplog)] == ["no graph"]
    assert said(caplog)[0].__dict__["model"] == "tiny"
    assert count.compiled == 1
    images = images_of(model, MAX_BATCH_SIZE)
    assert torch.equal(made.run(bad, images), module(images))
    same(made.run(good, images), good.module(images))


@pytest.mark.parametrize("added", [0.01, torch.nan])
def test_a_graph_that_answers_otherwise_is_not_used(
    model: ServedModel, added: float, caplog: pytest.LogCaptureFixture
) -> None:
    made = FullBatches(lambda module, _: lambda images: module(images) + added, max_bytes=2**40)
    variant = model.variant("rapid", 2)
    made.capture([variant], model.input_size, MAX_BATCH_SIZE)
    assert [record.message for record in said(caplog)] == ["no graph"]
    assert "logits differ" in said(caplog)[0].__dict__["error"]
    images = images_of(model, MAX_BATCH_SIZE)
    assert torch.equal(made.run(variant, images), variant.module(images))


def test_no_more_graphs_than_there_is_memory_for(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compiled: list[nn.Module] = []

    def compile_(module: nn.Module, _: Tensor) -> Run:
        compiled.append(module)
        return module

    monkeypatch.setattr(openvino_graphs, "_memory_bytes", lambda: 1000 * len(compiled))
    made = FullBatches(compile_, max_bytes=1500)
    variants = [model.variant("rapid", r) for r in (1, 2, 3, 4)]
    made.capture(variants, model.input_size, MAX_BATCH_SIZE)
    assert len(compiled) == 2
    assert [record.message for record in said(caplog)] == ["no further graphs"]


def test_nothing_is_reported_to_anybody(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO's own way to convert a model sends what it did to a statistics service."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a report")

    monkeypatch.setattr("openvino_telemetry.Telemetry", refuse)
    filters = list(logging.getLogger().filters)
    variant = model.variant("rapid", 2)
    images = images_of(model, MAX_BATCH_SIZE)
    run = Compiler(num_threads=1, num_streams=1)(onednn.unpacked(variant.module), images)
    same(run(images), variant.module(images))
    assert logging.getLogger().filters == filters


def test_without_the_package_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "find_spec", lambda _: None)
    with pytest.raises(SettingsError, match="pip install openvino"):
        choose("cpu", "openvino", "float32")


@pytest.mark.anyio
async def test_the_service_answers_the_same(
    app_client: AppClient, examples: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    count = Counted()
    monkeypatch.setattr(openvino_graphs, "Compiler", lambda **_: count)
    files = [("image", path.read_bytes()) for path in examples[:MAX_BATCH_SIZE]]
    answers = []
    for backend in ("openvino", "onednn"):
        settings = {"backend": backend, "max_batch_size": MAX_BATCH_SIZE, "max_wait_ms": 5000}
        settings |= {"warmup_tiers": ("turbo",), "probe_interval_s": 0}
        async with app_client(**settings) as client:
            count.computed = 0
            response = await client.post("/v1/classify?tier=turbo&top_k=10", files=files)
            assert response.status_code == 200, response.text
            answers.append(response.json()["results"])
            assert count.computed == (backend == "openvino")
            assert f'backend="{backend}"' in (await client.get("/metrics")).text
    for found, expected in zip(*answers, strict=True):
        pairs = zip(found["predictions"], expected["predictions"], strict=True)
        for mine, theirs in pairs:
            assert mine["label"] == theirs["label"]
            assert mine["probability"] == pytest.approx(theirs["probability"], abs=CLOSE)


@pytest.mark.slow
@pytest.mark.anyio
async def test_real_pictures_get_the_labels_that_they_get_without_it() -> None:
    """At the tier that removes most, on all labelled pictures: at least 99.5 % of them."""
    size = 8
    count = Counted()
    found: list[list[int]] = []
    for chosen, graphs in (
        (OPENVINO, FullBatches(count, max_bytes=2**40)),
        (choose("cpu", "onednn", "float32"), None),
    ):
        model = catalog.load(str(BUNDLED), chosen)
        spec = InputSpec(model.transform, model.input_spec.resize_side)
        paths = sorted((BUNDLED / "probe").rglob("*.jpg"))
        variant: Variant = model.variant(*of_tier(model.limits, "extreme"))
        engine = Engine(chosen, num_threads=0, prepared=graphs)
        await engine.capture([variant], model.input_size, size)
        labels: list[int] = []
        for start in range(0, len(paths), size):
            images = [decode(path.read_bytes(), spec) for path in paths[start : start + size]]
            labels += [int(row.argmax()) for row in await engine.forward(variant, images)]
        engine.close()
        found.append(labels)
    assert count.computed > len(found[0]) // size
    assert len(found[0]) > 300
    agreeing = sum(mine == theirs for mine, theirs in zip(*found, strict=True))
    assert agreeing >= 0.995 * len(found[0])
