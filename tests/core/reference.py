"""A slow and obvious second implementation of token reduction, to compare the real one with.

Plain Python floats and loops over images, heads and tokens. The model's own modules are called for
what is not under test (embedding, linear layers, norms, MLP), one token at a time; attention,
scores, choices and merging are written out, here and in ``reference_methods``, and share no code
with ``rapid_core``.

A token is a value, a size and the input patches it holds::

    block:  x + attention → choose tokens → drop or merge them → x + MLP

Source of the attention with sizes: Bolya et al. 2023 (Token Merging) section 3.2.
"""

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .reference_cells import merge_flat_cells
from .reference_methods import Seen, look_through, reduce, wanted
from .reference_tokens import (
    Matrix,
    Options,
    Token,
    Vector,
    dot,
    row,
    softmax,
    weighted_mean,
    weighted_sum,
)


class Attended(NamedTuple):
    """What one attention pass gives: the output of each token, its key, and who looks at it."""

    out: Matrix  # [token][channel]
    keys: Matrix  # [token][head channel], mean over heads
    probs: Matrix  # [query][key], mean over heads


class Answer(NamedTuple):
    """The result for one image; lists over blocks describe the tokens after that block."""

    logits: Tensor  # (K,)
    sizes: list[Vector]  # [block][token], prefix tokens first
    assignments: list[list[int]]  # [block][input patch] -> token position, prefix counted; -1 gone


def forward(model: nn.Module, images: Tensor, options: Options) -> Tensor:
    """Logits (B, K) of a timm VisionTransformer that reduces its tokens."""
    return torch.stack([run(model, image, options).logits for image in images])


