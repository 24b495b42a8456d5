"""Where every input patch goes, against the reference."""

from typing import Any

import pytest
import torch

import rapid_core

from .reference import Options, run
from .tiny import random_images, tiny_vit


@pytest.mark.parametrize(
    "reduction",
    [
        {"r": 0},
        {"r": 3},
        {"r": 99},
        {"r": 3, "method": "tome"},
        {"r": [0, 5, 0, 2], "num_prune_blocks": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "overrides",
    [{}, {"reg_tokens": 3}, {"distilled": True}, {"global_pool": "avg", "class_token": False}],
    ids=str,
)
def test_every_patch_is_where_the_reference_puts_it(
    overrides: dict[str, Any], reduction: dict[str, Any]
) -> None:
    model = tiny_vit(**overrides)
    images = random_images(model)
    reduced = rapid_core.patch(model, **reduction)
    trace = rapid_core.trace(reduced, images)
    torch.testing.assert_close(trace.logits, reduced(images), rtol=0, atol=1e-12)
    answers = [run(model, image, Options(**reduction)) for image in images]
    for layer, assignment in enumerate(trace.assignment):
        assert assignment.tolist() == [answer.assignments[layer] for answer in answers]
    assert len(trace.assignment) == len(model.blocks)
