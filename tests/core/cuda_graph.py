"""A CUDA graph of a module, for tests on a GPU."""

import torch
from torch import Tensor, nn


def recorded(module: nn.Module, images: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """A graph that reads these images, and the logits that a replay writes."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        module(images)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = module(images)
    return graph, logits
