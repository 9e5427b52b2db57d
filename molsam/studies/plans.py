"""Which studies there are: what is held in each, and what differs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..recipes import Recipe
from .rows import full_row_of, row_of

if TYPE_CHECKING:
    from ..runs import Run


class StudyError(ValueError):
    """A study that cannot be made: says why, and what to try."""


@dataclass(frozen=True)
class Study:
    """Which recipes are trained on which tasks.

    common -> changes of the default recipe that hold for all; variants -> those that differ;
    first_seed -> of the seeds, so that a choice may leave the splits alone that results stand on.
    """

    about: str
    tasks: tuple[str, ...]
    common: Mapping[str, Any]
    variants: Mapping[str, Mapping[str, Any]]
    first_seed: int = 0

    def recipe(self, task: str, variant: str) -> Recipe:
        """What is trained on `task`."""
        return keeping_the_best(self.change(Recipe(), variant))

    def change(self, recipe: Recipe, variant: str) -> Recipe:
        """`recipe` with what holds for all and what is the variant's own."""
        return recipe.change({**self.common, **self.variants[variant]})

    def row(self, run: Run) -> dict[str, Any]:
        """What the tables say of a run."""
        return row_of(run)


@dataclass(frozen=True, kw_only=True)
class Contest(Study):
    """A study on each task's own recipe, whose variants are scored beside one of them.

    reference -> that variant; lengths -> variant: epochs, as a multiple of the recipe's.

    Every variant is one model, trained to its last epoch, where sharpness is looked at once.
    """

    reference: str
    lengths: Mapping[str, float] = field(default_factory=dict)

    def recipe(self, task: str, variant: str) -> Recipe:
        recipe = self.change(Recipe.load(task), variant)
        epochs = max(1, round(self.lengths.get(variant, 1) * recipe.training.epochs))
        whole = {"epochs": epochs, "sharpness_every": epochs}
        alone = recipe.change({**whole, "members": 1, "gaussian_process": False})
        return keeping_the_best(alone)

    def row(self, run: Run) -> dict[str, Any]:
        return full_row_of(run)


def keeping_the_best(recipe: Recipe) -> Recipe:
    """`recipe`, trained to its last epoch, and the weights kept that validate best."""
    return recipe.change({"patience": recipe.training.epochs})


GRAPH_ALONE = {"data.descriptors": False, "data.fingerprints": False}
FAR = {"model.fading": 0.1}  # attention starts almost alike over the whole molecule
SMALL = {"model.width": 128, "model.depth": 2, **FAR, **GRAPH_ALONE}
ANCHORS = {
    f"{name}, beta {beta}, rho {rho}": {
        "normalize_anchor": name == "normalised",
        "beta": beta,
        "rho": rho,
    }
    for beta, rho in ((0.9, 0.02), (0.99, 0.02), (0.9, 0.002))
    for name in ("raw", "normalised")
}
PAPER = ("bbbp", "tox21", "sider", "clintox", "esol", "lipophilicity")
ADAM = {"optimizer.base": "adam", "optimizer.weight_decay": 0.0}
# One budget of epochs, and two of gradients: with half the epochs SAM takes as many as Adam, with
# twice the epochs Adam as many as SAM.
POLICIES: dict[str, dict[str, Any]] = {
    "adam": {"optimizer.name": "none"},
    "sam": {"optimizer.name": "sam"},
    "graphsam": {"optimizer.name": "graphsam"},
    "s2sam": {"optimizer.name": "s2sam"},
    "looksam": {"optimizer.name": "looksam", "reuse_interval": 8},
    "sam, half the epochs": {"optimizer.name": "sam"},
    "adam, twice the epochs": {"optimizer.name": "none"},
}


def optimizer_contest(model: str) -> Contest:
    """Table 1 of GraphSAM's paper with nothing but the optimizer changed, for one model."""
    return Contest(
        about=f"optimizers of {model} beside Adam, in equal epochs and in equal gradients",
        tasks=(*PAPER, "freesolv", "bace"),
        common={"model.name": model, **ADAM},
        variants=POLICIES,
        lengths={"sam, half the epochs": 0.5, "adam, twice the epochs": 2},
        reference="adam",
    )


