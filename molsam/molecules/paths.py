"""Shortest paths between the atoms of molecules."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rdkit import Chem

from molsam.molecules.rows import bonds_of, ends_of


def distances(mol: Chem.Mol) -> np.ndarray:
    """Shortest paths in bonds between all atoms, (V, V) int16; -1 between fragments."""
    V = mol.GetNumAtoms()
    return shortest_paths(np.array([V]), *bond_ends([mol])).reshape(V, V)


def bond_ends(mols: Sequence[Chem.Mol]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Twice the bonds of each molecule (N,), and both directions of every bond: `src`, `dst`."""
    ends = [np.array(ends_of(bonds_of(mol)), dtype=np.int32).reshape(2, -1) for mol in mols]
    both = np.concatenate([end for pair in ends for end in (pair, pair[::-1])], axis=1)
    return np.array([2 * pair.shape[1] for pair in ends]), *both


def shortest_paths(
    sizes: np.ndarray, edges: np.ndarray, src: np.ndarray, dst: np.ndarray
) -> np.ndarray:
    """The distances of N molecules, one V * V after another, int16; -1 between fragments.

    sizes, edges -> (N,) atoms and edges of each;  src, dst -> the ends within the molecule,
    each bond in both directions

    Molecules that need as many words of 64 bits for an atom walk together.
    """
    words = -(-sizes // 64)
    out = np.empty((sizes**2).sum(), dtype=np.int16)
    for width in np.unique(words).tolist():
        chosen = words == width
        here = np.repeat(chosen, edges)
        first = np.cumsum(sizes[chosen]) - sizes[chosen]
        shift = np.repeat(first, edges[chosen])
        near = _neighbours(src[here] + shift, dst[here] + shift, sizes[chosen].sum())
        out[np.repeat(chosen, sizes**2)] = _walk(sizes[chosen], first, near, width)
    return out


def _walk(sizes: np.ndarray, first: np.ndarray, near: np.ndarray, width: int) -> np.ndarray:
    """From all atoms outwards at once, a step a turn, with a bit for each pair.

    A pair at distance d is in `reached` from turn d on. Its k-th binary digit is that of the
    last turn, changed as often as the turn's own k-th digit changes from d on.
    """
    A = len(near[0])
    within = np.arange(A) - np.repeat(first, sizes)
    reached = np.zeros((A, width), dtype=np.uint64)
    reached.view(np.uint8)[np.arange(A), within >> 3] = 1 << (within & 7)
    digits: list[np.ndarray] = []
    turn, before = 0, np.zeros_like(reached)
    while not np.array_equal(reached, before):
        turn, before = turn + 1, reached
        digits += [np.zeros_like(reached)] * (turn.bit_length() - len(digits))
        for k in range((turn ^ (turn - 1)).bit_length()):
            digits[k] = digits[k] ^ reached
        reached = np.bitwise_or.reduce(reached[near], axis=0)
    real = np.arange(64 * width) < np.repeat(sizes, sizes)[:, None]
    d = np.zeros(real.sum(), dtype=np.int16)
    for k, digit in enumerate(digits):
        last = reached if turn >> k & 1 else 0
        d |= _bits(digit ^ last)[real].astype(np.int16) << k
    d[_bits(reached)[real] == 0] = -1
    return d


def _neighbours(src: np.ndarray, dst: np.ndarray, atoms: int) -> np.ndarray:
    """(most + 1, atoms) neighbours of each atom, the atom itself where there are no more."""
    order = np.argsort(src, kind="stable")
    src, dst = src[order], dst[order]
    degrees = np.bincount(src, minlength=atoms)
    places = np.arange(len(src)) - (np.cumsum(degrees) - degrees)[src]
    near = np.tile(np.arange(atoms), (degrees.max() + 1, 1))
    near[places, src] = dst
    return near


def _bits(words: np.ndarray) -> np.ndarray:
    return np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")
