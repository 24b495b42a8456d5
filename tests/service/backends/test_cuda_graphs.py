"""Recorded batches: which there are, which one a batch gets, and what happens without one."""

import logging
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from service.backends.contract import Variant
from service.backends.cuda_graphs import Graphs, Recording, buckets
from service.backends.engine import Engine, Threads
from service.backends.placement import CPU, Placement, choose
from service.runtime import device
from service.runtime.device import prepare
from service.tiers import TIERS
from tests.conftest import AppClient

SIZE = (3, 2, 2)
MAX_BATCH_SIZE = 6
EXACT = 1e-6


@pytest.fixture(autouse=True)
def inference_mode() -> Iterator[None]:
    """As the engine's thread computes."""
    with torch.inference_mode():
        yield


class Recorder:
    """Stands in for CUDA: a replay runs the module again, on the same memory."""

    def __init__(self, *, num_bytes: int = 1) -> None:
        self.recorded: list[tuple[nn.Module, int]] = []
        self.replayed: list[int] = []
        self.fails: Callable[[nn.Module, int], Exception | None] = lambda *_: None
        self._num_bytes = num_bytes

    def __call__(self, module: nn.Module, images: Tensor) -> Recording:
        if error := self.fails(module, len(images)):
            raise error
        logits = module(images)

        def replay() -> None:
            self.replayed.append(len(images))
            logits.copy_(module(images))

        self.recorded.append((module, len(images)))
        return Recording(images, logits, replay, self._num_bytes)


def variant(r: int = 0) -> Variant:
    torch.manual_seed(r)
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 5)).requires_grad_(requires_grad=False)
    return Variant("model", "rapid", r, module, (r,), 10, 100)


def batch(num_images: int) -> Tensor:
    return torch.randn(num_images, *SIZE)


def recorded_by(recorder: Recorder, *variants: Variant, max_bytes: int = 10**6) -> Graphs:
    made = Graphs(recorder, CPU.device, max_bytes=max_bytes)
    made.capture(variants, SIZE, MAX_BATCH_SIZE)
    return made


@pytest.mark.parametrize(
    ("max_batch_size", "sizes"),
    [
        (1, (1,)),
        (2, (1, 2)),
        (3, (1, 2, 3)),
        (6, (1, 2, 4, 6)),
        (8, (1, 2, 4, 8)),
        (9, (1, 2, 4, 8, 9)),
        (256, (1, 2, 4, 8, 16, 32, 64, 128, 256)),
    ],
)
def test_sizes_are_powers_of_two_and_the_largest(
    max_batch_size: int, sizes: tuple[int, ...]
) -> None:
    assert buckets(max_batch_size) == sizes


def test_a_batch_goes_into_the_smallest_graph_with_room_for_it() -> None:
    recorder, one = Recorder(), variant()
    made = recorded_by(recorder, one)
    for num_images in (6, 5, 4, 3, 2, 1, 2, 3, 4, 5, 6):  # small ones after large ones, and before
        images = batch(num_images)
        logits = made.run(one, images)
        assert logits.shape == (num_images, 5)
        torch.testing.assert_close(logits, one.module(images), rtol=0, atol=EXACT)
    assert recorder.replayed == [6, 6, 4, 4, 2, 1, 2, 4, 4, 6, 6]


def test_answers_outlive_the_next_replay() -> None:
    recorder, one = Recorder(), variant()
    made = recorded_by(recorder, one)
    images = batch(4)
    logits = made.run(one, images)
    made.run(one, batch(4))
    torch.testing.assert_close(logits, one.module(images), rtol=0, atol=EXACT)


def test_what_has_no_graph_runs_eagerly() -> None:
    recorder, one, other = Recorder(), variant(), variant(3)
    made = recorded_by(recorder, one)
    for each, num_images in ((other, 2), (one, MAX_BATCH_SIZE + 1)):
        images = batch(num_images)
        assert torch.equal(made.run(each, images), each.module(images))
    assert recorder.replayed == []


def test_each_variant_answers_with_its_own_graph() -> None:
    variants = [variant(r) for r in range(3)]
    made = recorded_by(Recorder(), *variants)
    images = batch(3)
    for each in variants:
        logits = made.run(each, images)
        torch.testing.assert_close(logits, each.module(images), rtol=0, atol=EXACT)


def test_small_batches_of_all_are_recorded_before_large_ones() -> None:
    recorder, one, two = Recorder(), variant(1), variant(2)
    recorded_by(recorder, one, two, one)
    assert recorder.recorded == [
        (each.module, size) for size in (1, 2, 4, 6) for each in (one, two)
    ]


def test_recording_ends_with_the_memory_for_it(caplog: pytest.LogCaptureFixture) -> None:
    recorder, one, two, three = Recorder(num_bytes=10), variant(1), variant(2), variant(3)
    made = recorded_by(recorder, one, two, max_bytes=29)
    made.capture([three], SIZE, MAX_BATCH_SIZE)  # the next model
    assert recorder.recorded == [(one.module, 1), (two.module, 1), (one.module, 2)]
    (line,) = caplog.records
    assert (line.message, line.num_bytes) == ("no further graphs", 30)  # type: ignore[attr-defined]
    for num_images in (1, 2, 3):
        images = batch(num_images)
        torch.testing.assert_close(made.run(two, images), two.module(images), rtol=0, atol=EXACT)
    assert recorder.replayed == [1]


