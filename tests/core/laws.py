"""What every method must keep to, whatever it decides; `test_laws.py` runs all of it on `METHODS`.

A law takes a request: the name of a method and its options. It raises if the method breaks it.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import rapid_core
from rapid_core import METHODS, InvalidScheduleError
from rapid_core.plans import FusePlan, MergePlan, Plan

from .tiny import ARCHITECTURES, BASE, random_images, tiny_vit

MODELS = ("plain", "dinov2", "average", "no_class_token")
"""Of each kind of importance, prefix and pooling, one."""
AMOUNTS: tuple[Any, ...] = (1, 3, 99, [2, 0, 5, 99], (3, -1.0))
MORE_OPTIONS: dict[str, list[dict[str, Any]]] = {
    "rapid": [{"num_prune_blocks": 4, "similarity_threshold": 0.1}, {"match_on": "token"}],
    "tome": [{"match_on": "token"}],
    "tofu": [{"num_prune_blocks": 0}],
    "patch_similarity": [{"diversity": 0.5}, {"diversity": 0.5, "at_input": True}],
}
"""Options worth a law that are no switch; switches are found by themselves."""

Request = dict[str, Any]
"""`method` and its options."""


def requests_of(method: str) -> Iterator[Request]:
    """A method as it is, with each of its switches turned, and with more options."""
    yield {"method": method}
    for option in fields(METHODS[method]):  # type: ignore[arg-type]
        if isinstance(option.default, bool):
            yield {"method": method, option.name: not option.default}
    for options in MORE_OPTIONS.get(method, []):
        yield {"method": method, **options}


def name_of(request: Request) -> str:
    """A short name for a test."""
    options = ",".join(f"{name}={value}" for name, value in request.items() if name != "method")
    return f"{request['method']}({options})"


class Observed(NamedTuple):
    """One forward of the blocks."""

    plans: list[Plan | None]
    """before the first block, and in each block"""
    counts: list[int]
    """tokens that enter the model, and that leave each of these places"""
    num_left: int
    """tokens that really leave the last block"""


def observe(reduced: nn.Module, images: Tensor) -> Observed:
    x = reduced.norm_pre(reduced._pos_embed(reduced.patch_embed(images)))
    plans: list[Plan | None] = []
    left = reduced.blocks.run(x, plans.append)
    counts = [x.shape[1]]
    for plan in plans:
        kept = counts[-1] if plan is None else plan.keep_idx.shape[1] + isinstance(plan, FusePlan)
        counts.append(kept)
    return Observed(plans, counts, left.x.shape[1])


@cache
def model_as(name: str, dtype: torch.dtype, device: str = "cpu") -> nn.Module:
    return copy.deepcopy(tiny_vit(**ARCHITECTURES[name])).to(device, dtype)


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    """The same but for the order of summation, in float64."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


# Parity


def removing_nothing_is_the_model_bit_for_bit(request: Request) -> None:
    for name in MODELS:
        for dtype in (torch.float32, torch.float64):
            model = model_as(name, dtype)
            images = random_images(model).to(dtype)
            for r in (0, [0] * len(model.blocks)):
                assert torch.equal(rapid_core.patch(model, r=r, **request)(images), model(images))


def an_image_alone_equals_it_in_a_batch(request: Request) -> None:
    for name in MODELS:
        model = tiny_vit(**ARCHITECTURES[name])
        images = random_images(model, 5)
        reduced = rapid_core.patch(model, r=3, **request)
        alone = torch.cat([reduced(image[None]) for image in images])
        assert_same(reduced(images), alone)
        assert_same(reduced(images.flip(0)).flip(0), alone)


def an_image_without_meaning_harms_only_itself(request: Request) -> None:
    images = random_images(tiny_vit())
    reduced = rapid_core.patch(tiny_vit(), r=3, **request)
    broken = torch.stack([torch.full_like(images[0], float("nan")), images[1]])
    logits = reduced(broken)
    assert logits[0].isnan().all()
    assert_same(logits[1], reduced(images)[1])


