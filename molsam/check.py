"""Invariances a molecular model should have, as assertions for tests of any model.

Each raises AssertionError with the largest difference it met.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from .batches import PackedMolecules


def assert_batch_independent(
    model: nn.Module, packed: PackedMolecules, *, tolerance: float = 1e-5
) -> None:
    """A molecule's prediction is the same alone and in the company of all the others."""
    together = _outputs(model, packed, [range(len(packed))])
    alone = _outputs(model, packed, [[i] for i in range(len(packed))])
    _assert_close(together, alone, tolerance, "alone and in company")


def assert_padding_independent(
    model: nn.Module, packed: PackedMolecules, *, extra: int = 7, tolerance: float = 1e-5
) -> None:
    """A batch's predictions do not depend on how far it is padded."""
    batch = packed.batch(range(len(packed)))
    wider = batch.pad(batch.mask.shape[1] + extra)
    with torch.inference_mode():
        plain, padded = model.eval()(batch), model(wider)
    _assert_close(plain, padded, tolerance, f"with {extra} more padding")


def assert_spelling_invariant(
    predict: Callable[[list[str]], np.ndarray],
    smiles: Iterable[str],
    *,
    spellings: int = 10,
    seed: int = 0,
    tolerance: float = 1e-5,
) -> None:
    """Random spellings of a molecule get the prediction of the molecule.

    predict -> a function from a list of SMILES to an array with one row per molecule.
    """
    from .molecules import random_spellings

    for text in smiles:
        every = [text, *random_spellings(text, spellings, seed)]
        values = torch.from_numpy(np.array(predict(every), dtype=np.float64))
        _assert_close(values, values[:1].expand_as(values), tolerance, f"of {text} spelt otherwise")


@torch.inference_mode()
def _outputs(model: nn.Module, packed: PackedMolecules, parts: Sequence[Sequence[int]]) -> Tensor:
    model.eval()
    return torch.cat([model(packed.batch(list(part))) for part in parts])


def _assert_close(a: Tensor, b: Tensor, tolerance: float, what: str) -> None:
    worst = float((a - b).abs().max())
    if not worst <= tolerance:
        raise AssertionError(f"predictions {what} differ by {worst:.2g}, more than {tolerance:g}")