STUDIES: dict[str, Study] = {
    "sharpness": Study(
        about="top Hessian eigenvalue along training, against the training loss",
        tasks=("freesolv",),
        common={
            "model.width": 64,
            "model.depth": 2,
            **FAR,
            **GRAPH_ALONE,
            "training.epochs": 60,
            "training.sharpness_every": 2,
            "optimizer.base": "adam",
            "optimizer.weight_decay": 0.0,
        },
        variants={
            "adam": {"optimizer.name": "none"},
            "sam": {"optimizer.name": "sam", "rho": 0.02},
            "graphsam": {"optimizer.name": "graphsam", "rho": 0.02},
        },
    ),
    "anchor": Study(
        about="the anchor of GraphSAM stored raw or normalised",
        tasks=("esol", "freesolv", "bbbp"),
        common={**SMALL, "training.epochs": 30, "diagnose_every": 10},
        variants=ANCHORS,
    ),
    "stand-in": Study(
        about="how far what stands in is from the true perturbation gradient",
        tasks=("bbbp",),
        common={
            **SMALL,
            "training.epochs": 30,
            "rho": 0.02,
            "normalize_anchor": True,
            "diagnose_every": 5,
        },
        variants={
            "graphsam": {"optimizer.name": "graphsam"},
            "graphsam, beta 0.99": {"optimizer.name": "graphsam", "beta": 0.99},
            "samk": {"optimizer.name": "samk"},
            "samone": {"optimizer.name": "samone"},
            "s2sam": {"optimizer.name": "s2sam"},
            "msam": {"optimizer.name": "msam"},
        },
    ),
    "levers": Study(
        about="what joins the readout, dropout, and the average of the weights",
        tasks=("freesolv", "esol", "bace"),
        common={
            "model.width": 64,
            "model.depth": 2,
            **FAR,
            "model.fingerprint_dropout": 0.5,
            "data.fingerprints": False,
            "training.epochs": 20,
            "data.fractions": (0.8, 0.19, 0.01),  # twice the rows to validate on, none to test
        },
        variants={
            "defaults": {},
            "fingerprints": {"fingerprints": True},
            "join dropout .3": {"join_dropout": 0.3},
            "fingerprints, join dropout .3": {"fingerprints": True, "join_dropout": 0.3},
            "dropout .1": {"dropout": 0.1},
            "average .98": {"average": 0.98},
            "average .99, constant rate": {"average": 0.99, "schedule": "constant"},
            "no descriptors": {"descriptors": False},
        },
        first_seed=1000,
    ),
    "defaults": Study(
        about="what the default recipe takes, at its full size",
        tasks=("esol", "clintox", "bace", "bbbp", "freesolv"),
        common={
            "model.width": 128,
            **FAR,
            "data.fingerprints": False,
            "data.fractions": (0.8, 0.19, 0.01),
        },
        variants={
            "width 128": {},
            "width 256": {"width": 256},
            "fingerprints, half dropped": {"fingerprints": True, "fingerprint_dropout": 0.5},
            "fingerprints, .8 dropped": {"fingerprints": True, "fingerprint_dropout": 0.8},
            "fingerprints, .9 dropped": {"fingerprints": True, "fingerprint_dropout": 0.9},
        },
        first_seed=1000,
    ),
    "fading": Study(
        about="how local attention is when training starts",
        tasks=("esol", "lipophilicity", "bace", "bbbp"),
        common={"model.width": 128, "data.fractions": (0.8, 0.19, 0.01)},
        variants={
            "fading 0.1": {"fading": 0.1},
            "fading 1": {"fading": 1.0},
            "fading 3": {"fading": 3.0},
        },
        first_seed=1000,
    ),
    "descriptors": Study(
        about="how descriptors are scaled: by their spread, or by size and rank",
        tasks=("freesolv", "clintox", "esol", "bbbp", "bace", "lipophilicity"),
        common={"data.fractions": (0.8, 0.19, 0.01)},
        variants={
            "robust": {"descriptor_scale": "robust"},
            "ranked": {"descriptor_scale": "ranked"},
        },
        first_seed=1000,
    ),
    "optimizers": optimizer_contest("compt"),
    "optimizers-graph-transformer": optimizer_contest("graph_transformer"),
    "ablations": Contest(
        about="the parts of GraphSAM, one changed at a time",
        tasks=("esol", "freesolv", "bbbp"),
        common={
            **ADAM,
            "optimizer.name": "graphsam",
            "rho": 0.01,
            "reuse_interval": "epoch",
            "normalize_anchor": False,
            "gamma": 1.0,
            "start": 0,
        },
        variants={
            "graphsam": {},
            "adam": {"optimizer.name": "none"},
            "rho 0.002": {"rho": 0.002},
            "rho 0.05": {"rho": 0.05},
            "rho 0.05, halved each epoch": {"rho": 0.05, "gamma": 0.5, "rho_epochs": 1},
            "anchor each step": {"reuse_interval": 1},
            "anchor every 10 steps": {"reuse_interval": 10},
            "anchor every 2 epochs": {"reuse_interval": "2 epochs"},
            "anchor once": {"reuse_interval": "never"},
            "normalised anchor": {"normalize_anchor": True},
            "last quarter": {"start": 0.75},
        },
        reference="graphsam",
    ),
}


def find(name: str) -> Study:
    """A study by name."""
    if name not in STUDIES:
        raise StudyError(f"no study {name!r}; there are {', '.join(STUDIES)}")
    return STUDIES[name]
