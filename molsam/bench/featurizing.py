"""Molecules to features: beside dgllife's own loop, and read in one process beside several."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import torch

from .. import datasets, molecules, reading
from ..batches import PackedMolecules
from .inputs import random_molecules
from .racing import Entrant, Told, machine, race, rate, ratios

if TYPE_CHECKING:
    from rdkit.Chem import Mol

FEATURIZERS = {  # name -> dgllife's classes of atoms and edges
    "canonical": ("CanonicalAtomFeaturizer", "CanonicalBondFeaturizer"),
    "attentivefp": ("AttentiveFPAtomFeaturizer", "AttentiveFPBondFeaturizer"),
    "weave": ("WeaveAtomFeaturizer", "WeaveEdgeFeaturizer"),
    "pagtn": ("PAGTNAtomFeaturizer", "PAGTNEdgeFeaturizer"),
}
CHECKED = 10


class Reader(Entrant):
    """A function of a few molecules, in a race."""

    def __init__(self, name: str, read: Callable[[list[Mol]], object]) -> None:
        super().__init__(name, torch.device("cpu"))
        self.read = read

    def take(self, turn: Sequence[list[str]]) -> None:
        """Read molecules that are new: RDKit keeps what was worked out of one, as its distances."""
        super().take([molecules.parse_many(smiles).mols for smiles in turn])

    def step(self, item: list[Mol]) -> None:
        self.read(item)


class Team(Entrant):
    """`reading.read` with so many processes."""

    def __init__(self, processes: int, descriptors: bool) -> None:
        super().__init__(f"{processes} processes", torch.device("cpu"))
        self.settings: dict[str, Any] = {"processes": processes, "descriptors": descriptors}

    def step(self, item: list[str]) -> None:
        reading.read(item, "compt", **self.settings)


def compare_featurizers(
    table: str | Path | None = None,
    *,
    rounds: int = 3,
    count: int = 200,
    featurizers: Sequence[str] = tuple(FEATURIZERS),
    progress: Told = lambda done: None,
) -> dict[str, Any]:
    """`molecules.featurize` and `PackedMolecules.from_mols` beside dgllife, on one thread.

    The molecules are already read. A quarter of them at a time goes to each, and one quarter
    before the first round, for the rows that molsam then looks up. Packing also computes the
    shortest paths, which dgllife leaves to its user. Then `reading.read` of four times as many
    texts, in one process and in one a core.

    table -> a file of molecules, drawn from without replacement; BBBP-sized random ones without.
    rounds, count -> rounds of `count` molecules.

    Returns what JSON can hold: the machine, the settings, `rows` with molecules a second and
    ratios to dgllife, and `reading` with ratios to one process, medians over rounds. Raises
    `ArithmeticError` where features differ.
    """
    generator = np.random.default_rng(0)
    smiles = draw(table, 4 * count, generator)
    few = smiles[:count]
    quarter = -(-len(few) // 4)
    turns = [[few[i : i + quarter]] for i in range(0, len(few), quarter)]
    with alone():
        where = machine(torch.device("cpu"))
        entrants = {name: line_up(name) for name in featurizers}
        mols = molecules.parse_many(few).mols
        for name in featurizers:
            check(name, mols[:CHECKED])
        flat = [entrant for trio in entrants.values() for entrant in trio]
        race(flat, turns, rounds, generator, progress)
    return {
        "bench": "featurize",
        **where,
        "settings": {
            "table": table and Path(table).name,
            "count": len(few),
            "rounds": rounds,
            "mean_atoms": float(np.mean([mol.GetNumAtoms() for mol in mols])),
        },
        "rows": [row for name, trio in entrants.items() for row in _rows(name, trio, len(few))],
        "reading": compare_processes(smiles, rounds, generator),
    }


def draw(table: str | Path | None, count: int, generator: np.random.Generator) -> list[str]:
    """SMILES that can be read: random ones, or at most `count` of a file."""
    if table is None:
        return random_molecules(count, generator)
    frame, column = datasets.read_frame(table)
    chosen = generator.permutation(len(frame))[:count]
    smiles = frame[column].iloc[chosen].tolist()
    return [smiles[i] for i in molecules.parse_many(smiles).index]


def compare_processes(
    smiles: list[str], rounds: int, generator: np.random.Generator
) -> list[dict[str, Any]]:
    """`reading.read` with one process a core beside one; the workers' start is timed apart.

    `worth` -> molecules from which on a start pays: those that save its seconds.
    """
    cores = joblib.cpu_count()
    start = -np.diff([_seconds(smiles[: 2 * reading.CHUNK], cores) for _ in range(2)])[0]
    teams = {d: (Team(1, d), Team(cores, d)) for d in (False, True)}
    flat = [team for pair in teams.values() for team in pair]
    race(flat, [[smiles]], rounds, generator, lambda done: None)
    rows = []
    for described, (one, many) in teams.items():
        rates = [rate(len(smiles), team) for team in (one, many)]
        saved = 1 / rates[0] - 1 / rates[1]
        rows.append(
            {
                "descriptors": described,
                "processes": cores,
                "molecules_per_second": rates[1],
                "one_process_molecules_per_second": rates[0],
                **ratios(one, many),
                "start_seconds": start,
                "worth": max(start, 0) / saved if saved > 0 else None,
            }
        )
    return rows


def _seconds(smiles: list[str], processes: int) -> float:
    began = time.perf_counter()
    reading.read(smiles, "compt", processes=processes)
    return time.perf_counter() - began


def line_up(name: str) -> tuple[Reader, Reader, Reader]:
    """dgllife's loop, `featurize` and packing, for the featurizer called `name`."""
    graph = dgllife_graphs(name)
    return (
        Reader("dgllife", lambda mols: [graph(mol) for mol in mols]),
        Reader("featurize", lambda mols: [molecules.featurize(mol, name) for mol in mols]),
        Reader("pack", lambda mols: PackedMolecules.from_mols(mols, name)),
    )


