"""Which atoms a prediction stands on: a number for each, in the units of the prediction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from . import molecules, reading
from .batches import PackedMolecules
from .files import write_atomic, write_csv
from .gaussian_process import Inputs
from .inference import describe
from .runs import Run

if TYPE_CHECKING:
    import pandas as pd
    from rdkit.Chem import Mol

MOST_PAIRS = 1 << 20  # pairs of atoms in copies of a molecule that are computed at once
STEPS = 200  # of 50, a hundredth of the change may be missing; of these, less than a thousandth


class ExplainError(ValueError):
    """What cannot be explained: says why, and what to try."""


@dataclass(frozen=True)
class Explanation:
    """What each atom adds to a prediction.

    Attributes
    ----------
    mol : the molecule as it was read, its atoms in the order of `weights`.
    column : what was predicted, as `Run.columns` names it; with the class, where there are several.
    prediction : of that, by what the method explains.
    weights : (V,) in the units of the prediction.
    """

    mol: Mol
    column: str
    prediction: float
    weights: np.ndarray

    @property
    def smiles(self) -> str:
        """RDKit's canonical SMILES of the molecule."""
        return molecules.canonical_smiles(self.mol)

    def table(self) -> pd.DataFrame:
        """A row for each atom, in the order of `smiles`: its number from 1, element and weight."""
        import pandas as pd

        order = molecules.written_order(self.mol)
        symbols = [self.mol.GetAtomWithIdx(atom).GetSymbol() for atom in order]
        numbers = np.arange(1, len(order) + 1)
        return pd.DataFrame({"atom": numbers, "element": symbols, "weight": self.weights[order]})

    def svg(self) -> str:
        """The molecule over a map of its weights: green raises the prediction, pink lowers it."""
        return molecules.draw_weights(self.mol, self.weights, svg=True).decode()

    def png(self) -> bytes:
        """The same picture in pixels."""
        return molecules.draw_weights(self.mol, self.weights, svg=False)

    def save(self, path: str | Path) -> None:
        """Write the picture, .svg or .png, or the table, .csv."""
        path = Path(path)
        if path.suffix == ".svg":
            write_atomic(path, self.svg().encode())
        elif path.suffix == ".png":
            write_atomic(path, self.png())
        elif path.suffix == ".csv":
            write_csv(path, self.table())
        else:
            raise ExplainError(f"{path}: write to a .svg, .png or .csv file")