@torch.no_grad()
def run(model: nn.Module, image: Tensor, options: Options) -> Answer:
    """One image (3, S, S), float64, from pixels to logits."""
    num_blocks, num_prefix = len(model.blocks), model.num_prefix_tokens
    tokens = embed(model, image)
    num_patches = len(tokens) - num_prefix
    if options.flat_cells:
        tokens = merge_flat_cells(model, image, tokens, options.flat_cells)
    asked = wanted(options, num_blocks)
    sizes, assignments = [], []
    for layer, block in enumerate(model.blocks):
        attended = attend(block.attn, [row(block.norm1, token.x) for token in tokens], tokens)
        tokens = residual(tokens, [row(block.ls1, out) for out in attended.out])
        if options.method == "attention_rollout":
            sights = look_through(tokens, attended.probs)
            tokens = [replace(t, sight=sight) for t, sight in zip(tokens, sights, strict=True)]
        num_removed = min(asked[layer], (len(tokens) - num_prefix) // 2)
        if num_removed > 0:
            cls = model.has_class_token
            importance = received(attended.probs, has_class_token=cls)
            seen = Seen(tokens, attended.keys, importance, num_prefix, cls, layer, num_blocks)
            tokens = reduce(seen, num_removed, options)
        outputs = [row(block.ls2, row(block.mlp, row(block.norm2, token.x))) for token in tokens]
        tokens = residual(tokens, outputs)
        sizes.append([token.size for token in tokens])
        assignments.append([position_of(patch, tokens) for patch in range(num_patches)])
    return Answer(head(model, tokens), sizes, assignments)


def residual(tokens: list[Token], outputs: Matrix) -> list[Token]:
    """Add to each token what a layer made of it."""
    return [
        replace(token, x=[a + b for a, b in zip(token.x, output, strict=True)])
        for token, output in zip(tokens, outputs, strict=True)
    ]


def position_of(patch: int, tokens: list[Token]) -> int:
    """Where the token is that holds an input patch; -1 if there is none."""
    for position, token in enumerate(tokens):
        if patch in token.patches:
            return position
    return -1


# The ends of the model


def embed(model: nn.Module, image: Tensor) -> list[Token]:
    """Prefix tokens, then one token for each patch, all of size 1."""
    values = model.norm_pre(model._pos_embed(model.patch_embed(image[None])))[0].tolist()
    num_prefix = model.num_prefix_tokens
    held = [frozenset[int]()] * num_prefix
    held += [frozenset({patch}) for patch in range(len(values) - num_prefix)]
    return [
        Token(x, 1.0, patches, position)
        for position, (x, patches) in enumerate(zip(values, held, strict=True))
    ]


def head(model: nn.Module, tokens: list[Token]) -> Tensor:
    """Final norm, pooling and classifier."""
    tokens = [replace(token, x=row(model.norm, token.x)) for token in tokens]
    if hasattr(model, "head_dist"):
        by_class, by_distillation = row(model.head, tokens[0].x), row(model.head_dist, tokens[1].x)
        logits = [(a + b) / 2 for a, b in zip(by_class, by_distillation, strict=True)]
    else:
        logits = row(model.head, row(model.fc_norm, pool(model, tokens)))
    return torch.tensor(logits, dtype=torch.float64)


def pool(model: nn.Module, tokens: list[Token]) -> Vector:
    """Class token, or the size-weighted mean (and the maximum) of the tokens that are pooled."""
    if model.global_pool == "token":
        return tokens[0].x
    if not model.pool_include_prefix:
        tokens = tokens[model.num_prefix_tokens :]
    if model.global_pool == "map":
        return attention_pool(model.attn_pool, tokens)
    largest = [max(channel) for channel in zip(*(token.x for token in tokens), strict=True)]
    mean = weighted_mean(tokens)
    if model.global_pool == "avg":
        return mean
    if model.global_pool == "max":
        return largest
    if model.global_pool == "avgmax":
        return [(a + b) / 2 for a, b in zip(mean, largest, strict=True)]
    raise ValueError(model.global_pool)


def attention_pool(pool: nn.Module, tokens: list[Token]) -> Vector:
    """One learnt query looks at all tokens; a key of size s counts s times."""
    assert pool.latent_len == 1
    num_heads, D = pool.num_heads, pool.head_dim
    query = row(pool.q, pool.latent[0, 0].tolist())
    kv = [row(pool.kv, token.x) for token in tokens]
    out: Vector = []
    for h in range(num_heads):
        q = row(pool.q_norm, query[h * D :][:D])
        keys = [row(pool.k_norm, line[h * D :][:D]) for line in kv]
        values = [line[(num_heads + h) * D :][:D] for line in kv]
        logits = [
            dot(q, key) / math.sqrt(D) + math.log(token.size)
            for key, token in zip(keys, tokens, strict=True)
        ]
        out += weighted_sum(softmax(logits), values)
    out = row(pool.proj, out)
    mlp = row(pool.mlp, row(pool.norm, out))
    return [a + b for a, b in zip(out, mlp, strict=True)]


# Attention


def attend(attn: nn.Module, inputs: Matrix, tokens: list[Token]) -> Attended:
    """Multi-head attention in which a key of size s counts s times (``+ log s``)."""
    num_heads, head_dim, num_tokens = attn.num_heads, attn.head_dim, len(inputs)
    queries, keys, values = ([[] for _ in range(num_heads)] for _ in range(3))  # [head][token]
    for x in inputs:
        qkv = row(attn.qkv, x)
        for h in range(num_heads):
            parts = [qkv[(part * num_heads + h) * head_dim :][:head_dim] for part in range(3)]
            queries[h].append(row(attn.q_norm, parts[0]))
            keys[h].append(row(attn.k_norm, parts[1]))
            values[h].append(parts[2])

    out: Matrix = [[] for _ in inputs]  # heads one after the other
    probs = [[0.0] * num_tokens for _ in inputs]
    for h in range(num_heads):
        for i in range(num_tokens):
            logits = [
                dot(queries[h][i], keys[h][j]) / math.sqrt(head_dim) + math.log(tokens[j].size)
                for j in range(num_tokens)
            ]
            p = softmax(logits)
            for j in range(num_tokens):
                probs[i][j] += p[j] / num_heads
            out[i] += [dot(p, channel) for channel in zip(*values[h], strict=True)]
    mean_keys = [
        [sum(keys[h][i][c] for h in range(num_heads)) / num_heads for c in range(head_dim)]
        for i in range(num_tokens)
    ]
    return Attended([row(attn.proj, row(attn.norm, o)) for o in out], mean_keys, probs)


def received(probs: Matrix, *, has_class_token: bool) -> Vector:
    """Importance of each token: the class token's attention to it, or everybody's on average."""
    if has_class_token:
        return probs[0]
    return [sum(line[j] for line in probs) / len(probs) for j in range(len(probs))]
