"""What patching does to a model: nothing. And which models and requests it refuses."""

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rapid_core
from rapid_core import InvalidScheduleError, RapidError, UnsupportedModelError
from service.models.timm_models import timm
from tests.waiting import PATIENCE_S

from .tiny import ARCHITECTURES, BASE, random_images, tiny_vit

vit = timm.models.vision_transformer


# One set of weights


@pytest.mark.parametrize("name", ["plain", "dinov2", "distilled", "average"])
def test_weights_are_shared_under_the_same_names(name: str) -> None:
    model = tiny_vit(**ARCHITECTURES[name])
    original = model.state_dict()
    shared = rapid_core.patch(model, r=3).state_dict()
    assert list(shared) == list(original)
    assert all(shared[key].data_ptr() == original[key].data_ptr() for key in original)


@pytest.mark.parametrize("name", ["plain", "distilled", "average"])
def test_the_given_model_is_untouched(name: str) -> None:
    model = tiny_vit(**ARCHITECTURES[name])
    images = random_images(model)
    before = photograph(model)
    logits = model(images)
    rapid_core.patch(model, r=3)(images)
    rapid_core.patch(model, r=99, method="tome")(images)
    assert photograph(model) == before
    assert torch.equal(model(images), logits)


def photograph(model: nn.Module) -> dict[str, Any]:
    """All that could change: modules, their types and attributes, and the weights' values."""
    return {
        name: (
            id(module),
            type(module),
            {key: id(value) for key, value in vars(module).items()},
            [(key, id(child)) for key, child in module._modules.items()],
            [(key, id(value), value.sum().item()) for key, value in module.named_parameters()],
        )
        for name, module in model.named_modules()
    }


def test_later_changes_of_the_weights_reach_every_patch() -> None:
    model = copy.deepcopy(tiny_vit())
    images = random_images(model)
    reduced = rapid_core.patch(model, r=3)
    model.load_state_dict(tiny_vit(seed=5).state_dict())
    expected = rapid_core.patch(tiny_vit(seed=5), r=3)(images)
    # Not bit for bit: rounding depends on where in memory the two copies of the weights lie.
    torch.testing.assert_close(reduced(images), expected, rtol=1e-6, atol=1e-6)


def test_patches_of_one_model_do_not_disturb_each_other(model: nn.Module, images: Tensor) -> None:
    requests: list[dict[str, Any]] = [
        {"r": 2},
        {"r": 5, "method": "tome"},
        {"r": [1, 2, 3, 4]},
        {"r": 2, "num_prune_blocks": 4},
    ]
    alone = [rapid_core.patch(model, **request)(images) for request in requests]
    together = [rapid_core.patch(model, **request) for request in requests]
    for _ in range(2):
        for reduced, expected in zip(reversed(together), reversed(alone), strict=True):
            assert torch.equal(reduced(images), expected)


@pytest.mark.parametrize("name", ["plain", "average"])
def test_patching_a_patched_model_replaces_its_schedule(name: str) -> None:
    model = tiny_vit(**ARCHITECTURES[name])
    images = random_images(model)
    twice = rapid_core.patch(rapid_core.patch(model, r=7, method="tome"), r=2)
    assert torch.equal(twice(images), rapid_core.patch(model, r=2)(images))
    back = rapid_core.patch(twice, r=0)
    assert torch.equal(back(images), model(images))


@pytest.mark.parametrize("name", ["plain", "average"])
def test_a_deep_copy_stands_on_its_own(name: str) -> None:
    model = copy.deepcopy(tiny_vit(**ARCHITECTURES[name]))
    images = random_images(model)
    reduced = rapid_core.patch(model, r=3)
    expected = reduced(images)
    twin = copy.deepcopy(reduced)
    for parameter in model.parameters():
        parameter.zero_()
    assert torch.equal(twin(images), expected)


def test_without_pooling_every_token_left_is_classified(model: nn.Module, images: Tensor) -> None:
    logits = rapid_core.patch(tiny_vit(global_pool=""), r=3)(images)
    assert logits.shape == (2, 26 - 4 * 3, 10)
    torch.testing.assert_close(logits[:, 0], rapid_core.patch(model, r=3)(images))


@pytest.mark.parametrize("name", ["plain", "average"])
def test_eight_threads_on_one_set_of_weights(name: str) -> None:
    model = tiny_vit(**ARCHITECTURES[name])
    images = random_images(model, 3)
    schedules = [0, 1, 2, 3, 5, 8, 99, [4, 0, 3, 0]]
    reduced = [rapid_core.patch(model, r=r) for r in schedules]
    expected = [one(images) for one in reduced]
    start = threading.Barrier(len(schedules))

    def forward(one: nn.Module) -> list[Tensor]:
        start.wait(timeout=PATIENCE_S)
        return [one(images) for _ in range(10)]

    with ThreadPoolExecutor(len(schedules)) as pool:
        answers = list(pool.map(forward, reduced))
    for logits, alone in zip(answers, expected, strict=True):
        for one in logits:
            torch.testing.assert_close(one, alone, rtol=0, atol=1e-12)


