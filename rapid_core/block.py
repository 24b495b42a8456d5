"""One transformer block, with the reduction between its attention and its MLP."""

from rapid_core.attention import attend
from rapid_core.methods import Planner
from rapid_core.reduction import apply_plan
from rapid_core.tokens import Tokens
from rapid_core.vit import Block


def run_block(block: Block, tokens: Tokens, num_removed: int, planner: Planner) -> Tokens:
    """Run one timm `Block` and remove `num_removed` tokens inside it.

    Args:
        block: all its own parts are used.
        tokens: N tokens.
        num_removed: R, 0 ... half of the patch tokens.
        planner: decides which.

    Returns:
        N - R tokens.
    """
    if num_removed == 0 and tokens.size is None:
        return Tokens(block(tokens.x))  # nothing of ours to do: the original, bit for bit
    attention = attend(block.attn, block.norm1(tokens.x), tokens.size)
    x = tokens.x + block.drop_path1(block.ls1(attention.output))
    tokens = Tokens(x, tokens.size)
    if num_removed > 0:
        tokens = apply_plan(tokens, planner(attention, num_removed))
    x = tokens.x + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens.x))))
    return Tokens(x, tokens.size)
