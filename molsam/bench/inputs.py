"""Molecules made up for benches, of the size of BBBP's or ESOL's: nothing has to be downloaded."""

from __future__ import annotations

import numpy as np

# Heavy atoms of BBBP's 2,039 readable molecules: mean 24.1, standard deviation 10.6, percentiles
# 5, 50 and 95 at 10, 23 and 39. A log-normal of that mean and deviation has 11, 22 and 44.
MEAN, DEVIATION = 24.1, 10.6
SMALLEST, LARGEST = 4, 90

# ESOL's 1,128 molecules, likewise: mean 13.3, standard deviation 6.9, from 1 to 55.
ESOL = {"mean": 13.3, "deviation": 6.9, "smallest": 1, "largest": 55}

# Pieces of SMILES that stand in a row in any order, with their heavy atoms.
BLOCKS = {
    "C": 1,
    "O": 1,
    "CC": 2,
    "C(C)": 2,
    "C(F)": 2,
    "C(=O)N": 3,
    "C(=O)O": 3,
    "C=C": 2,
    "N(C)C": 3,
    "S(=O)(=O)C": 4,
    "C(C(F)(F)F)": 5,
    "c1cc(Cl)c(cc1)": 7,
    "c1ccc(cc1)": 6,
    "c1ccc(nc1)": 6,
    "c1csc(n1)": 5,
    "C1CCN(CC1)": 6,
    "C1CC(CCC1)": 6,
    "C1CN(CCN1C)": 7,
    "c1ccc2cc(ccc2c1)": 10,
}


def random_molecules(
    count: int,
    generator: np.random.Generator,
    *,
    mean: float = MEAN,
    deviation: float = DEVIATION,
    smallest: int = SMALLEST,
    largest: int = LARGEST,
) -> list[str]:
    """SMILES of `count` molecules that RDKit reads, made of common groups and rings.

    Heavy atoms are drawn from a log-normal distribution, cut off at `smallest` and `largest`.
    """
    variance = np.log1p((deviation / mean) ** 2)
    drawn = generator.lognormal(np.log(mean) - variance / 2, variance**0.5, count)
    sizes = drawn.round().clip(smallest, largest).astype(int)
    return [_random_molecule(int(size), generator) for size in sizes]


def _random_molecule(size: int, generator: np.random.Generator) -> str:
    text = ""
    while size:
        fitting = _FITTING[min(size, len(_FITTING) - 1)]
        block = fitting[int(generator.random() * len(fitting))]
        text += block
        size -= BLOCKS[block]
    return text


_FITTING = [
    [block for block, atoms in BLOCKS.items() if atoms <= size]
    for size in range(max(BLOCKS.values()) + 1)
]
