"""On a CUDA device: graphs, and pictures that come as bytes, change no answer."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from service.backends.contract import Variant
from service.backends.cuda_graphs import CudaRecorder, Graphs, Recording, buckets
from service.backends.engine import Engine, Threads
from service.backends.pixels import to_device
from service.backends.placement import choose
from service.images.decode import InputSpec, decode
from service.models import catalog
from service.models.served import ServedModel
from service.runtime.device import prepare

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]

CUDA = torch.device("cuda")
MAX_BATCH_SIZE = 6
CLOSE = 1e-3


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> ServedModel:
    return catalog.load(str(tiny_model), choose("cuda", "auto", "float32"))


@pytest.fixture
def bare() -> Iterator[Engine]:
    """An engine without graphs."""
    engine = Engine(choose("cuda", "auto", "float32"), num_threads=0)
    yield engine
    engine.close()


class Counted:
    """Records, and notes what is replayed."""

    def __init__(self) -> None:
        self.replayed: list[int] = []
        self._record = CudaRecorder(CUDA)

    def __call__(self, module: nn.Module, images: Tensor) -> Recording:
        recording = self._record(module, images)

        def replay() -> None:
            self.replayed.append(len(images))
            recording.replay()

        return recording._replace(replay=replay)


def pictures(model: ServedModel, paths: list[Path]) -> tuple[list[Tensor], list[Tensor]]:
    """Bytes of each, and what timm's own transform gives."""
    as_bytes, floats = (
        [
            decode(path.read_bytes(), InputSpec(transform, model.input_spec.resize_side))
            for path in paths
        ]
        for transform in (model.input_spec.transform, model.transform)
    )
    assert as_bytes[0].dtype == torch.uint8
    return as_bytes, floats


@pytest.mark.anyio
async def test_graphs_answer_as_eager_runs_do(
    model: ServedModel, bare: Engine, examples: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    record = Counted()
    graphs = Graphs(record, CUDA, max_bytes=2**31)
    engine = Engine(choose("cuda", "auto", "float32"), num_threads=0, prepared=graphs)
    variants = [model.variant("rapid", r) for r in (0, 2)]
    await engine.capture(variants, model.input_size, MAX_BATCH_SIZE)
    assert not caplog.records
    images, _ = pictures(model, examples)
    sizes = (6, 1, 5, 2, 4, 3, 6)
    for size in sizes:
        for variant in reversed(variants):  # not the order of the recordings
            batch = images[size : 2 * size]
            found, expected = [await each.forward(variant, batch) for each in (engine, bare)]
            torch.testing.assert_close(found, expected, rtol=CLOSE, atol=CLOSE)
    needed = [min(room for room in buckets(MAX_BATCH_SIZE) if room >= size) for size in sizes]
    assert record.replayed == [room for room in needed for _ in variants]
    engine.close()


@pytest.mark.anyio
async def test_bytes_give_the_answers_that_floats_give(
    model: ServedModel, bare: Engine, examples: list[Path]
) -> None:
    variant = model.variant("rapid", 0)  # of others, the last bit might decide between two tokens
    images, floats = pictures(model, examples[:4])
    placed = to_device(images, variant.normalization, device=CUDA, dtype=torch.float32)
    torch.testing.assert_close(placed.cpu(), torch.stack(floats), rtol=0, atol=1e-6)
    expected = await bare.forward(variant, floats)
    for batch in (images, [images[0], floats[1], images[2], floats[3]]):
        found = await bare.forward(variant, batch)
        torch.testing.assert_close(found, expected, rtol=CLOSE, atol=CLOSE)


def test_without_memory_for_them_there_are_no_graphs() -> None:
    gpu = choose("cuda", "auto", "float32")
    assert prepare(gpu, Threads(1, 1), max_bytes=0) is None


def test_recordings_say_what_memory_they_take(
    model: ServedModel, caplog: pytest.LogCaptureFixture
) -> None:
    record = Counted()
    graphs = Graphs(record, CUDA, max_bytes=1)
    variants = [model.variant("rapid", r) for r in (0, 2)]
    graphs.capture(variants, model.input_size, MAX_BATCH_SIZE)
    assert [line.message for line in caplog.records] == ["no further graphs"]
    images = torch.zeros(2, *model.input_size, device=CUDA)
    with torch.inference_mode():
        graphs.run(variants[0], images)
        assert record.replayed == []
        graphs.run(variants[0], images[:1])
    assert record.replayed == [1]


class Waits(nn.Module):
    """Asks the device for a number, which no recording can."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :5] * float(images.sum().item() == 0)


class Takes(nn.Module):
    """Takes more memory than there is."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.empty(2**50, dtype=torch.uint8, device=images.device)


@pytest.mark.parametrize("make", [Waits, Takes])
def test_what_cannot_be_recorded_leaves_the_others_alone(
    model: ServedModel, make: Callable[[], nn.Module], caplog: pytest.LogCaptureFixture
) -> None:
    record = Counted()
    graphs = Graphs(record, CUDA, max_bytes=2**31)
    good = model.variant("rapid", 2)
    bad = good._replace(module=make())
    graphs.capture([good, bad], model.input_size, 1)
    assert [line.message for line in caplog.records] == ["no graph"]
    images = torch.zeros(1, *model.input_size, device=CUDA)
    assert_same(graphs, good, images)
    assert record.replayed == [1]
    late = Graphs(record, CUDA, max_bytes=2**31)
    late.capture([good], model.input_size, 1)  # the device still records
    assert_same(late, good, images)
    assert record.replayed == [1, 1]


def assert_same(graphs: Graphs, variant: Variant, images: Tensor) -> None:
    with torch.inference_mode():
        found, expected = graphs.run(variant, images), variant.module(images)
    torch.testing.assert_close(found, expected, rtol=CLOSE, atol=CLOSE)
