"""Layers through `torch.compile`, for as long as they are trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn


class CompiledLayers:
    """`with CompiledLayers(model.layers)(): ...`: inside, the layers' forward is compiled.

    Layers of one kind share what is compiled, so that depth costs no more time to compile, and
    shapes are symbolic, so that a batch of another size does not either. Parameters, their names
    and the layers outside of `with` are as they were: a model predicts and saves without it.
    """

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        self.layers = list(layers)
        self.forwards = [torch.compile(layer.forward, dynamic=True) for layer in self.layers]

    @contextmanager
    def __call__(self) -> Iterator[None]:
        for layer, forward in zip(self.layers, self.forwards, strict=True):
            layer.forward = forward
        try:
            yield
        finally:
            for layer in self.layers:
                del layer.forward


def tells_sizes_apart(sizes: Iterable[int]) -> bool:
    """Whether a batch of these sizes is one to compile on.

    torch takes sizes that are equal at first sight for the same one, and a 1 for a constant: it
    would compile again where they differ.
    """
    sizes = list(sizes)
    return min(sizes) > 1 and len(set(sizes)) == len(sizes)