def test_as_much_memory_as_allowed_is_not_too_much(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder(num_bytes=10)
    recorded_by(recorder, variant(), max_bytes=40)
    assert [size for _, size in recorder.recorded] == [1, 2, 4, 6]
    assert not caplog.records


def test_a_variant_that_cannot_be_recorded_runs_eagerly(
    caplog: pytest.LogCaptureFixture,
) -> None:
    recorder, one, two = Recorder(), variant(1), variant(2)
    recorder.fails = lambda module, size: (
        torch.AcceleratorError("no") if module is one.module and size >= 2 else None
    )
    made = recorded_by(recorder, one, two)
    assert [size for module, size in recorder.recorded if module is one.module] == [1]
    assert [size for module, size in recorder.recorded if module is two.module] == [1, 2, 4, 6]
    (line,) = caplog.records
    assert (line.message, line.levelno) == ("no graph", logging.WARNING)
    said = {name: vars(line)[name] for name in ("model", "method", "r", "batch_size", "error")}
    assert said == {
        "model": "model",
        "method": "rapid",
        "r": 1,
        "batch_size": 2,
        "error": "AcceleratorError",
    }
    images = batch(4)
    assert torch.equal(made.run(one, images), one.module(images))
    assert recorder.replayed == []
    made.run(two, images)
    assert recorder.replayed == [4]


def test_out_of_memory_ends_the_recording_and_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    recorder, one, two = Recorder(), variant(1), variant(2)
    recorder.fails = lambda _, size: torch.OutOfMemoryError("too much") if size == 4 else None
    made = recorded_by(recorder, one, two)
    assert [size for _, size in recorder.recorded] == [1, 1, 2, 2]
    assert [(line.message, vars(line)["error"]) for line in caplog.records] == [
        ("no graph", "OutOfMemoryError")
    ]
    images = batch(4)
    assert torch.equal(made.run(one, images), one.module(images))
    made.run(two, batch(2))
    assert recorder.replayed == [2]


def test_only_a_gpu_with_memory_for_it_records() -> None:
    one = Threads(1, 1)
    gpu = choose("cuda", "auto", "float32")
    assert prepare(CPU, one, max_bytes=2**30) is None
    assert prepare(gpu, one, max_bytes=0) is None
    assert isinstance(prepare(gpu, one, max_bytes=1), Graphs)  # the device is not touched yet


@pytest.mark.anyio
async def test_an_engine_replays_what_it_has_recorded() -> None:
    recorder, one = Recorder(), variant()
    made = Graphs(recorder, CPU.device, max_bytes=100)
    engine = Engine(CPU, num_threads=1, prepared=made)
    await engine.capture([one], SIZE, MAX_BATCH_SIZE)
    first, second = batch(3), batch(4)
    rows = [await engine.forward(one, list(images)) for images in (first, second)]
    engine.close()
    assert recorder.replayed == [4, 4]
    for found, images in zip(rows, (first, second), strict=True):
        torch.testing.assert_close(torch.stack(found), one.module(images), rtol=0, atol=EXACT)


@pytest.mark.anyio
async def test_warm_up_tiers_are_recorded_before_the_service_is_ready(
    app_client: AppClient, owl: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    wanted: list[int] = []

    def prepare(placement: Placement, _: Threads, *, max_bytes: int) -> Graphs:
        wanted.append(max_bytes)
        return Graphs(recorder, placement.device, max_bytes=max_bytes)

    settings = {"max_batch_size": 3, "graph_memory_mib": 7, "probe_interval_s": 0}
    async with app_client(**settings) as client:
        url = "/v1/classify?top_k=10&tier="
        eager = {tier: (await client.post(url + tier, content=owl)).json() for tier in TIERS}
    monkeypatch.setattr(device, "prepare", prepare)
    async with app_client(warmup_tiers=("exact", "turbo"), **settings) as client:
        assert [size for _, size in recorder.recorded] == [1, 1, 2, 2, 3, 3]
        recorder.replayed.clear()
        for tier in TIERS:
            found = (await client.post(url + tier, content=owl)).json()
            assert found["predictions"] == eager[tier]["predictions"], tier
    assert wanted == [7 * 2**20]
    recorded = {eager[tier]["r"] for tier in ("exact", "turbo")}
    num_recorded = sum(answer["r"] in recorded for answer in eager.values())
    assert 2 <= num_recorded < len(TIERS)
    assert recorder.replayed == [1] * num_recorded


@pytest.mark.anyio
async def test_without_graphs_an_engine_runs_eagerly() -> None:
    engine, one, images = Engine(CPU, num_threads=1), variant(), batch(2)
    await engine.capture([one], SIZE, MAX_BATCH_SIZE)
    assert torch.equal(torch.stack(await engine.forward(one, list(images))), one.module(images))
    engine.close()