@dataclass(frozen=True)
class Subject:
    """One prediction for one molecule of V atoms, open to changes of what is read of the molecule.

    output -> (task,), or (task, class), an index into what is predicted of a molecule.
    """

    run: Run
    mol: Mol
    output: tuple[int, ...]

    @classmethod
    def of(cls, run: Run, smiles: str, task: str | None) -> Subject:
        data, tasks = run.recipe.data, list(run.info.tasks)
        mol = molecules.parse(smiles, salts=data.salts, charges=data.charges)
        if task is None and len(tasks) > 1:
            raise ExplainError(f"the run has several tasks; name one of {', '.join(tasks)}")
        if task is not None and task not in tasks:
            raise ExplainError(f"the run has no task {task!r}; it has {', '.join(tasks)}")
        t = tasks.index(task) if task is not None else 0
        if not run.info.classes:
            return cls(run, mol, (t,))
        mean, _ = run.predict_mols([mol])
        return cls(run, mol, (t, int(mean[0, t].argmax())))

    @property
    def column(self) -> str:
        """Name of what is predicted."""
        t, *c = self.output
        column = self.run.columns()[t]
        return f"{column} p({self.run.info.classes[c[0]]})" if c else column

    @cached_property
    def counts(self) -> np.ndarray:
        """(1, 2048) Morgan counts."""
        return reading.fingerprint_matrix([self.mol])

    @cached_property
    def environments(self) -> list[tuple[int, np.ndarray]]:
        return molecules.morgan_environments(self.mol)

    @cached_property
    def descriptors(self) -> np.ndarray | None:
        asked = self.run.recipe.data.asked(process=self.run.process is not None)
        return reading.descriptor_matrix([self.mol]) if asked["descriptors"] else None

    @cached_property
    def packed(self) -> PackedMolecules:
        """The molecule as models read it, on the device of the run."""
        run = self.run
        packed = PackedMolecules.from_mols([self.mol], run.recipe.data.featurizer)
        read = describe(packed, self.descriptors, self.counts, run.recipe.data, run.scalers)
        return read.to(run.device)

    def read(self, counts: np.ndarray) -> tuple[Tensor, ...]:
        """Morgan counts (K, 2048) as the models read them, if they do."""
        if not self.run.recipe.data.fingerprints:
            return ()
        return (torch.from_numpy(np.log1p(counts, dtype=np.float32)).to(self.run.device),)

    @property
    def at_once(self) -> int:
        """Copies of the molecule in a batch."""
        return max(1, MOST_PAIRS // self.mol.GetNumAtoms() ** 2)

    def models(self, atoms: Tensor, *counts: Tensor) -> Tensor:
        """(K,) the mean of the models for K copies, with gradients.

        atoms -> (K, V, Fa) features; counts -> (K, 2048) logarithms of Morgan counts, none where
        the models read none.
        """
        batch = self.packed.batch([0] * len(atoms))
        others = batch.descriptors.shape[1] - sum(part.shape[1] for part in counts)
        joined = torch.cat([batch.descriptors[:, :others], *counts], dim=1)
        batch = replace(batch, atoms=atoms.flatten(0, 1), descriptors=joined)
        # The GRU of cuDNN has gradients in training mode only.
        with torch.backends.cudnn.flags(enabled=False):
            return torch.stack([self._user(model(batch)) for model in self.run.models]).mean(0)

    def mixed(self, models: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """(K,) what the models predict of K copies, and the Gaussian process, if any, by its share.

        counts -> (K, 2048).
        """
        process = self.run.process
        if process is None:
            return models
        assert self.descriptors is not None
        alone = process.predict(Inputs(counts, self.descriptors.repeat(len(counts), axis=0)))
        return (1 - process.share) * models + process.share * alone[(slice(None), *self.output)]

    def explained(self, prediction: float, weights: np.ndarray) -> Explanation:
        """The weights of what this is about."""
        return Explanation(self.mol, self.column, float(prediction), weights)

    def _user(self, z: Tensor) -> Tensor:
        """(K,) the prediction in the user's units, as `inference.to_user`, of outputs (K, O)."""
        t, *c = self.output
        if c:
            return z.unflatten(-1, (len(self.run.info.tasks), -1))[:, t].softmax(-1)[:, c[0]]
        if self.run.info.kind == "binary":
            return z[:, t].sigmoid()
        scale = self.run.scalers.target
        return z[:, t] * float(scale.scale[t]) + float(scale.center[t])


def masked(subject: Subject) -> Explanation:
    """w_i = f(x) - f(x without atom i), with f the whole of the run.

    Without an atom: its features are 0, and the circular environments it stands in are not
    counted. Where it is in the molecule, and the descriptors of the whole, stay as they are.
    """
    atoms, counts = subject.packed.batch([0]).atoms, subject.counts[0]
    count = len(atoms)
    left = np.tile(counts.astype(np.int64), (count + 1, 1))  # the last copy is the molecule itself
    for bit, within in subject.environments:
        left[within, bit] -= 1
    kept = torch.ones(count + 1, count, 1, device=atoms.device)
    kept[range(count), range(count)] = 0
    logs = subject.read(left)
    with torch.no_grad():
        parts = [
            subject.models(atoms * kept[chosen], *(part[chosen] for part in logs))
            for chosen in torch.arange(count + 1).split(subject.at_once)
        ]
    found = subject.mixed(torch.cat(parts).double().cpu().numpy(), left)
    return subject.explained(found[-1], found[-1] - found[:-1])


def integrated_gradients(subject: Subject) -> Explanation:
    """w_i = sum_k (x_ik - x'_ik) int_0^1 df/dx_ik (x' + a (x - x')) da, f the models' mean.

    Sundararajan, Taly and Yan, ICML 2017, equation 1, by Captum. x -> the atoms' features and the
    logarithms of Morgan counts; x' -> 0 for both. What a count adds is shared out evenly among
    the environments it counts, and by each among its atoms. So the weights sum up to
    f(x) - f(x'), where x' has the molecule's bonds and descriptors. A Gaussian process is not
    explained: the prediction is that of the models.
    """
    from captum.attr import IntegratedGradients

    atoms = subject.packed.batch([0]).atoms[None]
    inputs = (atoms, *subject.read(subject.counts))
    found = IntegratedGradients(subject.models).attribute(
        inputs, n_steps=STEPS, internal_batch_size=subject.at_once
    )
    of_atoms, *of_counts = (part[0].double().cpu().numpy() for part in found)
    weights = of_atoms.sum(-1)
    for of_bit, (bit, within) in product(of_counts, subject.environments):
        weights[within] += of_bit[bit] / subject.counts[0, bit] / len(within)
    with torch.no_grad():
        prediction = float(subject.models(*inputs))
    return subject.explained(prediction, weights)


METHODS: dict[str, Callable[[Subject], Explanation]] = {
    "masking": masked,
    "gradients": integrated_gradients,
}


def explain(
    run: Run, smiles: str, *, task: str | None = None, method: str = "masking"
) -> Explanation:
    """What each atom of a molecule adds to what `run` predicts of it.

    task -> which of several; of several classes the likeliest is explained.
    method -> of `METHODS`: `masking` explains all of the run, `gradients` its models alone.

    Raises
    ------
    InvalidMolecule : the SMILES is no usable molecule.
    ExplainError : no such task or method, or several tasks and none named.
    """
    if method not in METHODS:
        raise ExplainError(f"no method {method!r}; there are {', '.join(METHODS)}")
    return METHODS[method](Subject.of(run, smiles, task))
