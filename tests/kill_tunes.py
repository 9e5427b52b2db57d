"""Studies of tiny recipes; and processes at them that die: `python kill_tunes.py FOLDER CASE...`.

Each stage of a case is a child of a process that has imported all and computed nothing.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import tiny
from kill_runs import die

from molsam import epochs, tuning
from molsam.spaces import Space
from molsam.tuning import Study, TrialProgress, best

TRIALS = 5
SPACE = Space().change(
    {
        "*": {},
        "optimizer.lr": {"low": 1e-4, "high": 1e-2, "log": True},
        "optimizer.gamma": [1.0, 0.5],
        "optimizer.rho_epochs": {"low": 1, "high": 4},
        "model.width": [8, 16],
    }
)


def tune(folder: Path, **choices: Any) -> Study:
    """The study that all tests are about, of five trials on two splits, unless `choices` differ."""
    defaults = {"trials": TRIALS, "repeats": 2, "space": SPACE, "out": folder}
    recipe, table = tiny.recipe(epochs=1), tiny.regression()
    return tuning.tune(
        choices.pop("recipe", recipe), choices.pop("table", table), **(defaults | choices)
    )


def outcome(study: Study) -> list[tuple[Any, ...]]:
    """What every trial chose and scored, in order."""
    return [
        (study.state(trial), trial.params, trial.user_attrs["fields"], study.scores(trial))
        for trial in study.trials
    ]


def in_training(trial: int) -> Callable[[TrialProgress], None]:
    """Die in the training of a trial, on its second split."""

    def listen(p: TrialProgress) -> None:
        if (p.trial, p.repeat) >= (trial, 1):
            die()

    return listen


def at_name() -> None:
    """Die in a trial that has just been taken and belongs to nobody yet."""
    set_user_attr = optuna.trial.Trial.set_user_attr

    def setting(trial: Any, key: str, value: Any) -> None:
        if trial.number == 2 and key == "worker":
            die()
        set_user_attr(trial, key, value)

    optuna.trial.Trial.set_user_attr = setting  # type: ignore[method-assign]


def at_choice() -> None:
    """Die with half of a trial's values chosen."""
    suggest_float = optuna.trial.Trial.suggest_float

    def suggesting(trial: Any, *how: Any, **where: Any) -> float:
        return die() if trial.number == 2 else suggest_float(trial, *how, **where)

    optuna.trial.Trial.suggest_float = suggesting  # type: ignore[method-assign]


def at_best() -> None:
    """Die once a trial is told, and before the best recipe is written."""
    best.to_toml = die


def at_failing() -> None:
    """Die half-way from the trial of a dead worker to the one that is queued in its place."""
    done = []

    def second(call: Callable[..., Any]) -> Callable[..., Any]:
        def calling(*how: Any, **where: Any) -> Any:
            done.append(call)
            return die() if len(done) == 2 else call(*how, **where)

        return calling

    for name in ("tell", "add_trial"):
        setattr(optuna.Study, name, second(getattr(optuna.Study, name)))


Stage = tuple[Callable[[], None], Callable[[TrialProgress], None] | None]


def nothing() -> None:
    pass


CASES: dict[str, list[Stage]] = {
    "in-training-twice": [(nothing, in_training(2)), (nothing, in_training(3))],
    "at-name": [(at_name, None)],
    "at-choice": [(at_choice, None)],
    "at-best": [(at_best, None)],
    "at-failing": [(nothing, in_training(2)), (at_failing, None)],
}


STORAGES = {"own": "", "journal": "{}/journal.log", "database": "sqlite:///{}/all.db"}


def main(folder: Path, names: list[str]) -> None:
    import sklearn.metrics  # noqa: F401
    import torch._dynamo  # noqa: F401

    from molsam import molecules

    epochs.find_spec = lambda name: None  # no files for TensorBoard, slower than training here
    molecules.featurize(molecules.parse("CCO"), "compt")
    tiny.regression()
    for name in names:
        if name == "shared":
            for where in STORAGES:
                share(folder / where, STORAGES[where].format(folder))
            continue
        for stage, (prepare, progress) in enumerate(CASES[name]):
            if ended(start(prepare, folder / name, progress=progress)) != signal.SIGKILL:
                sys.exit(f"{name}, stage {stage}, was not killed")


def share(folder: Path, storage: str) -> None:
    """One process makes the study and dies in a trial; then two end it side by side."""
    choices = {"trials": 8, "storage": storage or None}
    if ended(start(nothing, folder, progress=in_training(0), **choices)) != signal.SIGKILL:
        sys.exit(f"{folder.name} was not killed")
    if [ended(child) for child in [start(nothing, folder, **choices) for _ in "ab"]] != [0, 0]:
        sys.exit(f"{folder.name} did not end")


def start(prepare: Callable[[], None], folder: Path, **choices: Any) -> int:
    """A child at a study."""
    child = os.fork()
    if not child:
        prepare()
        tune(folder, **choices)
        os._exit(0)
    return child


def ended(child: int) -> int:
    """The signal that ended a child, 0 if none did, or -1 if it ended with an error."""
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