def dgllife_graphs(name: str) -> Callable[[Mol], Any]:
    """dgllife's way from a molecule to a DGLGraph; the atoms are in canonical order as they are."""
    utils = molecules.dgllife("utils")
    atoms, edges = (getattr(utils, part) for part in FEATURIZERS[name])
    complete = molecules.FEATURIZERS[name].complete
    make = utils.mol_to_complete_graph if complete else utils.mol_to_bigraph
    keywords: dict[str, Any] = {
        "node_featurizer": atoms(),
        "edge_featurizer": edges(),
        "add_self_loop": complete,
        "canonical_atom_order": False,
    }
    return lambda mol: make(mol, **keywords)


def check(name: str, mols: Sequence[Mol]) -> None:
    """Refuse a race between features that are not the same bits."""
    graph_of = dgllife_graphs(name)
    for mol in mols:
        graph, ours = graph_of(mol), molecules.featurize(mol, name)
        edges = torch.stack(graph.edges()).numpy()
        order = np.lexsort(edges[::-1])
        same = (
            np.array_equal(graph.ndata["h"].numpy(), ours.atoms)
            and np.array_equal(edges[:, order], np.stack([ours.src, ours.dst]))
            and (not len(order) or np.array_equal(graph.edata["e"].numpy()[order], ours.bonds))
        )
        if not same:
            raise ArithmeticError(f"the features of {name} are not those of dgllife")


@contextmanager
def alone() -> Iterator[None]:
    """Torch on one thread, dgllife and RDKit without warnings; afterwards as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with molecules.BlockLogs(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(before)


def _rows(name: str, trio: tuple[Reader, Reader, Reader], count: int) -> list[dict[str, Any]]:
    plain, *ours = trio
    return [
        {
            "featurizer": name,
            "form": entrant.name,
            "molecules_per_second": rate(count, entrant),
            "dgllife_molecules_per_second": rate(count, plain),
            **ratios(plain, entrant),
        }
        for entrant in ours
    ]
