"""molsam's own Gaussian process without models beside it: what is left for them to add."""

from __future__ import annotations

import numpy as np

from ..gaussian_process import MOST_ROWS, GaussianProcess, Inputs
from ..splits import Split
from .problems import Problem, refuse_bare, too_many


def unserved(problem: Problem) -> str:
    """Why the process does not serve, "" where it does."""
    return too_many(problem, MOST_ROWS)


def gaussian_process(problem: Problem, split: Split, metric: str, seed: int) -> np.ndarray:
    """`GaussianProcess`, which has nothing to choose by the validation rows."""
    refuse_bare(problem, split.train)
    inputs, y = Inputs(problem.fingerprints, problem.descriptors), problem.y[split.train]
    return GaussianProcess.fit(inputs.take(split.train), y, problem.classes).predict(inputs)
