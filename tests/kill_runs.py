"""Starts runs that die by SIGKILL at chosen places: `python kill_runs.py FOLDER`.

Each run is a child of a process that has imported all and computed nothing.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import tiny

from molsam import epochs, files, fit, fit_repeats, pictures, training
from molsam.epochs import Listener, Progress

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "graphsam": {"optimizer.name": "graphsam", "gamma": 0.8},
    "sam": {"optimizer.name": "sam"},
    "adamw": {"optimizer.name": "none"},
    "looksam": {"optimizer.name": "looksam", "reuse_interval": 4, "diagnose_every": 2},
    "aesam": {"optimizer.name": "aesam", "masks": "same", "sharpness_every": 2},
    "rst": {"optimizer.name": "rst", "start": 0.3},
}


def die(*_: Any) -> NoReturn:
    """End this process as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def at(epochs_done: float, member: int = 0) -> Listener:
    """Die when `member` has got that far."""

    def listen(p: Progress) -> None:
        if (p.member, p.epochs_done) >= (member, epochs_done):
            die()

    return listen


def in_checkpoint(folder: Path) -> None:
    """Die with half of the third checkpoint written."""
    replace, done = os.replace, []

    def replacing(partial: Path, path: Path) -> None:
        if path.name == epochs.CHECKPOINT:
            done.append(path)
            if len(done) == 3:
                Path(partial).write_bytes(Path(partial).read_bytes()[:100])
                die()
        replace(partial, path)

    files.os.replace = replacing  # type: ignore[assignment]


def between_checkpoint_and_weights(folder: Path) -> None:
    """Die where a checkpoint is a better epoch ahead of the weights."""
    epochs.save_weights = lambda folder, member: die() if member.epoch == 2 else None  # type: ignore[assignment]


def before_scores(folder: Path) -> None:
    """Die with all members trained and nothing scored."""
    training.metrics.score_all = die


def in_second_repeat(folder: Path) -> None:
    """Die in the second epoch of the second run."""
    tell = epochs.Trainer._tell

    def telling(trainer: epochs.Trainer, *where: Any) -> None:
        if trainer.run.info.seed == 1 and where[0].epoch == 1:
            die()
        tell(trainer, *where)

    setattr(epochs.Trainer, "_tell", telling)  # noqa: B010


@dataclass(frozen=True)
class Case:
    """A run and the place where it dies; `every` seconds a checkpoint is written."""

    recipe: dict[str, Any] = field(default_factory=dict)
    progress: Listener | None = None
    prepare: Callable[[Path], None] = lambda folder: None
    every: float = 0.0
    repeats: int = 1


CASES = {
    **{f"{name}-mid": Case(fields, at(1.5)) for name, fields in OPTIMIZERS.items()},
    **{f"{name}-between": Case(fields, at(2.0)) for name, fields in OPTIMIZERS.items()},
    "first-epoch": Case({}, at(0.5)),
    "rare-checkpoints": Case({}, at(2.5), every=1e9),
    "gru": Case({"readout": "gru"}, at(1.5)),
    "ensemble": Case({"members": 2}, at(1.5, member=1)),
    "average": Case({"average": 0.8, "fingerprints": True}, at(1.5)),
    "bfloat16": Case({"precision": "bfloat16", "model.name": "graph_transformer"}, at(1.5)),
    "in-checkpoint": Case({}, prepare=in_checkpoint),
    "before-weights": Case({}, prepare=between_checkpoint_and_weights),
    "before-scores": Case({}, prepare=before_scores),
    "repeats": Case({}, prepare=in_second_repeat, repeats=2),
}


def start(case: Case, folder: Path) -> None:
    """Train until death."""
    epochs.CHECKPOINT_SECONDS = case.every
    pictures.draw = lambda *_: None
    case.prepare(folder)
    recipe = tiny.recipe(**case.recipe)
    if case.repeats > 1:
        fit_repeats(recipe, tiny.regression(), case.repeats, out=folder, progress=case.progress)
    else:
        fit(recipe, tiny.regression(), out=folder, progress=case.progress)


def main(folder: Path) -> None:
    """Every case in a child of its own, which must not live on."""
    import sklearn.metrics  # noqa: F401
    import torch._dynamo
    import torch.utils.tensorboard  # noqa: F401

    from molsam import molecules

    molecules.featurize(molecules.parse("CCO"), "compt")
    tiny.regression()
    for name, case in CASES.items():
        child = os.fork()
        if not child:
            start(case, folder / name)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            sys.exit(f"{name} was not killed: status {status}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