def the_prefix_alone_gives_the_same_logits(request: Request) -> None:
    for name in ("plain", "dinov2", "distilled"):
        model = tiny_vit(**ARCHITECTURES[name])
        images = random_images(model)
        whole = rapid_core.patch(model, r=4, **request)(images)
        short = rapid_core.patch(model, r=4, prefix_only=True, **request)(images)
        torch.testing.assert_close(short, whole, rtol=0, atol=1e-10)


# Numbers of tokens


def as_many_tokens_go_as_the_plan_says_and_at_most_half(request: Request) -> None:
    for name in MODELS:
        model = tiny_vit(**ARCHITECTURES[name])
        P = model.num_prefix_tokens
        for r in AMOUNTS:
            reduced = rapid_core.patch(model, r=r, **request)
            observed = observe(reduced, random_images(model))
            wanted = reduced.blocks.reduction.num_removed
            assert len(wanted) == len(observed.plans) == len(model.blocks) + 1
            left = model.patch_embed.num_patches
            expected = [P + left]
            for number in wanted:
                left -= min(number, left // 2)
                expected.append(P + left)
            assert observed.counts == expected
            assert observed.num_left == expected[-1]


def a_higher_r_leaves_fewer_tokens(request: Request) -> None:
    images = random_images(tiny_vit())
    left = [
        observe(rapid_core.patch(tiny_vit(), r=r, **request), images).num_left for r in (0, 1, 3)
    ]
    assert left == sorted(set(left), reverse=True)


def hardly_any_patches_are_no_problem(request: Request) -> None:
    for num_patches in (1, 2, 3, 4):
        model = tiny_vit(img_size=(8, 8 * num_patches))
        logits = rapid_core.patch(model, r=2, **request)(random_images(model, 3))
        assert logits.isfinite().all()


def prefix_tokens_stay_in_front_and_no_token_is_used_twice(request: Request) -> None:
    for name in (*MODELS, "distilled"):
        model = tiny_vit(**ARCHITECTURES[name])
        P = model.num_prefix_tokens
        for r in AMOUNTS:
            observed = observe(rapid_core.patch(model, r=r, **request), random_images(model))
            for plan, num_tokens in zip(observed.plans, observed.counts[:-1], strict=True):
                if plan is None:
                    continue
                assert plan.keep_idx[:, :P].tolist() == [list(range(P))] * 2
                for line in _tokens_used(plan).tolist():
                    assert len(set(line)) == len(line)
                    assert set(line) <= set(range(num_tokens))
                if isinstance(plan, MergePlan):
                    assert plan.dst_idx.min() >= P
                    assert plan.dst_idx.max() < plan.keep_idx.shape[1]


def _tokens_used(plan: Plan) -> Tensor:
    """(B, M), the tokens that are kept, merged or fused."""
    if isinstance(plan, MergePlan | FusePlan):
        return torch.cat([plan.keep_idx, plan.src_idx], dim=1)
    return plan.keep_idx


def every_patch_is_in_a_token_or_gone_for_good(request: Request) -> None:
    for name in MODELS:
        model = tiny_vit(**ARCHITECTURES[name])
        images = random_images(model)
        for r in AMOUNTS:
            reduced = rapid_core.patch(model, r=r, **request)
            counts = observe(reduced, images).counts[2:]
            logits, assignment = rapid_core.trace(reduced, images)
            assert torch.equal(logits, reduced(images))
            assert len(assignment) == len(counts) == len(model.blocks)
            gone = torch.zeros_like(assignment[0], dtype=torch.bool)
            for place, num_tokens in zip(assignment, counts, strict=True):
                holders = set(range(model.num_prefix_tokens, num_tokens))
                assert all(set(line) - {-1} == holders for line in place.tolist())
                assert (place < 0)[gone].all()
                gone = place < 0


# Cost


def multiply_adds_are_those_of_the_tokens_left(request: Request) -> None:
    model, C = tiny_vit(), BASE["embed_dim"]
    for r in AMOUNTS:
        reduced = rapid_core.patch(model, r=r, **request)
        _, *counts = observe(reduced, random_images(model)).counts
        expected = 25 * 3 * 8 * 8 * C + C * BASE["num_classes"]
        for a, b in pairwise(counts):
            expected += 4 * a * C**2 + 2 * a**2 * C + 8 * b * C**2
        assert rapid_core.macs(reduced) == expected


def a_share_of_the_multiply_adds_is_kept_to(request: Request) -> None:
    model = tiny_vit()
    reduced = rapid_core.patch(model, macs_ratio=0.8, **request)
    assert 0.6 < rapid_core.macs(reduced) / rapid_core.macs(model) <= 0.8


# Devices and dtypes


def nothing_waits_for_the_device_and_no_shape_depends_on_data(request: Request) -> None:
    """Meta tensors have shapes and no data: whoever reads some, or mixes devices, fails."""
    for name in MODELS:
        model = model_as(name, torch.float32, "meta")
        for r in AMOUNTS:
            images = torch.empty(2, 3, *model.patch_embed.img_size, device="meta")
            logits = rapid_core.patch(model, r=r, **request)(images)
            assert logits.shape == (2, BASE["num_classes"])


def sixteen_bits_give_finite_logits(request: Request) -> None:
    for name in MODELS:
        for dtype in (torch.float16, torch.bfloat16):
            model = model_as(name, dtype)
            logits = rapid_core.patch(model, r=3, **request)(random_images(model).to(dtype))
            assert logits.dtype == dtype
            assert logits.isfinite().all()
        model = model_as(name, torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            logits = rapid_core.patch(model, r=3, **request)(random_images(model).float())
        assert logits.isfinite().all()


def flat_images_give_the_same_finite_logits_each_time(request: Request) -> None:
    """Without positions all patches are equal and all scores tie."""
    for positions in ("none", "learn"):
        reduced = rapid_core.patch(tiny_vit(pos_embed=positions), r=4, **request)
        images = torch.full((2, 3, 40, 40), 0.5, dtype=torch.float64)
        logits = reduced(images)
        assert logits.isfinite().all()
        assert torch.equal(logits, reduced(images))


# The model and the options


def weights_are_shared_and_the_model_stays_as_it_was(request: Request) -> None:
    model = tiny_vit()
    images = random_images(model)
    logits, original = model(images), model.state_dict()
    reduced = rapid_core.patch(model, r=3, **request)
    reduced(images)
    shared = reduced.state_dict()
    assert list(shared) == list(original)
    assert all(shared[key].data_ptr() == original[key].data_ptr() for key in original)
    assert torch.equal(model(images), logits)


def options_are_a_frozen_value(request: Request) -> None:
    name, options = request["method"], dict(request)
    del options["method"]
    one, other = (rapid_core.methods.create_method(name, options) for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)


def impossible_options_are_refused(request: Request) -> None:
    names = [option.name for option in fields(METHODS[request["method"]])]  # type: ignore[arg-type]
    for name in (*names, "no_such_option"):
        for value in ("text", float("nan"), [], object()):
            with pytest.raises(InvalidScheduleError):
                rapid_core.patch(tiny_vit(), r=1, **request | {name: value})


LAWS: tuple[Callable[[Request], None], ...] = (
    removing_nothing_is_the_model_bit_for_bit,
    an_image_alone_equals_it_in_a_batch,
    an_image_without_meaning_harms_only_itself,
    the_prefix_alone_gives_the_same_logits,
    as_many_tokens_go_as_the_plan_says_and_at_most_half,
    a_higher_r_leaves_fewer_tokens,
    hardly_any_patches_are_no_problem,
    prefix_tokens_stay_in_front_and_no_token_is_used_twice,
    every_patch_is_in_a_token_or_gone_for_good,
    multiply_adds_are_those_of_the_tokens_left,
    a_share_of_the_multiply_adds_is_kept_to,
    nothing_waits_for_the_device_and_no_shape_depends_on_data,
    sixteen_bits_give_finite_logits,
    flat_images_give_the_same_finite_logits_each_time,
    weights_are_shared_and_the_model_stays_as_it_was,
    options_are_a_frozen_value,
    impossible_options_are_refused,
)