# What is refused


class Adapter(vit.Block):
    """A block with a part of its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.adapter = nn.Linear(BASE["embed_dim"], BASE["embed_dim"])

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return super().forward(x, *args, **kwargs) + self.adapter(x)


def build(**overrides: Any) -> Callable[[], nn.Module]:
    return lambda: vit.VisionTransformer(**BASE | overrides)


def checkpointed() -> nn.Module:
    model = build()()
    model.set_grad_checkpointing()
    return model


def with_attached(where: str, name: str, part: nn.Module | nn.Parameter) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        model = build()()
        setattr(model.get_submodule(where), name, part)
        return model

    return make


UNSUPPORTED: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "parallel": (
        build(block_fn=vit.ParallelScalingBlock),
        ["blocks.0", "ParallelScalingBlock"],
    ),
    "post_norm": (build(block_fn=vit.ResPostBlock), ["blocks.0", "ResPostBlock"]),
    "subclass": (build(block_fn=Adapter), ["blocks.0", "Adapter"]),
    "differential": (build(attn_layer="diff"), ["blocks.0.attn", "DiffAttention"]),
    "extra_child": (
        with_attached("blocks.2", "adapter", nn.Linear(32, 32)),
        ["blocks.2", "adapter"],
    ),
    "extra_gate": (
        with_attached("blocks.1.attn", "gate", nn.Linear(32, 32)),
        ["blocks.1.attn", "gate"],
    ),
    "extra_parameter": (
        with_attached("blocks.3", "gamma_1", nn.Parameter(torch.ones(32))),
        ["blocks.3", "gamma_1"],
    ),
    "prr_pooling": (build(global_pool="prr"), ["global_pool", "prr"]),
    "checkpointing": (checkpointed, ["checkpointing"]),
    "swin": (
        lambda: timm.create_model("swin_tiny_patch4_window7_224", depths=(1, 1, 1, 1)),
        ["SwinTransformer"],
    ),
    "rotary": (lambda: timm.create_model("eva02_tiny_patch14_224", depth=1), ["Eva", "rotary"]),
    "no_transformer": (lambda: nn.Linear(2, 2), ["Linear"]),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_a_model_that_cannot_be_reproduced_is_refused_by_name(name: str) -> None:
    make, words = UNSUPPORTED[name]
    with torch.device("meta"):
        model = make()
    for refuse in (lambda: rapid_core.patch(model, r=1), lambda: rapid_core.macs(model)):
        with pytest.raises(UnsupportedModelError) as refusal:
            refuse()
        for word in words:
            assert word in str(refusal.value)


INVALID: dict[str, dict[str, Any]] = {
    "negative": {"r": -1},
    "bool": {"r": True},
    "fraction": {"r": 2.5},
    "whole_float": {"r": 2.0},
    "none": {"r": None},
    "text": {"r": "1234"},
    "too_few": {"r": [1, 2, 3]},
    "too_many": {"r": [1, 2, 3, 4, 5]},
    "empty": {"r": []},
    "negative_inside": {"r": [1, 2, -3, 4]},
    "bool_inside": {"r": [1, 2, True, 4]},
    "float_inside": {"r": [1, 2, 3.0, 4]},
    "unknown_method": {"r": 1, "method": "pitome"},
    "no_method": {"r": 1, "method": None},
    "unknown_option": {"r": 1, "threshold": 0.7},
    "option_of_another_method": {"r": 1, "method": "tome", "similarity_threshold": 0.7},
    "nan_threshold": {"r": 1, "similarity_threshold": float("nan")},
    "infinite_threshold": {"r": 1, "similarity_threshold": float("-inf")},
    "text_threshold": {"r": 1, "similarity_threshold": "0.7"},
    "nan_weight": {"r": 1, "importance_weight": float("nan")},
    "infinite_weight": {"r": 1, "importance_weight": float("inf")},
    "nothing_on_top": {"r": 1, "importance_top": 0.0},
    "more_than_all_on_top": {"r": 1, "importance_top": 1.01},
    "nan_on_top": {"r": 1, "importance_top": float("nan")},
    "unknown_feature": {"r": 1, "match_on": "value"},
    "feature_of_tome": {"r": 1, "method": "tome", "match_on": "keys"},
    "no_feature": {"r": 1, "match_on": None},
    "negative_prune_blocks": {"r": 1, "num_prune_blocks": -1},
    "more_prune_blocks_than_blocks": {"r": 1, "num_prune_blocks": 5},
    "half_a_prune_block": {"r": 1, "num_prune_blocks": 1.5},
}


@pytest.mark.parametrize("name", INVALID)
def test_an_impossible_request_is_refused(model: nn.Module, name: str) -> None:
    with pytest.raises(InvalidScheduleError):
        rapid_core.patch(model, **INVALID[name])


def test_errors_are_one_family() -> None:
    assert issubclass(InvalidScheduleError, RapidError)
    assert issubclass(UnsupportedModelError, RapidError)
    assert issubclass(RapidError, Exception)
