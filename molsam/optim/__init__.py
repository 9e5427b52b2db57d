"""Sharpness-aware optimizers around any torch optimizer; they know nothing of molecules.

A policy says *when* a true perturbation gradient `eps` is taken and *what* stands in otherwise:

    SAM                    every step                     -
    GraphSAM               anchor steps                   moving average of updating gradients

The perturbation itself (radius `rho`, one global norm), the gradient `omega` at the perturbed
weights and the step of the base optimizer are the same for all: `SharpnessAware`.
`RhoSchedule`, and `RhoDecay` under it, let `rho` decay from epoch to epoch.
"""

from .graphsam import GraphSAM, RhoDecay, RhoSchedule
from .sam import SAM
from .sharpness import Direction, SharpnessAware

__all__ = ["SAM", "Direction", "GraphSAM", "RhoDecay", "RhoSchedule", "SharpnessAware"]
