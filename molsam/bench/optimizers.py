"""The sharpness-aware optimizers beside Adam: speed, gradients and memory."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .. import molecules
from ..batches import Batch, PackedMolecules, training_batches
from ..environment import pick_device
from ..losses import LOSSES
from ..models import MODELS
from ..optim import SharpnessAware
from ..recipes import OptimizerConfig, Recipe
from .inputs import random_molecules
from .racing import Entrant, Told, machine, race, rate, ratios, take_turns

# Each optimizer, when it takes a true perturbation gradient, and the fields of its recipe.
OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Adam": ("never", {"name": "none"}),
    "GraphSAM": ("each epoch", {"name": "graphsam", "reuse_interval": "epoch"}),
    "SAMOne": ("first step", {"name": "samone"}),
    "S2SAM": ("first step", {"name": "s2sam"}),
    "MSAM": ("never", {"name": "msam"}),
    "SAMk": ("each 8th", {"name": "samk", "reuse_interval": 8}),
    "LookSAM": ("each 8th", {"name": "looksam", "reuse_interval": 8}),
    "RST": ("half", {"name": "rst", "probability": 0.5}),
    "AESAM": ("if unusual", {"name": "aesam"}),
    "SAM": ("every step", {"name": "sam"}),
    "ASAM": ("every step", {"name": "asam"}),
}
STEPS = 51  # of an epoch: 80 % of BBBP in batches of 32


class Trainee(Entrant):
    """An optimizer in the race, with a model of its own."""

    def __init__(
        self,
        name: str,
        choices: OptimizerConfig,
        model: nn.Module,
        optimizer: Optimizer,
        device: torch.device,
    ) -> None:
        super().__init__(name, device)
        self.choices, self.model, self.optimizer = choices, model, optimizer
        self.gradients = 0

    def start_round(self) -> None:
        super().start_round()
        self.choices.start_epoch(self.optimizer, epoch=0)  # a round, like an epoch, has its anchor

    def step(self, item: Batch) -> None:
        def closure() -> Tensor:
            self.gradients += 1
            self.optimizer.zero_grad()
            loss = LOSSES["bce"](self.model(item), item.y, item.label_mask)
            loss.backward()
            return loss

        self.optimizer.step(closure)  # type: ignore[arg-type]

    def forget(self) -> None:
        super().forget()
        self.gradients = 0


def compare_optimizers(
    *,
    rounds: int = 3,
    batch_size: int = 32,
    width: int = 256,
    depth: int = 4,
    device: str = "auto",
    progress: Told = lambda done: None,
) -> dict[str, Any]:
    """The speed of every optimizer of `OPTIMIZERS` as a ratio to Adam's, and its memory.

    A round is an epoch of CoMPT on BBBP-sized molecules with random labels. All optimizers start
    from the same weights and see the same batches. They take turns, in an order drawn anew for
    each, so that whatever else the machine does slows all alike. One turn goes before and is
    left out, for buffers and caches.

    rounds -> rounds of STEPS steps; the ratio of a round is one of total times.
    width, depth -> of CoMPT, as in a recipe.
    progress -> is told the rounds that are done.

    Returns what JSON can hold: the machine, the settings, and `rows`. Rates and ratios are medians
    over rounds, beside the lowest and the highest ratio; `gradients_per_step` are counted;
    `extra_bytes` is the memory that lasts from step to step beyond Adam's.
    """
    where = pick_device(device)
    recipe = Recipe().change(
        {
            "model.width": width,
            "model.depth": depth,
            "training.batch_size": batch_size,
            "data.fingerprints": False,
        }
    )
    generator = np.random.default_rng(0)
    packed = random_data(STEPS * batch_size, recipe.data.featurizer, generator).to(where)
    cuts = training_batches(packed.sizes.cpu().numpy(), batch_size, seed=0, epoch=0)
    batches = [packed.batch(cut) for cut in cuts]
    entrants = line_up(recipe, steps=rounds * len(batches), device=where)
    turns = take_turns(batches, where)
    race(entrants, turns, rounds, generator, progress)
    return {
        "bench": "optimizers",
        **machine(where),
        "settings": {
            "model": recipe.model.model_dump(),
            "parameters": sum(p.numel() for p in entrants[0].model.parameters()),
            "batch_size": batch_size,
            "steps": len(batches),
            "rounds": rounds,
        },
        "rows": [_row(e, entrants[0], len(packed), rounds * len(batches)) for e in entrants],
    }


def random_data(count: int, featurizer: str, generator: np.random.Generator) -> PackedMolecules:
    """Random molecules with random labels of one binary task."""
    mols = molecules.parse_many(random_molecules(count, generator)).mols
    return PackedMolecules.from_mols(mols, featurizer, generator.integers(0, 2, (count, 1)))


def line_up(recipe: Recipe, *, steps: int, device: torch.device) -> list[Trainee]:
    """Every optimizer around Adam, with its own copy of the recipe's model; Adam comes first."""
    kind = molecules.FEATURIZERS[recipe.data.featurizer]
    config = recipe.model.model_dump(exclude={"name"})
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        first = MODELS[recipe.model.name](kind.atom_size, kind.bond_size, 1, **config)
    entrants = []
    for name, (_, fields) in OPTIMIZERS.items():
        model = copy.deepcopy(first).to(device).train()
        fields = {"base": "adam", "weight_decay": 0.0, **fields}
        choices = recipe.change({f"optimizer.{k}": v for k, v in fields.items()}).optimizer
        optimizer = choices.build(model, steps=steps, seed=0)
        entrants.append(Trainee(name, choices, model, optimizer, device))
    return entrants


def _row(entrant: Trainee, adam: Trainee, count: int, steps: int) -> dict[str, Any]:
    found, policy = ratios(adam, entrant), entrant.optimizer
    return {
        "optimizer": entrant.name,
        "when": OPTIMIZERS[entrant.name][0],
        "molecules_per_second": rate(count, entrant),
        "ratio_to_adam": found["ratio"],
        "ratio_low": found["ratio_low"],
        "ratio_high": found["ratio_high"],
        "gradients_per_step": entrant.gradients / steps,
        "extra_bytes": policy.extra_bytes if isinstance(policy, SharpnessAware) else 0,
    }
